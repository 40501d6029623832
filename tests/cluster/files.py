"""The directory of a lab on disk: where it is, who may hold it, what is in it before the daemons start.
Refuses a parent directory that anyone else could have laid out; starts nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from tests.cluster import layout
from tests.cluster.layout import Site, Variant

FOLDERS = {"db": 0o700, "dev": 0o755, "run": 0o755, "spool": 0o755, "state": 0o700}


class LabError(Exception):
    """The lab did not come up, or did not answer in time."""


def default_root(variant: str) -> Path:
    """Return where the lab of a variant lives unless told otherwise: a path every user can traverse.

    Each process of a parallel test run has a lab of its own.
    """
    root = Path(os.environ.get("HPCPOOLS_LAB_ROOT", "/var/tmp/hpcpools-lab"))
    return root / os.environ.get("PYTEST_XDIST_WORKER", "") / variant


@contextlib.contextmanager
def lock(root: Path) -> Iterator[None]:
    """Hold the lab: one `up` or `down` at a time.

    Raises:
        LabError: the parent directory belongs to, or can be written by, somebody else.
    """
    parent = root.parent
    parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    seen = parent.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise LabError(f"{parent}: must be a directory of uid {os.geteuid()} that only its owner can write")
    with (parent / f".{root.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def lay_out(root: Path, variant: Variant) -> None:
    """Write a fresh lab directory over whatever a former lab left: configuration, keys, GPU device nodes.

    Raises:
        LabError: no free ports, or the directory holds something that is no lab.
    """
    if root.exists() and any(root.iterdir()) and not (root / "slurm.conf").exists():
        raise LabError(f"{root}: not empty and not a lab; choose another directory")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(mode=0o755)
    for name, mode in (FOLDERS | {"log": 0o755}).items():
        (root / name).mkdir(mode=mode)
    host = socket.gethostname()
    site = Site(root, host.partition(".")[0], _resolves_to_us(host), _free_ports(variant.first_port))
    (root / "slurm.conf").write_text(layout.slurm_conf(site, variant))
    for node in variant.nodes:
        (root / "spool" / node).mkdir(mode=0o755)
        for index in range(layout.GPUS_PER_NODE):
            null = os.makedev(1, 3)  # a GPU that swallows everything
            os.mknod(root / "dev" / f"{node}-gpu{index}", stat.S_IFCHR | 0o666, null)
    (root / "gres.conf").write_text(layout.gres_conf(site, variant))
    if variant.cgroup:
        (root / "cgroup.conf").write_text(layout.cgroup_conf())
    _write_private(root / "munge.key", secrets.token_bytes(128))
    if variant.accounting:
        _write_private(root / "slurmdbd.conf", layout.slurmdbd_conf(site).encode())


def clear(root: Path, variant: Variant) -> None:
    """Remove what a lab that is down no longer needs; configuration and logs stay for the curious."""
    for name in FOLDERS:
        shutil.rmtree(root / name, ignore_errors=True)
    for group in (group for node in variant.nodes for group in layout.CGROUPS.glob(f"*/slurm_{node}")):
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):  # a group that still holds a process
                Path(folder).rmdir()


def refused_controllers() -> list[str]:
    """Why no group can be made in a controller that a variant with cgroups needs; nothing where all can."""
    refused = []
    for name in layout.CONTROLLERS:
        probe = layout.CGROUPS / name / f"hpcpools-lab-{os.getpid()}"
        if not (probe.parent / "cgroup.procs").exists():
            refused.append(f"{probe.parent} is not mounted")
            continue
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            refused.append(f"{probe.parent}: {error.strerror}")
    return refused


def _resolves_to_us(host: str) -> bool:
    try:
        return socket.gethostbyname(host) == layout.ADDRESS
    except OSError:
        return False


def _free_ports(first: int) -> int:
    for start in range(first, first + 4000, 100):
        if all(_free(port) for port in range(start, start + layout.PORTS_NEEDED)):
            return start
    raise LabError(f"no {layout.PORTS_NEEDED} free TCP ports in a row found from {first} up")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _write_private(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(data)
