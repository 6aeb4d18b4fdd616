"""Fusion methods behind one interface."""
