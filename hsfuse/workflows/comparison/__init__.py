"""Parts of ``hsfuse compare``: the setting, the cubes and how they are judged."""
