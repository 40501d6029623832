"""Who may read the metrics: we through the unix socket, who has the token on the loopback, nobody else."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcpools.errors import ConfigError, PermissionsError, RefusedError, UsageError
from hpcpools.monitoring import web
from hpcpools.services import listening
from tests.monitoring.conftest import Pool
from tests.short.lab import wait_for

another_user = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="another uid needs root and setpriv"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A runtime directory on a short path that others could reach."""
    base = Path(tempfile.mkdtemp(prefix="hpx-"))
    try:
        yield base / "rt"
    finally:
        shutil.rmtree(base)


def the_page(_accept: str) -> tuple[bytes, str]:
    """Stands for the metrics."""
    return b"metrics\n", "text/plain"


class Client:
    """Requests to a loopback port, with a token or without."""

    def __init__(self, where: str, token: str) -> None:
        self.port = int(where.rsplit(":", 1)[1].partition("/")[0])
        self.token = token

    def get(self, method: str = "GET", path: str = "/metrics", **headers: str | None) -> tuple[int, bytes]:
        """Code and body. A header of None is left out; by default the right ones are sent."""
        sent = {"Host": f"127.0.0.1:{self.port}", "Authorization": f"Bearer {self.token}", **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture
def client(folder: Path) -> Iterator[Client]:
    """A client of a server on a free port."""
    with web.serving(folder, the_page, "127.0.0.1:0") as where:
        yield Client(where, (folder / web.TOKEN_NAME).read_text().strip())


def test_the_token_is_made_private_and_needed(folder: Path, client: Client) -> None:
    """Made with 256 bits and mode 0600; without it, with a part of it or another, 401 and no metrics."""
    file = folder / web.TOKEN_NAME
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(client.token) == 43
    assert client.get() == (200, b"metrics\n")
    assert client.get(Authorization=f"bearer  {client.token}")[0] == 200
    for said in (None, "", "Bearer", "Bearer ", f"Bearer {client.token[:-1]}", f"Bearer {client.token}x",
                 f"Basic {client.token}", client.token, "Bearer \xff\xfe"):  # fmt: skip
        code, body = client.get(Authorization=said)
        assert (code, b"metrics" in body) == (401, False), said
    assert client.get(path="/", Authorization=None)[0] == 401  # nor does it say what there is


def test_a_foreign_host_is_refused(client: Client) -> None:
    """A page elsewhere whose name points to 127.0.0.1 gets nothing, even with the token."""
    for host in (None, "", "evil.example", "evil.example:9123", "127.0.0.1.evil.example", "localhost:1:2",
                 "127.0.0.1:99999999", "127.0.0.1@evil.example"):  # fmt: skip
        assert client.get(Host=host)[0] == 403, host
    for host in ("localhost", "LOCALHOST:80", "[::1]:9123", "127.0.0.1"):
        assert client.get(Host=host)[0] == 200, host


def test_only_reading_and_only_the_page(client: Client) -> None:
    """Other methods 405, other paths 404; HEAD sends no body."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert client.get(method)[0] == 405
    for path in ("/", "/metrics/", "/../metrics", "/metrics%00"):
        assert client.get(path=path)[0] == 404
    assert client.get(path="/metrics?x=1")[0] == 200
    assert client.get("HEAD") == (200, b"")


def test_nothing_but_the_loopback(folder: Path) -> None:
    """Every other address is refused before a socket is made, and so is a name."""
    for address in ("0.0.0.0:9123", ":9123", "9123", "10.0.0.1:9123", "[::]:9123", "localhost:9123",
                    "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:٣"):  # fmt: skip
        with (
            pytest.raises(UsageError, match="this host alone"),
            web.serving(folder, the_page, address),
        ):
            pass
    assert listening.loopback("[::1]:9123", "exporter") == ("::1", 9123)


def test_a_bad_token_file_is_refused(folder: Path) -> None:
    """Open to others, too short, a symlink: no server."""
    folder.mkdir(mode=0o700)
    file = folder / web.TOKEN_NAME
    file.write_text("short")
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="shorter"):
        listening.token(file)
    file.write_text("x" * 64)
    file.chmod(0o640)
    with pytest.raises(PermissionsError):
        listening.token(file)
    file.rename(folder / "elsewhere")
    file.symlink_to("elsewhere")
    with pytest.raises(ConfigError):
        listening.token(file)


def test_only_a_few_clients_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond them a connection is hung up on; once they are gone, others are served."""
    monkeypatch.setattr(web._Handler, "timeout", 600.0)
    silent = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(2 * web.CLIENTS)]
    wait_for(lambda: sum(map(_is_closed, silent)) == web.CLIENTS, "half of them are hung up on")
    assert not _answers(client)
    for one in silent:
        one.close()
    wait_for(lambda: _answers(client), "an answer")


def test_a_silent_client_is_hung_up_on(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five seconds; less here."""
    assert web._Handler.timeout == web.PATIENCE == 5.0
    monkeypatch.setattr(web._Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", client.port)) as silent:
        silent.sendall(b"GET /metrics HTTP/1.1\r\n")
        wait_for(lambda: _is_closed(silent), "the server closes it")


def test_the_unix_socket_is_private_and_single(folder: Path) -> None:
    """Mode 0600 in 0700; a second exporter is refused and harms nothing; the socket goes with the first."""
    path = folder / web.SOCKET_NAME
    with web.serving(folder, the_page) as where:
        assert where == str(path)
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with pytest.raises(RefusedError, match="another exporter"), web.serving(folder, the_page):
            pass
        assert through(path).endswith(b"metrics\n")
    assert not path.exists()


@another_user
def test_another_user_gets_nothing(pool: Pool) -> None:
    """Uid 65534 cannot connect to the exporter that the services run; we can."""
    ping = ["redis-cli", "-s", str(pool.socket), "ping"]
    assert "Permission denied" in _output(["setpriv", "--reuid", "65534", "--clear-groups", *ping])
    assert "Permission denied" not in _output(ping)
    assert b"hpcpools_workers_alive" in through(pool.socket)


@another_user
def test_the_kernel_says_who_calls(folder: Path) -> None:
    """Even where somebody opened folder and socket to all, another user is hung up on."""
    with web.serving(folder, the_page) as where:
        folder.parent.chmod(0o755)
        folder.chmod(0o755)
        Path(where).chmod(0o666)
        assert as_nobody(lambda: through(Path(where))) == b""
        assert through(Path(where)).startswith(b"HTTP/1.0 200")
        folder.chmod(0o700)


def as_nobody(read: Callable[[], bytes]) -> bytes:
    """What ``read`` gets in a child of uid 65534; what a connection that is reset has given is nothing."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        got = b"the child failed"
        try:
            os.setgroups([])
            os.setresuid(65534, 65534, 65534)
            got = read()
        except (ConnectionResetError, BrokenPipeError):
            got = b""
        finally:
            os.write(writer, got[:4096])
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        got = told.read()
    os.waitpid(child, 0)
    return got


def through(path: Path) -> bytes:
    """The whole answer of a unix socket to a scrape."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer


def _answers(client: Client) -> bool:
    try:
        return client.get()[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False


def _output(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr
