"""Experts: estimates that the scene itself teaches, as differences to the maximum a posteriori estimate."""
