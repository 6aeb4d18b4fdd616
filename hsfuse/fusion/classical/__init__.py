"""Fusion methods without training: interpolation, component substitution, multiresolution, unmixing."""
