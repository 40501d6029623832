"""The run directory: the durable truth of a run, read and written on login and compute nodes alike."""
