"""Temporal partners: further dates of the multispectral image that show the same ground with noise of their own."""
