"""The attacks of SEC-5 and SEC-10 against the real server, and in a real browser."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import pickle
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import BrowserContext

from hpcpools import config
from hpcpools.dashboard import logtail, service
from hpcpools.errors import UsageError
from hpcpools.redisdb.connect import connect
from hpcpools.runs.attempts import read_attempts
from hpcpools.runs.directory import RunDirectory
from hpcpools.services import listening as net
from tests.dashboard.conftest import Site, laptop_project, serving
from tests.dashboard.test_pages import pages

JSON = "application/json"
CHANGES = (
    "/runs/{run}/cancel", "/runs/{run}/requeue", "/jobs/{job}/cancel", "/rq/job/{job}/requeue",
    "/rq/job/{job}/delete", "/rq/requeue/default", "/rq/queue/default/failed/empty",
    "/rq/queue/default/compact", "/sweeps/{sweep}/cancel", "/sweeps/{sweep}/retry",
    "/pipelines/{pipeline}/cancel", "/pipelines/{pipeline}/retry", "/schedule/upkeep/pause",
    "/schedule/upkeep/resume", "/schedule/upkeep/run-now", "/logout",
)  # fmt: skip


class Client:
    """A browser's requests, with what its own pages would send."""

    def __init__(self, site: Site) -> None:
        self.host = urlsplit(site.url).netloc
        self.site, self.cookie, self.csrf = site, "", ""

    def ask(self, path: str, method: str = "GET", form: dict[str, str] | None = None, **more: str) -> Any:
        """The answer; ``more`` are headers, None leaves one out."""
        own = {"Host": self.host, "Cookie": self.cookie, "Accept": "text/html"}
        if method != "GET":
            own["Origin"] = f"http://{self.host}"
            own["Content-Type"] = "application/x-www-form-urlencoded"
        headers = {k: v for k, v in {**own, **{k.replace("_", "-"): v for k, v in more.items()}}.items() if v}
        connection = http.client.HTTPConnection(self.host, timeout=20)
        connection.request(method, path, urlencode(form or {}), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, dict(answer.getheaders()), text

    def log_in(self) -> Client:
        """Show the token."""
        status, headers, _ = self.ask("/login", "POST", {"token": self.site.token})
        assert status == 303
        self.cookie = headers["Set-Cookie"].partition(";")[0]
        found = re.search(r'name="csrf" content="([^"]+)"', self.ask("/")[2])
        assert found is not None
        self.csrf = found.group(1)
        return self


@pytest.fixture(scope="module")
def client(site: Site) -> Client:
    """Logged in."""
    return Client(site).log_in()


def named(site: Site, path: str) -> str:
    """A path of CHANGES with the scene's own names in it."""
    scene = site.scene
    return path.format(run=scene.gpu_run, job=scene.finished_job, sweep=scene.sweep, pipeline=scene.pipeline)


def test_a_stranger_sees_the_login_alone(site: Site) -> None:
    """Without the cookie: pages lead to the login, data are 401, nothing tells which pages there are."""
    stranger = Client(site)
    for path in (*pages(site).values(), "/no/such/page", f"/runs/{site.scene.gpu_run}/log"):
        status, headers, text = stranger.ask(path)
        assert (status, headers["Location"].partition("?")[0]) == (303, "/login"), path
        assert site.scene.gpu_run not in text.replace(path, "")
        assert stranger.ask(path, Accept=JSON)[0] == 401
    for path in CHANGES:
        assert stranger.ask(named(site, path), "POST")[0] == 401
    assert stranger.ask("/login", "POST", {"token": "guess"})[0] == 401
    assert stranger.ask("/", Cookie="hpcpools-00000000=x")[0] == 303


def test_the_cookie_and_the_headers(site: Site, client: Client) -> None:
    """HttpOnly, SameSite=Strict; no page runs a script of its own, is framed, guessed at or kept."""
    said = Client(site).ask("/login", "POST", {"token": site.token})[1]["Set-Cookie"]
    assert (
        "HttpOnly" in said
        and "SameSite=Strict" in said
        and len(said.partition("=")[2].partition(";")[0]) >= 43
    )
    for path in (*pages(site).values(), "/nothing", "/login"):
        headers = client.ask(path)[1]
        policy = headers["Content-Security-Policy"]
        assert (
            "unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        )
        assert (headers["X-Frame-Options"], headers["X-Content-Type-Options"]) == ("DENY", "nosniff")
        assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "same-origin")
        assert "Server" not in headers
    assert len(site.token) >= 43  # 256 bits
    file = site.scene.config.runtime_dir / service.TOKEN_NAME
    assert file.stat().st_mode & 0o777 == 0o600


def test_reading_changes_nothing(site: Site, client: Client) -> None:
    """Every change refuses GET, rq-dashboard's too; other methods reach nothing."""
    for path in CHANGES:
        for method in ("GET", "HEAD"):
            assert client.ask(named(site, path), method, Origin="")[0] == 405, path
        for method in ("PUT", "DELETE", "PATCH"):
            assert client.ask(named(site, path), method, X_CSRF_Token=client.csrf)[0] == 405, path


def test_a_foreign_host_or_origin_is_refused(site: Site, client: Client) -> None:
    """DNS rebinding, another page's form, a form of nowhere, a request without an origin."""
    for host in (
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
    ):
        assert client.ask("/", Host=host)[0] == 403
    for host in ("localhost:9999", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert client.ask("/", Host=host)[0] == 200
    for path in CHANGES:
        for origin in ("http://evil.example", "null", "http://localhost:1", f"https://{client.host}", ""):
            assert client.ask(named(site, path), "POST", {"csrf": client.csrf}, Origin=origin)[0] == 403, path
    assert client.ask("/runs", Origin="http://evil.example")[0] == 403
    assert client.ask("/runs", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert client.ask("/login", "POST", {"token": site.token}, Origin="http://evil.example")[0] == 403


def test_a_change_needs_this_login_s_own_form(site: Site, client: Client) -> None:
    """Without the CSRF token, or with another login's: 403, and nothing happened."""
    other = Client(site).log_in()
    for path in CHANGES:
        for form in ({}, {"csrf": ""}, {"csrf": other.csrf}):
            assert client.ask(named(site, path), "POST", form)[0] == 403, path
    assert client.ask("/runs")[0] == 200
    assert other.ask("/logout", "POST", {"csrf": other.csrf})[0] == 303
    assert other.ask("/runs")[0] == 303  # out, also for who kept the cookie


def test_the_login_leads_nowhere_else(site: Site) -> None:
    """An address given to the login page is one of ours."""
    for to in (
        "/\t/evil.example",
        "/\r\nX: y",
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
    ):
        answer = Client(site).ask("/login", "POST", {"token": site.token, "to": to})
        assert answer[0] == 303 and answer[1]["Location"] == "/"


@contextlib.contextmanager
def reader(site: Site, **options: Any) -> Iterator[tuple[FlaskClient, dict[str, str]]]:
    """The app in this process, as it is started without --allow-changes, and a login's headers."""
    app = service.application(site.scene.config, **options)
    with app.test_client() as client:
        host = {"Host": "localhost:1", "Origin": "http://localhost:1"}
        client.post("/login", data={"token": site.token}, headers=host)
        text = client.get("/runs", headers=host).get_data(as_text=True)
        found = re.search(r'name="csrf" content="([^"]+)"', text)
        assert found is not None
        yield client, {**host, "X-CSRF-Token": found.group(1)}


def test_read_only_unless_it_is_asked_for(site: Site) -> None:
    """Every change is 403, and no page has a button for one."""
    with reader(site) as (client, headers):
        for path in CHANGES[:-1]:
            assert client.post(named(site, path), headers=headers).status_code == 403, path
        scene = site.scene
        for path in (
            f"/runs/{scene.holding}",
            f"/sweeps/{scene.half_failed}",
            f"/pipelines/{scene.pipeline}",
            "/schedule",
            "/rq/0/view/jobs/default/failed/25/asc/1",
        ):
            text = client.get(path, headers=headers).get_data(as_text=True)
            assert "Read-only" in text
            assert re.findall(r"<button[^>]*>([^<]*)", text) in (["Log out"], ["Log out", "Show"])


def test_another_page_of_this_machine_cannot_act(site: Site, login: BrowserContext) -> None:
    """For browsers it is of the same site, so the cookie comes along; form and frame get nothing."""
    run = site.scene.holding
    page_text = (
        f"<form method=post action='{site.url}/runs/{run}/cancel'><input name=csrf value=x></form>"
        f"<iframe src='{site.url}/'></iframe><p>mine</p>"
    )

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page_text.encode())

        def log_message(self, format: str, *args: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Evil) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = login.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        framed = [frame for frame in page.frames if frame != page.main_frame]
        assert all("Overview" not in frame.content() for frame in framed)
        with page.expect_navigation():
            page.evaluate("document.forms[0].submit()")
        assert "the request comes from another page" in page.content()
        page.close()
        server.shutdown()
    assert site.scene.project.state(run) == "RUNNING"


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.mark,))


def test_nothing_is_unpickled(site: Site, client: Client, tmp_path: Path) -> None:
    """A job that somebody wrote into Redis, with pickles for data, meta and result."""
    mark = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(str(mark)))
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    with connect(site.scene.config) as redis:
        facts = {"data": bomb, "meta": bomb, "result": bomb, "status": "failed", "origin": "default"}
        redis.hset("rq:job:planted", mapping={**facts, "created_at": at, "description": "planted"})
        redis.zadd("rq:failed:default", {"planted": time.time() + 3600})
        redis.xadd("rq:results:planted", {"type": 1, "return_value": bomb, "created_at": at, "id": "1-1"})
        try:
            for path in (
                "view/job/planted",
                "data/job/planted.json",
                "data/jobs/default/failed/25/dsc/1.json",
            ):
                assert client.ask(f"/rq/0/{path}")[0] in (200, 500), path
            client.ask("/jobs/planted/explain")
            form = {"csrf": client.csrf}
            assert client.ask("/rq/job/planted/requeue", "POST", form)[0] == 409
            assert client.ask("/rq/job/planted/delete", "POST", form)[0] in (200, 500)
            assert client.ask("/rq/requeue/default", "POST", form)[0] == 200
        finally:
            redis.delete("rq:job:planted", "rq:results:planted")
            redis.zrem("rq:failed:default", "planted")
    assert not mark.exists()


