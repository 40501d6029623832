"""Failures of both pools, grouped by what went wrong, and tried again group by group."""
