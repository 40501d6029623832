"""The folders: owner and mode, space and inodes, and whether the file server's clock agrees with ours."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hpcpools import account
from hpcpools.config import Config
from hpcpools.doctor.finding import Finding, fail, ok, warn
from hpcpools.errors import HpcpoolsError, PermissionsError
from hpcpools.redisdb import embedded, runtime
from hpcpools.short import signing
from hpcpools.training.environment import without_secrets

SKEW = 2.0  # seconds between two clocks that are still called equal
FEW_BYTES, FEW_INODES = 1 << 30, 1000
FULL = 0.95


def check(config: Config) -> Iterator[Finding]:
    """The runs, the runtime directory, the key."""
    yield from _root(config.root)
    yield from _runtime(config)
    yield from _setup(config)
    for name, path in (("runs", config.root), ("runtime", config.runtime_dir)):
        if path.is_dir():
            yield _space(name, path)


def _root(root: Path) -> Iterator[Finding]:
    if not root.is_dir():
        yield ok("runs", f"{root} is made by the first training")
        return
    facts = root.stat()
    mode = stat.S_IMODE(facts.st_mode)
    if facts.st_uid != os.geteuid() or mode & 0o077:
        fix = f"see what others put in there, then `chmod 700 {root}`"
        yield fail("runs", f"{root} has owner uid {facts.st_uid} and mode {mode:04o}", fix)
        return
    try:
        account.check_parents(root)
    except PermissionsError as error:
        yield fail("runs", error.message, error.hint)
        return
    try:
        with tempfile.NamedTemporaryFile(dir=root, prefix=".doctor-") as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
            skew = os.fstat(probe.fileno()).st_mtime - time.time()
    except OSError as error:
        yield fail("runs", f"{root} cannot be written: {error.strerror}", "free space or quota there")
        return
    yield ok("runs", f"{root} is ours alone and can be written")
    if abs(skew) > SKEW:
        text = f"the file server of {root} is {skew:+.1f} s away from this host"
        yield warn("clock", text, "ask the site to run NTP; ages and timeouts are wrong by that much")
    else:
        yield ok("clock", "this host and the file server of the runs agree")


def _setup(config: Config) -> Iterator[Finding]:
    """The lines stand in the script of every job, which some sites keep in the accounting database."""
    if any(without_secrets(line) != line for line in config.training.setup):
        text = "training.setup holds what looks like a secret"
        yield warn("secrets", text, "write it to a file of mode 0600 and source that file there (SEC-7)")


def _runtime(config: Config) -> Iterator[Finding]:
    path = config.runtime_dir
    if not path.exists():
        yield ok("runtime", f"{path} is made by `hpcpools up`")
        return
    try:
        runtime.check_directory(path)
        if config.redis.key_file or (path / signing.FILE_NAME).exists():
            signing.pool_key(config)
    except HpcpoolsError as error:
        yield fail("runtime", error.message, error.hint)
        return
    yield ok("runtime", f"{path} and the key in it are ours alone")
    if runtime.uses_own_redis(config) and (text := embedded.warning(config)):
        yield warn("runtime", text, "set services.runtime_dir to a local disk")


def _space(name: str, path: Path) -> Finding:
    facts = os.statvfs(path)
    free, inodes = facts.f_bavail * facts.f_frsize, facts.f_favail
    used = 1 - facts.f_bavail / facts.f_blocks if facts.f_blocks else 0.0
    text = f"{path}: {free / 2**30:.1f} GiB free"
    if free < FEW_BYTES or (facts.f_files and inodes < FEW_INODES):
        return fail(
            f"space of {name}", f"{text}, {inodes} inodes", "free some: `hpcpools cleanup`, `hpcpools gc`"
        )
    if used > FULL:
        return warn(f"space of {name}", f"{text}, {used:.0%} used", "free some before a checkpoint fails")
    return ok(f"space of {name}", text)
