"""A Redis for two login nodes (SEC-4): TLS, a user per role, jobs signed on one run on the other."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import RedisUnavailableError, RefusedError
from hpcpools.redisdb import acl
from hpcpools.short.enqueue import Client
from tests.services.conftest import wait_until

TASKS = "tests.short.tasks_for_tests"
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Shared:
    """The server, its files, and login nodes with a configuration each."""

    folder: Path
    port: int
    made: dict[str, Path]

    def node(self, name: str, *, user: str = "pool", key: bool = True) -> Config:
        """The configuration of one login node: its own runtime directory, the same Redis."""
        home = self.folder / name
        home.mkdir()
        lines = [
            f'[project]\nmodules = ["{TASKS}"]\n[short]\nworkers = 1',
            '[services]\nruntime_dir = "rt"\n[redis]',
            f'url = "rediss://{user}@localhost:{self.port}?ssl_ca_certs={self.folder}/ca.crt"',
            f'password_file = "{self.made[user]}"',
        ]
        if key:
            lines.append(f'key_file = "{self.made["key"]}"')
        (home / "hpcpools.toml").write_text("\n".join(lines) + "\n")
        return configuration.load(home / "hpcpools.toml")

    def client(self, user: str | None = None) -> redis.Redis:
        """A bare client, as ``user`` or as nobody."""
        password = self.made[user].read_text().strip() if user else None
        return redis.Redis(
            "localhost", self.port, username=user, password=password, ssl=True,
            ssl_ca_certs=str(self.folder / "ca.crt"), protocol=2,
        )  # fmt: skip


def certificates(folder: Path) -> None:
    """A CA and a certificate for localhost. Python 3.13 wants to be told what the CA's key is for."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    usage = "keyUsage=critical,digitalSignature,keyCertSign"
    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-addext", usage)
    openssl(*new, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test CA")
    more = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    openssl(*new, "-keyout", "server.key", "-out", "server.crt", "-CA", "ca.crt", "-CAkey", "ca.key", *more)


@pytest.fixture
def shared() -> Iterator[Shared]:
    """A real Redis with TLS only, and the users that `redis-acl` makes."""
    folder = Path(tempfile.mkdtemp(prefix="hps-"))
    certificates(folder)
    made = acl.write(folder / "acl")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", "0", "--bind", "127.0.0.1", "--tls-port", str(port), "--tls-auth-clients", "no"]
    options += [
        "--tls-cert-file",
        "server.crt",
        "--tls-key-file",
        "server.key",
        "--tls-ca-cert-file",
        "ca.crt",
    ]
    options += ["--aclfile", str(made["acl"]), "--save", ""]
    server = subprocess.Popen(["redis-server", *options], cwd=folder, stdout=subprocess.DEVNULL)
    there = Shared(folder, port, made)
    wait_until(lambda: _answers(there))
    yield there
    server.kill()
    server.wait()
    shutil.rmtree(folder)


def _answers(shared: Shared) -> bool:
    try:
        return bool(shared.client("pool").ping())
    except redis.RedisError:
        return False


def burst(config: Config) -> None:
    """Run that node's pool until the queues are empty."""
    words = [sys.executable, "-m", "hpcpools", "--config", config.file, "worker", "--burst"]
    subprocess.run(words, cwd=REPOSITORY, check=True, timeout=60, capture_output=True)


def test_enqueued_on_one_login_node_run_on_the_other(shared: Shared) -> None:
    """Everything that enqueue, workers and sweeps do is within the rights of the role ``pool``."""
    first, second = shared.node("login1"), shared.node("login2")
    log = shared.folder / "tasks.log"
    job = Client(second).enqueue(f"{TASKS}:say", {"log": str(log), "word": "far"})
    keyless = Client(shared.node("login3", key=False))
    stranger = keyless.enqueue(f"{TASKS}:say", {"log": str(log), "word": "forged"})
    burst(first)
    assert "far" in log.read_text()
    assert job.refresh().state == "finished"
    assert stranger.refresh().state == "failed"  # another key signed it
    assert "forged" not in log.read_text()


def test_sec_4_nobody_without_a_password_and_no_role_beyond_its_needs(shared: Shared) -> None:
    """NOAUTH for strangers; the dashboard's user reads and no more; no role administers."""
    with pytest.raises(redis.AuthenticationError):
        shared.client().get("rq:queues")
    assert shared.client("dashboard").smembers("rq:queues") == set()
    common = ["FLUSHALL", "CONFIG SET dir /tmp", "ACL LIST", "SET other 1", "GET other"]
    more = ["SET rq:x 1", "EVAL 'return 1' 0", "CONFIG GET *", "PUBLISH rq:pubsub:w x"]
    for user, commands in (("pool", common), ("dashboard", common + more)):
        client: Any = shared.client(user)
        for command in commands:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*shlex.split(command))
    config = shared.node("reader", user="dashboard")
    with pytest.raises(RefusedError, match="no permissions"):
        Client(config).enqueue(f"{TASKS}:say", {"log": "/dev/null", "word": "w"})


def test_a_certificate_of_somebody_else_is_refused(shared: Shared) -> None:
    """The man in the middle has another CA."""
    config = shared.node("login1")
    other = shared.folder / "other"
    other.mkdir()
    certificates(other)
    (shared.folder / "ca.crt").write_bytes((other / "ca.crt").read_bytes())
    with pytest.raises(RedisUnavailableError, match="certificate"):
        Client(config).enqueue(f"{TASKS}:say", {"log": "/dev/null", "word": "w"})


def test_the_files_are_ours_alone_and_never_overwritten(tmp_path: Path) -> None:
    """`redis-acl` as a user runs it: --dry-run writes nothing, a second one is refused."""
    folder = tmp_path / "acl"
    words = [sys.executable, "-m", "hpcpools", "redis-acl", str(folder)]
    subprocess.run([*words, "--dry-run"], check=True, capture_output=True)
    assert not folder.exists()
    subprocess.run(words, check=True, capture_output=True)
    made = acl.files(folder)
    assert {path.stat().st_mode & 0o777 for path in made.values()} == {0o600}
    assert made["pool"].read_text().strip() not in made["acl"].read_text()
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert again.returncode == 4
    assert "is there already" in again.stderr
