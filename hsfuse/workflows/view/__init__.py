"""``hsfuse view``: a cube in the browser, beside what it was made of. Nothing here is reached from the network."""
