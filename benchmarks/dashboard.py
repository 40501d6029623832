"""Every page of the dashboard with 100 000 run records and 100 000 short jobs on record.

The records are planted: directories as they stay behind, the index as upkeep writes it, jobs as rq keeps
them. Each page is asked for over HTTP, as a browser does; the time is up to the last byte.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks import machine
from benchmarks.cli_start import BIN
from hpcpools import config
from hpcpools.config import Config
from hpcpools.redisdb import keys
from hpcpools.redisdb.connect import connect
from hpcpools.runs.request import Request, Resources, encode
from hpcpools.runs.token import new_token

RECORDS = 100_000
ROUNDS = 5
LIMIT = 1.0  # seconds for any page
STATES = ("COMPLETED", "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")
SETTINGS = (
    '[training]\nengine = "local"\n[services]\nruntime_dir = "run"\nautostart = false\n'
    '[redis]\nurl = "unix://{socket}"\n'
)


def plant_runs(settings: Config, number: int) -> tuple[list[str], dict[str, str]]:
    """Ended runs, newest last, and the rows of the index."""
    now = time.time()
    settings.root.mkdir(mode=0o700)
    for mark in (".live", ".ended"):
        (settings.root / mark).mkdir(mode=0o700)
    rows = {}
    for each in range(number):
        at = now - (number - each) * 60
        token, state = new_token(at), STATES[each % len(STATES)]
        request = Request(
            token, at, "slurm", Resources(gpus=4, partition="gpu"), target="t:fit", label=f"run-{each}"
        )
        folder = settings.root / token
        folder.mkdir(mode=0o700)
        (folder / "run.json").write_bytes(encode(request))
        (folder / "events.jsonl").write_text(json.dumps({"at": at + 50, "state": state}) + "\n")
        rows[token] = json.dumps(
            {
                "run": token,
                "state": state,
                "since": at + 50,
                "as_of": at + 50,
                "created": at,
                "engine": "slurm",
                "what": "t:fit",
                "label": f"run-{each}",
                "cause": "",
                "reason": "",
                "partition": "gpu",
                "node": f"gpu-{each % 64:03d}",
                "job_id": str(each),
                "gpus": 4,
                "nodes": 1,
                "attempts": 1,
                "step": each % 1000,
                "total": 1000,
                "detail": "",
                "exit_code": 0,
                "minutes": 720,
                "metrics": {},
            }
        )
    return list(rows), rows


def plant_jobs(redis: Any, number: int) -> None:
    """Half of them waiting, half finished."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    redis.sadd("rq:queues", "rq:queue:default")
    for first in range(0, number, 5000):
        with redis.pipeline(transaction=False) as pipe:
            for each in range(first, min(number, first + 5000)):
                name, waits = f"job-{each:06d}", each % 2
                facts = {
                    "status": "queued" if waits else "finished",
                    "origin": "default",
                    "created_at": stamp,
                }
                facts |= {"enqueued_at": stamp, "description": f"tasks:evaluate(ckpt={each})", "data": "[]"}
                pipe.hset(f"rq:job:{name}", mapping=facts)
                if waits:
                    pipe.rpush("rq:queue:default", name)
                else:
                    pipe.zadd("rq:finished:default", {name: time.time() + 86400})
            pipe.execute()


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


def pages(tokens: Sequence[str]) -> dict[str, str]:
    """Every page, and the heavier ways to ask for the runs."""
    jobs = "/rq/0/data/jobs/default"
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
        "jobs that finished, last page": f"{jobs}/finished/25/dsc/1900.json",
        "a job": "/rq/0/data/job/job-000001.json",
    }


def measure(settings: Config, tokens: Sequence[str], rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Start the dashboard; the first page, the time until all rows are read, then each page."""
    command = [str(BIN / "hpcpools"), "dashboard", "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, cwd=settings.folder, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        port = 0
        for line in server.stderr:
            if found := re.search(r"dashboard-start where=\S*:(\d+)/", line):
                port = int(found[1])
                break
        secret = subprocess.run(
            [*command[:2], "--print-token"], cwd=settings.folder, capture_output=True, text=True, check=True
        )
        browser = Browser(port, secret.stdout.strip())
        begin = time.perf_counter()
        yield "first page after the start", [browser.ask("/")[0]]
        worst = 0.0
        while "runs are read so far" in (answer := browser.ask("/runs"))[2]:
            worst = max(worst, answer[0])
            time.sleep(0.25)
        yield "until all rows are read", [time.perf_counter() - begin]
        yield "slowest page meanwhile", [worst]
        for name, path in pages(tokens).items():
            yield name, [browser.ask(path)[0] for _ in range(rounds)]
        status = Path(f"/proc/{server.pid}/status").read_text()
        yield "memory, MiB", [int(status.partition("VmRSS:")[2].split()[0]) / 1024]
    finally:
        server.terminate()
        server.wait(20)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a page took longer than a second."""
    parser = argparse.ArgumentParser(prog="benchmarks dashboard", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--runs", type=int, default=RECORDS)
    options, _ = parser.parse_known_args(argv)
    slow = []
    with machine.folder() as folder:
        os.umask(0o077)
        server = machine.Redis(folder, "none")
        try:
            (folder / "hpcpools.toml").write_text(SETTINGS.format(socket=server.socket))
            settings = config.load(folder / "hpcpools.toml")
            begin = time.perf_counter()
            tokens, rows = plant_runs(settings, options.runs)
            with connect(settings) as redis:
                plant_jobs(redis, options.runs)
                print(
                    f"{options.runs} runs and jobs planted in {time.perf_counter() - begin:.0f} s", flush=True
                )
                for indexed in (True, False):
                    redis.delete(keys.INDEX)
                    names = list(rows)
                    for first in range(0, len(names) if indexed else 0, 5000):
                        redis.hset(
                            keys.INDEX, mapping={name: rows[name] for name in names[first : first + 5000]}
                        )
                    print("with the index" if indexed else "without the index", flush=True)
                    for name, took in measure(settings, tokens, options.rounds):
                        print(f"  {name:32}{statistics.median(took):9.3f}{max(took):9.3f}", flush=True)
                        if max(took) > LIMIT and name[:5] not in ("until", "memor"):
                            slow.append(name)
        finally:
            server.stop()
    if slow:
        print(f"longer than {LIMIT:g} s: {', '.join(slow)}")
    return bool(slow)


if __name__ == "__main__":
    sys.exit(main())
