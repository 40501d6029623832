"""The project's tests: a package, so that `tests.cluster` is ours and nobody else's."""
