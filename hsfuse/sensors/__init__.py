"""Facts about sensors that readers, simulation and training share."""
