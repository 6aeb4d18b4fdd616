"""Parts of ``hsfuse train-reduced``: the scenes that a network learns from."""
