"""SEC-1: writing to Redis is code as its owner, so nobody else reaches it, and nothing listens on TCP."""

from __future__ import annotations

import subprocess

import pytest

from hpcpools.config import Config
from hpcpools.errors import PermissionsError
from hpcpools.services import control
from tests.security.other import Other
from tests.services.conftest import Crew, processes_of

CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print('connected')"


def test_sec_1_another_uid_cannot_reach_redis(crew: Crew, config: Config, other: Other) -> None:
    """B gets EACCES at both sockets: by the directory and the socket, and by the socket alone."""
    crew.up("steady")
    config.folder.chmod(0o755)
    sockets = [config.runtime_dir / name for name in ("redis.sock", "control.sock")]
    for mode in (0o700, 0o755):
        config.runtime_dir.chmod(mode)
        for path in sockets:
            theirs = other.sees("/usr/bin/env", "python3", "-c", CONNECT, path)
            assert "PermissionError: [Errno 13]" in theirs
            assert "connected" not in theirs
    config.runtime_dir.chmod(0o700)
    assert control.running(config)
    ours = {f"pid={pid}," for pid in processes_of(config)}
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    assert len(ours) >= 3
    assert [line for line in listening.splitlines() if any(pid in line for pid in ours)] == []


def test_sec_1_an_opened_directory_stops_everything(crew: Crew, config: Config) -> None:
    """Mode 0755 on the runtime directory: `up` refuses with exit code 77."""
    crew.up("redis")
    config.runtime_dir.chmod(0o755)
    with pytest.raises(PermissionsError, match="mode 0755") as refused:
        crew.up("redis")
    assert refused.value.exit_code == 77
    config.runtime_dir.chmod(0o700)
