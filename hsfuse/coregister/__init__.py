"""Co-registration: a smooth displacement field with an error that was measured, and one resampling."""
