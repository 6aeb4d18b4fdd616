"""Ground that the guide shows differently from the HSI: where it is, and what the guide should show instead."""
