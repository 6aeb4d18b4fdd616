"""Parts of `hsfuse mosaic`."""
