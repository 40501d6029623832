"""python -m hpcpools."""

from hpcpools.cli import main

main()
