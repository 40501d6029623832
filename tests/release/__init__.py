"""Tests of what a user installs, and of the two commands that explain the rest."""
