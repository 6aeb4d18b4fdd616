"""The order of steps: what each command does."""
