"""The Python face: typed settings, errors in Python's words, xarray, reports and progress in notebooks."""
