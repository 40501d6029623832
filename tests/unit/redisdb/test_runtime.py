"""The private directory and the files in it: what is accepted, what is refused."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hpcpools.errors import ConfigError, PermissionsError
from hpcpools.redisdb import runtime


def test_creates_private_parents(tmp_path: Path) -> None:
    """Every missing part is created 0700, whatever the umask; a second call changes nothing."""
    old = os.umask(0)
    try:
        made = runtime.secure_directory(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(old)
    for folder in (made, made.parent, made.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert runtime.secure_directory(made) == made


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o770, 0o500])
def test_refuses_another_mode_and_leaves_it(tmp_path: Path, mode: int) -> None:
    """A directory with another mode is refused, named with its mode, and not changed."""
    folder = tmp_path / "rt"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(PermissionsError, match=f"{folder} has owner uid {os.geteuid()} and mode {mode:04o}"):
        runtime.secure_directory(folder)
    assert folder.stat().st_mode & 0o777 == mode


def test_accepts_an_inherited_set_gid_bit(tmp_path: Path) -> None:
    """Project disks set the set-gid bit on new folders; it opens nothing."""
    folder = tmp_path / "rt"
    folder.mkdir()
    folder.chmod(0o2700)
    assert runtime.secure_directory(folder) == folder


@pytest.mark.skipif(os.geteuid() != 0, reason="a directory of another owner needs root")
def test_refuses_another_owner(tmp_path: Path) -> None:
    """A directory of somebody else is refused even with mode 0700."""
    folder = tmp_path / "rt"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(PermissionsError, match="owner uid 65534"):
        runtime.secure_directory(folder)


def test_refuses_symlinks_and_files(tmp_path: Path) -> None:
    """The last part must be a directory itself, not lead to one."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionsError, match="is a symlink"):
        runtime.secure_directory(tmp_path / "link")
    with pytest.raises(PermissionsError, match="not a directory"):
        runtime.secure_directory(tmp_path / "file")
    with pytest.raises(PermissionsError, match="cannot create"):
        runtime.secure_directory(tmp_path / "file" / "below")


def test_refuses_a_parent_in_which_anyone_may_rename(tmp_path: Path) -> None:
    """A world-writable parent without the sticky bit lets others swap the directory; with it, not."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(PermissionsError, match="lets anyone replace"):
        runtime.secure_directory(shared / "rt")
    shared.chmod(0o1777)
    runtime.secure_directory(shared / "rt")


def test_refuses_a_long_socket_path() -> None:
    """A path that the kernel could not bind is a config error which names the key to change."""
    assert runtime.socket_path(Path("/" + "x" * 90), "r.sock").name == "r.sock"
    with pytest.raises(ConfigError, match=r"limit is 100.*services\.runtime_dir"):
        runtime.socket_path(Path("/" + "x" * 95), "r.sock")


def test_refuses_an_open_or_false_socket(tmp_path: Path) -> None:
    """A socket open to others, or a file in its place, is refused."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o600)
        runtime.check_socket(path)
        path.chmod(0o666)
        with pytest.raises(PermissionsError, match="mode 0666"):
            runtime.check_socket(path)
    path.unlink()
    path.write_text("")
    path.chmod(0o600)
    with pytest.raises(PermissionsError, match="must be a socket"):
        runtime.check_socket(path)


def test_a_secret_is_read_only_from_a_private_file(tmp_path: Path) -> None:
    """0600 is read, 0640, a symlink, a FIFO, an empty and a missing file are refused without hanging."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    assert runtime.private_text(secret) == "s3cret"
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "empty").touch(0o600)
    secret.chmod(0o640)
    with pytest.raises(PermissionsError, match="mode 0640"):
        runtime.private_text(secret)
    with pytest.raises(PermissionsError):
        runtime.private_text(tmp_path / "fifo")
    for name in ("link", "empty", "missing"):
        with pytest.raises(ConfigError):
            runtime.private_text(tmp_path / name)
