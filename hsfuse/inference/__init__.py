"""Tiled inference with bounded memory."""