def test_logs_of_the_run_and_nothing_else(site: Site, client: Client, tmp_path: Path) -> None:
    """No path of a request leads elsewhere, and no link, FIFO or device is read (SEC-10)."""
    bad = ("..", "../..", "%2e%2e", "..%2f..%2fetc", "/etc/passwd", "hp-..", "hp-%00", "a" * 300)
    for name in bad:
        for path in (
            f"/runs/{name}",
            f"/runs/{name}/log",
            f"/sweeps/{name}",
            f"/pipelines/{name}",
            f"/rq/0/view/job/{name}",
        ):
            assert client.ask(path, Accept=JSON)[0] in (404, 308), path
    secret = tmp_path / "secret"
    secret.write_text("canary")
    [attempt] = read_attempts(RunDirectory(site.scene.config.root, site.scene.evil_run))
    kept = (attempt.path / "log.err").exists()
    assert not kept
    for make in (lambda p: p.symlink_to(secret), os.mkfifo, lambda p: p.symlink_to("/dev/zero")):
        make(attempt.path / "log.err")
        status, _, text = client.ask(f"/runs/{site.scene.evil_run}/log?stream=err", Accept=JSON)
        assert status == 200 and json.loads(text)["text"] == ""
        (attempt.path / "log.err").unlink()
    for node in ("../../../..", "/etc"):
        piece = logtail.read(attempt, "out", node, None)
        assert piece["text"].startswith("before")


def test_the_socket_is_the_owner_s(tmp_path: Path) -> None:
    """Mode 0600 in 0700, the ssh command is printed, another uid cannot connect, a second one is refused."""
    with laptop_project(tmp_path) as project, serving(project) as (_, said):
        settings = config.load(project.folder / "hpcpools.toml")
        path = settings.runtime_dir / service.SOCKET_NAME
        assert re.search(rf"ssh -N -L \d+:{re.escape(str(path))} \S+@\S+", said)
        assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as mine:
            mine.connect(str(path))
            mine.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost:8080\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
            )
            assert mine.recv(100).startswith(b"HTTP/1.1 303")
        if os.geteuid() == 0:
            assert refused_to_others(path)
        token = (path.parent / service.TOKEN_NAME).read_text().strip()
        assert token not in said
        assert "another dashboard runs" in project.cli("dashboard", check=False).stderr


def test_as_a_service(tmp_path: Path) -> None:
    """Enabled in the config, `hpcpools up` has it run, and `down` takes the socket away."""
    with laptop_project(tmp_path) as project:
        project.configure("[dashboard]\nenabled = true\n")
        path = config.load(project.folder / "hpcpools.toml").runtime_dir / service.SOCKET_NAME
        project.cli("up", "dashboard")
        project.until(path.exists, "it listens")
        assert [row["name"] for row in project.json("ps") if row["state"] == "running"] == ["dashboard"]
        project.cli("down")
        assert not path.exists()


def refused_to_others(path: Path) -> bool:
    """True if a process of another user gets no connection; we are root."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            socket.socket(socket.AF_UNIX).connect(str(path))
        except PermissionError:
            os._exit(7)
        except OSError:
            pass
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:1", ":8080", "localhost:8080", "192.168.1.1:80", "127.0.0.1:x", "[::]:80"]
)
def test_only_the_loopback(listen: str) -> None:
    """No address that another host, or a name, could reach."""
    with pytest.raises(UsageError, match="this host alone"):
        net.loopback(listen, "dashboard")
