"""SEC-5: who has not shown the token, or comes from another page, sees and changes nothing.

The attacks in full, with a real server and a real browser: tests/dashboard/test_security.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hpcpools.config import Config
from tests.security.other import Other
from tests.services.conftest import Crew

CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print('connected')"
TOKEN = "t" * 43
HOST = "localhost:8080"


@pytest.fixture
def stranger(crew: Crew, config: Config) -> Any:
    """A browser that has not logged in, of a dashboard that only shows; and what it logs in with."""
    app = pytest.importorskip("hpcpools.dashboard.app")
    crew.up("redis")
    return app.create(config, TOKEN).test_client()


def ask(client: Any, path: str, method: str = "GET", **said: Any) -> Any:
    """A request as our own page would send it, but for what ``said`` changes."""
    headers = {
        "Host": HOST,
        "Accept": "text/html",
        **({"Origin": f"http://{HOST}"} if method != "GET" else {}),
    }
    return client.open(path, method=method, headers={**headers, **said.pop("headers", {})}, **said)


def test_sec_5_strangers_and_other_pages(stranger: Any) -> None:
    """No cookie, a foreign Host or Origin, a changing GET, no CSRF word, read-only: each is refused."""
    assert ask(stranger, "/").status_code == 303
    assert ask(stranger, "/runs", headers={"Accept": "application/json"}).status_code == 401
    assert ask(stranger, "/logout", "POST").status_code == 401
    assert ask(stranger, "/login", "POST", data={"token": "guess"}).status_code == 401
    assert ask(stranger, "/login", "POST", data={"token": TOKEN}).status_code == 303
    page = ask(stranger, "/")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert ask(stranger, "/", headers={"Host": "evil.example:8080"}).status_code == 403
    assert ask(stranger, "/", headers={"Origin": "http://evil.example"}).status_code == 403
    assert ask(stranger, "/rq/requeue/default").status_code == 405
    empty = "/rq/queue/default/failed/empty"
    assert ask(stranger, empty, "POST").status_code == 403
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert csrf is not None
    refused = ask(stranger, empty, "POST", data={"csrf": csrf.group(1)})
    assert refused.status_code == 403
    assert "only shows" in refused.text


def test_sec_5_hostile_text_is_text(stranger: Any) -> None:
    """What is asked for is shown as text, never as markup."""
    ask(stranger, "/login", "POST", data={"token": TOKEN})
    for path in ("/runs?text=", "/runs/", "/rq/job/"):
        shown = ask(stranger, path + "%3Cimg src=x onerror=alert(1)%3E")
        assert "<img src=x" not in shown.text


def test_sec_5_another_uid_cannot_reach_the_socket(config: Config, other: Other, tmp_path: Path) -> None:
    """B gets EACCES, and the token's file is ours alone."""
    service = pytest.importorskip("hpcpools.dashboard.service")
    config.folder.chmod(0o755)
    with service.listening(config) as place:
        theirs = other.sees(
            "/usr/bin/env", "python3", "-c", CONNECT, config.runtime_dir / service.SOCKET_NAME
        )
        assert "Errno 13" in theirs and "connected" not in theirs
        assert place.token_file.stat().st_mode & 0o177 == 0
        assert "Permission denied" in other.sees("cat", place.token_file)
