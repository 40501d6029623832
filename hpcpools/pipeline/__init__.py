"""Pipelines across both pools, and continuous evaluation: chains that live in files of the shared root.

Owns the definition of a pipeline, its record, and advancing it. Refuses Slurm's own dependencies: what
follows what is decided from our records only, so a purged or reused job id changes nothing.
"""
