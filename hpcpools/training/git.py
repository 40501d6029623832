"""What git knows of a folder: commit, branch, remote, the files that belong to the work.

Owns every git command: argv lists, bounded, reading only, no hook and no outside program. A missing git, or
a folder that git ignores or does not trust, is no work tree.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcpools.config import environment
from hpcpools.errors import HpcpoolsError

TIMEOUT = 30.0  # seconds
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@|\?.*$")
# What a git hook sets for its own repository; a configuration given by GIT_CONFIG_* stays.
_OUTER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE")


@dataclass(frozen=True)
class WorkTree:
    """A git work tree. ``commit`` is "" before the first commit, ``branch`` "" when detached."""

    top: Path
    commit: str
    branch: str
    remote: str  # origin's URL without credentials


def work_tree(folder: Path) -> WorkTree | None:
    """The work tree that ``folder`` belongs to; None if there is none, or no git."""
    top = _ask(folder, "rev-parse", "--show-toplevel")
    # A project inside somebody's dotfiles repository that ignores everything is no part of it.
    if not top or _git(folder, "check-ignore", "-q", ".").returncode == 0:
        return None
    return WorkTree(
        top=Path(top),
        commit=_ask(folder, "rev-parse", "--verify", "-q", "HEAD"),
        branch=_ask(folder, "symbolic-ref", "-q", "--short", "HEAD"),
        remote=without_credentials(_ask(folder, "config", "--get", "remote.origin.url")),
    )


def files(top: Path) -> tuple[set[str], set[str]]:
    """(tracked, untracked and not ignored), relative to ``top``; repositories inside are followed."""
    tracked, untracked = _list(top, "--cached"), _list(top, "--others", "--exclude-standard")
    inner = {name for name in tracked | untracked if (top / name / ".git").exists()}
    tracked, untracked = tracked - inner, {name for name in untracked - inner if not name.endswith("/")}
    for name in sorted(inner):
        more, new = files(top / name)
        tracked |= {str(Path(name, path)) for path in more}
        untracked |= {str(Path(name, path)) for path in new}
    return tracked, untracked


def changes(tree: WorkTree) -> bytes:
    """``git diff HEAD``: what the tracked files differ from the commit; b"" if nothing."""
    if not tree.commit:
        return b""
    plain = ("--binary", "--no-ext-diff", "--no-textconv", "--no-color")
    return _git(tree.top, "diff", "HEAD", *plain).stdout


def without_credentials(url: str) -> str:
    """``url`` without ``user:password@`` and without a query; ``git@host:path`` holds no secret."""
    return _CREDENTIALS.sub("", url)


def _list(top: Path, *which: str) -> set[str]:
    done = _git(top, "ls-files", "-z", *which)
    if done.returncode:
        raise HpcpoolsError(
            f"git cannot list {top}: {os.fsdecode(done.stderr).strip()}", hint="or use --no-snapshot"
        )
    return {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}


def _ask(folder: Path, *words: str) -> str:
    done = _git(folder, *words)
    return os.fsdecode(done.stdout).strip() if done.returncode == 0 else ""


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    argv = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *words]
    try:
        return subprocess.run(
            argv,
            env=_environment(environment()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HpcpoolsError(
            f"git {words[0]} in {folder} did not end within {TIMEOUT:.0f} s", hint="or use --no-snapshot"
        ) from None
    except OSError:
        return subprocess.CompletedProcess(argv, 127, b"", b"")


def _environment(base: Mapping[str, str]) -> dict[str, str]:
    """No repository of an outer hook, no lock taken, C words."""
    kept = {name: value for name, value in base.items() if name not in _OUTER}
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
