"""Parts of ``hsfuse coregister``: what it writes and shows."""
