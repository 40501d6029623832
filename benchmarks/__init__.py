"""The benchmark suite: `make bench`; what it measures and how is told in docs/performance.md."""
