"""``python asmodule.py FOLDER MODULE [ARGUMENT]...``: ``python -m MODULE`` as if started in FOLDER.

A file, and plain Python 3: the user's interpreter may be another one, which knows nothing of hpcpools.
The working directory stays; what FOLDER does not hold is still found there.
"""

import os
import sys


def main() -> None:
    """Run the module as the main program."""
    folder, module = sys.argv[1:3]
    if sys.path[0] == __file__.rpartition("/")[0]:
        del sys.path[0]
    sys.path[0:0] = [folder, os.getcwd()]  # noqa: PTH109 - nothing is imported before the path is right
    sys.argv[:3] = [module]

    import runpy

    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
