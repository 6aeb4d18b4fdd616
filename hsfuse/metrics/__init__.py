"""Quality scores with and without a reference."""
