"""Who we are on this machine."""

from __future__ import annotations

import os


def user() -> str:
    """Our user name; a uid without one, as in a container, is named by its number."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
