"""Slurm, seen from a login node: the only code that runs its commands or knows their output.

Builders of argv and parsers of answers are pure and come in pairs; ``command.Runner`` is the one effect.
"""
