"""Connections: which addresses are refused, and how a real server is reached."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from hpcpools.config import Config, parse
from hpcpools.errors import ConfigError, PermissionsError, RedisUnavailableError
from hpcpools.redisdb import embedded, keys, runtime
from hpcpools.redisdb.connect import check_url, connect, uses_own_redis


def _config(folder: Path, **section: str) -> Config:
    return parse({"redis": section, "services": {"runtime_dir": "rt"}}, folder / "hpcpools.toml", {})


@pytest.fixture
def folder() -> Iterator[Path]:
    """A project folder with a short path."""
    path = Path(tempfile.mkdtemp(prefix="hpr-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Config]]:
    """Starts our own Redis as the supervisor would, with more arguments if given; returns its config."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*extra: str) -> Config:
        config = _config(folder)
        argv = embedded.prepare(config, "/usr/bin:/usr/local/bin")
        started.append(subprocess.Popen([*argv, *extra], stdout=subprocess.DEVNULL, umask=0o077))
        deadline = time.monotonic() + 20
        while not runtime.own_socket(config).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return config

    yield start
    for server in started:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "unix:///run/r.sock",
        "redis://localhost",
        "redis://127.0.0.1:6379/2",
        "redis://[::1]",
        "rediss://r.example",
    ],
)
def test_safe_addresses_are_accepted(folder: Path, url: str) -> None:
    """Sockets, loopback and TLS; an empty one means our own."""
    config = _config(folder, url=url)
    assert uses_own_redis(config) == (not url)
    assert check_url(config) == url if url else True


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://r.example", "plain TCP to another host"),
        ("redis://10.0.0.7:6379", "plain TCP to another host"),
        ("redis://127.0.0.1.r.example", "plain TCP to another host"),
        ("rediss://:hunter2@r.example", "holds a password"),
        ("rediss://r.example?ssl_cert_reqs=none", "parameter 'ssl_cert_reqs'"),
        ("unix:///run/r.sock?password=hunter2", "parameter 'password'"),
        ("redis://localhost:hunter2", "is no address"),
    ],
)
def test_unsafe_addresses_are_refused_without_showing_secrets(folder: Path, url: str, why: str) -> None:
    """The error names file, key and reason; a password given in the URL is not repeated."""
    with pytest.raises(ConfigError, match=why) as caught:
        connect(_config(folder, url=url))
    assert "redis.url" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_no_server_is_a_clear_error(folder: Path) -> None:
    """Our own, not started: says so and how to start it. A given one: says what to check."""
    with pytest.raises(RedisUnavailableError, match="hpcpools up"):
        connect(_config(folder))
    with pytest.raises(RedisUnavailableError, match=r"does not answer.*check redis\.url"):
        connect(_config(folder, url=f"unix://{folder}/none.sock"))


def test_our_own_server(serve: Callable[..., Config]) -> None:
    """It answers on the socket, keeps bytes, persists every write, evicts nothing and has no port."""
    config = serve()
    client = connect(config)
    client.set(keys.key("run", "hp-1"), "x")
    assert client.get("hp:run:hp-1") == b"x"
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "port": "0",
    }
    for name, value in wanted.items():  # one by one: Redis 6 takes no list
        assert client.config_get(name) == {name: value}
    assert runtime.own_socket(config).stat().st_mode & 0o777 == 0o600


def test_a_wait_on_the_server_may_be_longer_than_a_reply(serve: Callable[..., Config]) -> None:
    """A blocking client waits out its BLPOP; a plain one gives up at the reply timeout."""
    config = serve()
    assert connect(config, blocking=True, reply_timeout=0.2).blpop(["empty"], timeout=1) is None
    with pytest.raises(redis.TimeoutError):
        connect(config, retries=0, reply_timeout=0.2).blpop(["empty"], timeout=1)


def test_a_password_comes_from_a_private_file(serve: Callable[..., Config], folder: Path) -> None:
    """requirepass: the file's secret opens it, none or a wrong one is a clear error, 0644 is refused."""
    url = f"unix://{runtime.own_socket(serve('--requirepass', 's3cret'))}"
    secret = folder / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    assert connect(_config(folder, url=url, password_file=secret.name)).ping()
    with pytest.raises(RedisUnavailableError, match=r"redis\.password_file"):
        connect(_config(folder, url=url))
    secret.chmod(0o644)
    with pytest.raises(PermissionsError, match="mode 0644"):
        connect(_config(folder, url=url, password_file=secret.name))


def test_an_open_socket_is_refused(serve: Callable[..., Config]) -> None:
    """A socket that others could open is not used, even inside the private directory."""
    config = serve()
    runtime.own_socket(config).chmod(0o666)
    with pytest.raises(PermissionsError, match="mode 0666"):
        connect(config)


def test_a_lost_connection_is_retried(serve: Callable[..., Config]) -> None:
    """A client that was disconnected by the server goes on by itself."""
    config = serve()
    client, other = connect(config), connect(config)
    assert client.client_id()
    other.client_kill_filter(_type="normal", skipme=True)
    assert client.ping()


def test_key_names() -> None:
    """Our keys have our prefix; an empty part is refused."""
    assert keys.key("a", "b") == "hp:a:b"
    with pytest.raises(ValueError, match="empty part"):
        keys.key("")
