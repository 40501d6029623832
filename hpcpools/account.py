"""Who we are on this machine, and whether others could put something of theirs in the place of ours."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hpcpools.errors import PermissionsError

_ADMINISTRATORS = 0  # gid


def user() -> str:
    """Our user name; a uid without one, as in a container, is named by its number."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def alone_in(gid: int) -> bool:
    """Whether a group holds nobody but us, or administrators: it has our name, and no other member.

    Who else has a group as the first of his own only a list of all users could say, which directory services
    do not give; so a group of another name is never taken for ours.
    """
    import grp
    import pwd

    if gid == _ADMINISTRATORS:
        return True
    try:
        me = pwd.getpwuid(os.geteuid()).pw_name
        group = grp.getgrgid(gid)
    except KeyError:  # a uid without a name, as in a container: its own group has its number
        return gid == os.geteuid()
    return group.gr_name == me and {*group.gr_mem} <= {me, "root"}


def check_parents(path: Path) -> None:
    """Raise PermissionsError if above ``path`` others may rename what is theirs not (SEC-6).

    Write permission without the sticky bit lets them: for everybody, or a group that is not ours alone.
    """
    for parent in path.resolve().parents:
        facts = parent.stat()
        mode = stat.S_IMODE(facts.st_mode)
        by_all = mode & stat.S_IWOTH
        by_group = mode & stat.S_IWGRP and not alone_in(facts.st_gid)
        if (by_all or by_group) and not mode & stat.S_ISVTX:
            who, bits = ("anyone", "o-w") if by_all else (f"group {facts.st_gid}", "g-w")
            raise PermissionsError(
                f"{parent} (mode {mode:04o}) lets {who} replace {path}",
                hint=f"`chmod {bits} {parent}` (or +t), or set project.root to a folder below your home",
            )
