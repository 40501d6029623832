"""One command as a process of its own: `hpcpools`, and `python -m hpcpools`.

Owns what such a process need not pay for, and nothing of what the command does.
"""

import atexit
import gc
import os
import sys
import threading

# Objects between two collections; with the 700 of Python, `status` makes 44 of them. The pool sets it back.
YOUNG = 50_000


def run() -> None:
    """The console script: ``main``, without taking all modules apart at the end, a fifth of a short command.

    Where something may still have to be seen to, Python ends as ever.
    """
    gc.set_threshold(YOUNG)
    from hpcpools.cli import main

    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int) and threading.active_count() == 1 and _all_is_written():
            os._exit(end.code)
        raise


def _all_is_written() -> bool:
    """What Python does at its end before it frees memory."""
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # it was closed when we were started
                stream.flush()
    except (OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    run()
