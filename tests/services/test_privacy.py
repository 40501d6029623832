"""Nobody else gets in, nothing listens on TCP, and a directory opened to others stops everything."""

from __future__ import annotations

import json
import os
import socket
import stat
from datetime import datetime
from pathlib import Path

import pytest

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, PermissionsError
from hpcpools.redisdb.connect import connect
from hpcpools.services import channel, control, lock, logs

from .conftest import Crew, processes_of, wait_until


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_modes(crew: Crew, config: Config) -> None:
    """Directories are 0700, sockets and files 0600, also under a loose umask of the caller."""
    old = os.umask(0)
    try:
        crew.up("steady")
    finally:
        os.umask(old)
    folder = config.runtime_dir
    for directory in (folder, folder / "redis", folder / "logs"):
        assert _mode(directory) == 0o700, directory
    for name in ("redis.sock", "control.sock", "supervisor.lock", "redis.lock", "redis/redis.conf"):
        assert _mode(folder / name) == 0o600, name
    for file in folder.rglob("*"):
        assert not _mode(file) & 0o077, file


def test_no_tcp_listener(crew: Crew, config: Config) -> None:
    """No process of ours holds a TCP socket, listening or not."""
    crew.up("steady")
    tcp = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            tcp |= {line.split()[9] for line in Path(table).read_text().splitlines()[1:]}
    held = set()
    pids = processes_of(config)
    assert len(pids) == 4  # supervisor, its beacon, redis, steady
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = str(link.readlink())
            if target.startswith("socket:["):
                held.add(target[8:-1])
    assert held  # the unix sockets
    assert not held & tcp


def test_an_open_runtime_directory_is_refused(crew: Crew, config: Config) -> None:
    """Mode 0755 on the runtime directory: `up`, `ps` and a connection fail with exit code 77."""
    crew.up("redis")
    config.runtime_dir.chmod(0o755)
    for attempt in (lambda: crew.up("redis"), lambda: control.ps(config), lambda: connect(config)):
        with pytest.raises(PermissionsError, match="mode 0755") as caught:
            attempt()
        assert caught.value.exit_code == 77
    config.runtime_dir.chmod(0o700)
    assert connect(config).ping()


def test_a_symlink_for_a_runtime_directory_is_refused(crew: Crew, config: Config) -> None:
    """A planted symlink is not followed and its target is left as it was."""
    target = config.folder / "target"
    target.mkdir(mode=0o700)
    config.runtime_dir.symlink_to(target)
    with pytest.raises(PermissionsError, match="is a symlink"):
        crew.up("redis")
    assert list(target.iterdir()) == []
    config.runtime_dir.unlink()


def test_services_do_not_import_from_the_current_folder(crew: Crew, config: Config) -> None:
    """Every Python child starts in the private directory with PYTHONSAFEPATH set."""
    crew.up("steady")
    environ = Path(f"/proc/{crew.pid('steady')}/environ").read_bytes().split(b"\0")
    assert b"PYTHONSAFEPATH=1" in environ
    assert Path(f"/proc/{crew.pid('steady')}/cwd").readlink() == config.runtime_dir


def test_garbage_on_the_control_socket_does_no_harm(crew: Crew, config: Config) -> None:
    """Junk, an endless line and a silent client are dropped; the supervisor answers on."""
    crew.up("parent")
    address = str(config.runtime_dir / channel.SOCKET_NAME)
    for junk in (b"\xff\xfe\n", b'{"op":"explode"}\n', b'{"op":"up","names":["\\u001b[2J"]}\n'):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            client.sendall(junk)
            answer = client.recv(65536)
        assert b"error" in answer
        assert b"\x1b" not in answer
    with socket.socket(socket.AF_UNIX) as endless, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(address)
        endless.connect(address)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                endless.sendall(b"x" * 65536)
        silent.settimeout(10)
        assert silent.recv(1) == b""  # hung up on, after the limit for a request
    assert crew.ps()["parent"].state == "running"


def test_the_pool_of_another_host_is_named(crew: Crew, config: Config) -> None:
    """A runtime directory on a shared disk: the error says on which host the services run."""
    config.runtime_dir.mkdir(mode=0o700)
    (config.runtime_dir / lock.NAME).write_text('{"host": "login-7", "pid": 1, "start": 1}')
    for attempt in (lambda: crew.up("redis"), lambda: control.ps(config), lambda: control.down(config)):
        with pytest.raises(HpcpoolsError, match="run on login-7"):
            attempt()
    (config.runtime_dir / lock.NAME).unlink()


def test_a_recycled_pid_is_never_verified() -> None:
    """A holder whose start time differs is another process and is not signalled."""
    me = lock.Holder(socket.gethostname(), os.getpid(), lock.start_time(os.getpid()) or 0)
    assert me.verified
    assert not lock.Holder(me.host, me.pid, me.start + 1).verified
    assert not lock.Holder("elsewhere", me.pid, me.start).verified


def test_a_flood_of_output_rotates(crew: Crew, config: Config) -> None:
    """20 000 lines through a 20 kB limit: three files, each within the limit, the last line in the newest."""
    crew.up("chatty")
    path = logs.log_path(config, "chatty")
    wait_until(lambda: any("said" in line for line in logs.tail(path)))
    files = sorted(path.parent.glob("chatty.log*"))
    assert [file.name for file in files] == ["chatty.log", "chatty.log.1", "chatty.log.2"]
    assert all(file.stat().st_size <= config.services.log_bytes for file in files)
    lines = [json.loads(line) for file in reversed(files) for line in file.read_text().splitlines()]
    numbers = [int(line["text"].split()[-1]) for line in lines if line["text"].startswith("line ")]
    assert numbers == list(range(numbers[0], 20000))
    assert {line["service"] for line in lines} == {"chatty"}
    assert datetime.strptime(lines[0]["at"], "%Y-%m-%dT%H:%M:%S.%fZ")
