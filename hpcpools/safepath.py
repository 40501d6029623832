"""``python -P -m MODULE`` for Python 3.10, which has no ``-P``: ``python …/safepath.py MODULE`` (SEC-13).

Python searches this file's folder first for modules; nothing is imported before that is undone.
"""

import sys

if __name__ == "__main__":
    del sys.path[0]
    import runpy

    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
