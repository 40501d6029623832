"""A real Slurm cluster on one machine, with fake GPUs: the lab of the tests and of `make cluster-up`."""
