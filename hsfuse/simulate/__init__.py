"""Simulated scenes in the true product formats."""
