"""Networks. They see tensors only: no files, no products."""
