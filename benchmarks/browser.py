"""The dashboard as a browser asks for it: each page over HTTP, up to its last byte."""

from __future__ import annotations

import http.client
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.cli_start import BIN


class Browser:
    """Asks for pages of the server on ``port``, logged in."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.cookie = port, ""
        self.cookie = self.ask("/login", {"token": token})[1].partition(";")[0]

    def ask(self, path: str, form: dict[str, str] | None = None) -> tuple[float, str, str]:
        """Seconds, the cookie that was set, and the body."""
        origin = f"http://127.0.0.1:{self.port}"
        headers = {"Accept": "text/html", "Cookie": self.cookie, "Origin": origin}
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        begin = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST" if form else "GET", path, urlencode(form or {}), headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        took = time.perf_counter() - begin
        connection.close()
        assert answer.status == (303 if form else 200), (path, answer.status, body[-500:])
        return took, answer.getheader("Set-Cookie") or "", body


def pages(tokens: Sequence[str], job: str) -> dict[str, str]:
    """Every page, and the heavier ways to ask for the runs."""
    jobs = "/rq/0/data/jobs/evaluation"
    return {
        "overview": "/",
        "runs": "/runs",
        "runs, last page": f"/runs?page={len(tokens) // 50}",
        "runs by step": "/runs?sort=step",
        "runs by name": "/runs?sort=what&dir=up",
        "runs that failed": "/runs?state=FAILED",
        "runs, a search": f"/runs?q=run-{len(tokens) // 2}",
        "a run": f"/runs/{tokens[0]}",
        "its curves": f"/runs/{tokens[0]}/series",
        "sweeps": "/sweeps",
        "pipelines": "/pipelines",
        "schedule": "/schedule",
        "nodes": "/nodes",
        "queues": "/rq/0/data/queues.json",
        "workers": "/rq/0/data/workers.json",
        "jobs that wait": f"{jobs}/queued/25/asc/1.json",
        "jobs that finished, last page": f"{jobs}/finished/25/dsc/{len(tokens) // 50}.json",
        "a job": f"/rq/0/data/job/{job}.json",
    }


def visit(
    folder: Path, env: Mapping[str, str], tokens: Sequence[str], job: str, rounds: int
) -> Iterator[tuple[str, list[float]]]:
    """Start the dashboard: seconds of the first page, of the slowest one while rows are still read, then of
    each page."""
    command = [str(BIN / "hpcpools"), "dashboard"]
    server = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], cwd=folder, env=env, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    try:
        started = (re.search(r"dashboard-start where=\S*:(\d+)/", line) for line in server.stderr)
        port = next(int(found[1]) for found in started if found)
        secret = subprocess.check_output([*command, "--print-token"], cwd=folder, env=env, text=True)
        browser = Browser(port, secret.strip())
        begin = time.perf_counter()
        yield "first page after the start", [browser.ask("/")[0]]
        meanwhile = []
        while "runs are read so far" in (answer := browser.ask("/runs"))[2]:
            meanwhile.append(answer[0])
            time.sleep(0.25)
        print(f"all rows are read after {time.perf_counter() - begin:.1f} s", flush=True)
        yield "runs, while they are still read", meanwhile or [answer[0]]
        for name, path in pages(tokens, job).items():
            yield name, [browser.ask(path)[0] for _ in range(rounds)]
    finally:
        server.terminate()
        server.communicate(timeout=20)
