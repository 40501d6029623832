"""Notifications end to end: a real hook, a real HTTP server on loopback, the real pool that retries."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hpcpools.runs import telemetry
from hpcpools.runs.nodes import record_failure
from hpcpools.runs.token import new_token
from tests.project import Project

SECRET = "T0000/very-secret-path"  # noqa: S105

HOOK = """
import json, os, sys
facts = json.load(sys.stdin)
named = {k: v for k, v in os.environ.items() if k.startswith("HPCPOOLS_EVENT")}
with open("told.jsonl", "a") as file:
    file.write(json.dumps({"argv": sys.argv[1:], "facts": facts, "env": named}) + "\\n")
"""


class Server:
    """A webhook on loopback: the first ``failures`` answers are 503."""

    def __init__(self, failures: int) -> None:
        self.posts: list[tuple[int, str, dict[str, Any]]] = []
        self.failures = failures
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = 503 if len(server.posts) < server.failures else 200
                server.posts.append((status, self.path, body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/{SECRET}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def texts(self) -> list[str]:
        """What was accepted."""
        return [body["text"] for status, _, body in list(self.posts) if status == 200]


@pytest.fixture
def webhook() -> Iterator[Server]:
    """A server whose first answer is a failure."""
    server = Server(failures=1)
    yield server
    server.http.shutdown()
    server.http.server_close()
    server.thread.join(5)


def told(laptop: Project) -> list[dict[str, Any]]:
    """What the hook heard."""
    file = laptop.folder / "told.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def configured(laptop: Project, url: str, mode: int = 0o600) -> None:
    """Hook and webhook in the configuration; one worker, no autostart of anything else."""
    (laptop.folder / "hook.py").write_text(HOOK)
    (laptop.folder / "webhook.url").write_text(url + "\n")
    (laptop.folder / "webhook.url").chmod(mode)
    laptop.configure(
        "[short]\nworkers = 1\n\n[notify]\n"
        f"hook = \"{sys.executable} hook.py 'two words' $HOME\"\n"
        'webhook_file = "webhook.url"\ntimeout = "10s"\n'
        "[schedule.update_job_metrics]\nenabled = false\nevery = 60\n"
        "[schedule.scan_failed_jobs]\nenabled = false\nevery = 60\n"
    )


def test_each_end_is_told_once(laptop: Project, webhook: Server) -> None:
    """A failure and a success; the webhook fails first and is retried; a second scan tells nothing again."""
    configured(laptop, webhook.url)
    bad, good = laptop.train("usertasks:fail", "--label", "eins"), laptop.train("usertasks:learn", "steps=1")
    laptop.cli("wait", bad, good, check=False)
    laptop.json("upkeep", "scan_failed_jobs")
    laptop.until(lambda: len(webhook.texts()) == 2 and len(told(laptop)) == 2, "both were told")
    for token in (bad, good):  # as if the scan had died before it took the run off its list
        (laptop.root / ".ended" / token).touch(mode=0o600)
    again = laptop.json("upkeep", "scan_failed_jobs")
    assert sum(again["verdicts"].values()) == 2
    done = laptop.json("enqueue", "usertasks:evaluate", "--wait")  # the one worker has no other job before it
    assert done["state"] == "finished"
    assert len(told(laptop)) == 2
    assert sorted(webhook.texts()) == sorted(entry["facts"]["text"] for entry in told(laptop))
    assert [status for status, _, _ in webhook.posts] == [503, 200, 200]
    first = next(entry for entry in told(laptop) if entry["facts"]["run"] == bad)
    assert first["argv"] == ["two words", "$HOME"]  # no shell
    assert first["facts"]["event"] == "run_failed"
    assert first["env"]["HPCPOOLS_EVENT"] == "run_failed"
    assert first["env"]["HPCPOOLS_EVENT_RUN"] == bad
    assert first["env"]["HPCPOOLS_EVENT_CAUSE"] == "user error"
    assert "made of cheese" in first["facts"]["reason"]
    assert "eins" in first["facts"]["text"]
    assert next(path for _, path, _ in webhook.posts) == f"/{SECRET}"
    assert not _leaks(laptop, SECRET)


def test_a_quarantine_is_told_once(laptop: Project, webhook: Server) -> None:
    """Two runs failed the GPU checks of one node: all runs avoid it now, which is news once."""
    configured(laptop, webhook.url)
    laptop.cli("up", "redis", "short")
    laptop.root.mkdir(mode=0o700, exist_ok=True)
    now = time.time()
    finding = {"check": "GPU-6", "level": "FAIL", "value": "3 uncorrected", "gpu": 0, "uuid": "GPU-1"}
    for number in range(2):
        evidence = {"at": now + number, "phase": "preflight", "verdict": "FAIL", "findings": [finding]}
        record_failure(laptop.root, "n2", new_token(now + number), evidence)
    for _ in range(2):
        laptop.json("upkeep", "scan_failed_jobs")
    laptop.until(lambda: told(laptop), "the hook hears of it")
    assert laptop.json("enqueue", "usertasks:evaluate", "--wait")["state"] == "finished"
    assert [(entry["facts"]["event"], entry["facts"]["node"]) for entry in told(laptop)] == [
        ("quarantine", "n2")
    ]


def test_a_gpu_verdict_is_told_once_in_an_attempt(laptop: Project, webhook: Server) -> None:
    """The node announces it again and again; upkeep tells each verdict once, also if the run ended since."""
    configured(laptop, webhook.url)
    token = laptop.train("usertasks:hold", f"until={laptop.folder / 'go'}")
    laptop.until_state(token, "RUNNING")
    attempt = next((laptop.root / token / "attempts").iterdir())
    for at, step in ((1.0, 5), (2.0, 6)):
        telemetry.announce(attempt, at, "idle", "notify", step)
    (attempt / "verdicts.jsonl").open("a").write('{"verdict": "<!here>", "policy": "notify"}\nnonsense\n')
    for _ in range(2):
        laptop.json("upkeep", "scan_failed_jobs")
    telemetry.announce(attempt, 3.0, "hung", "stop", 6)
    (laptop.folder / "go").write_text("")
    laptop.cli("wait", token)
    laptop.json("upkeep", "scan_failed_jobs")
    laptop.until(lambda: len(told(laptop)) == 3, "two verdicts and the end")
    facts = [entry["facts"] for entry in told(laptop)]
    verdicts = [(each["verdict"], each["policy"], each["step"]) for each in facts if "verdict" in each]
    assert verdicts == [("idle", "notify", 5), ("hung", "stop", 6)]
    assert (facts[0]["event"], facts[0]["run"]) == ("gpu_verdict", token)
    assert "does not use its GPUs well" in facts[0]["text"]
    assert "verdict: idle" in facts[0]["text"]


def test_the_address_stays_secret_when_nobody_answers(laptop: Project, webhook: Server) -> None:
    """An open file mode, plain HTTP elsewhere, a dead server: refused or retried, the address never told."""
    configured(laptop, "http://example.com/" + SECRET)
    laptop.cli("up", "redis", "short")
    facts = json.dumps({"run": "hp-x", "reason": "a\x1b[31m<!here>"})
    words = ["enqueue", "hpcpools.maintenance:deliver_notification", "event=run_failed", f"facts={facts}"]
    for url, mode, said in (
        ("http://example.com/" + SECRET, 0o600, "not https"),
        ("ftp://127.0.0.1/" + SECRET, 0o600, "not https"),
        (webhook.url, 0o644, "mode 0644"),
        ("http://127.0.0.1:1/" + SECRET, 0o600, "does not answer"),
    ):
        configured(laptop, url, mode)
        done = laptop.cli(*words, "receiver=webhook", "--retries", "0", "--wait", check=False)
        assert done.returncode == 5
        assert said in done.stdout + done.stderr
        assert SECRET not in done.stdout + done.stderr
    assert webhook.posts == []
    configured(laptop, webhook.url)
    laptop.cli(*words, "receiver=webhook", "--retries", "1", "--wait")
    assert [status for status, _, _ in webhook.posts] == [503, 200]
    assert webhook.texts() == ["hpcpools: training failed; run: hp-x, reason: a\\x1b[31m&lt;!here&gt;"]
    assert not _leaks(laptop, SECRET)


def test_a_hook_that_hangs_or_fails(laptop: Project, tmp_path: Path) -> None:
    """Ended after the timeout with all that it started; an exit code or a missing program is a failure."""
    pids = tmp_path / "pids"
    hang = tmp_path / "hang.sh"
    hang.write_text(f"sleep 300 &\necho $! $$ > {pids}\nwait\n")
    laptop.configure("[short]\nworkers = 1\n")
    laptop.cli("up", "redis", "short")
    words = ["enqueue", "hpcpools.maintenance:deliver_notification", "event=run_failed", 'facts={"run": "x"}']
    for hook, said in (
        (f"sh {hang}", "did not end within 1 s"),
        ("sh -c 'echo no such channel; exit 3'", "ended with 3: no such channel"),
        ("/no/such/program", "cannot be run"),
    ):
        laptop.configure(f'[short]\nworkers = 1\n[notify]\nhook = "{hook}"\ntimeout = "1s"\n')
        done = laptop.cli(*words, "receiver=hook", "--retries", "0", "--wait", check=False)
        assert done.returncode == 5
        assert said in done.stdout + done.stderr
    for pid in pids.read_text().split():
        laptop.until(lambda pid=pid: not _runs(pid), f"{pid} is gone", timeout=10)  # type: ignore[misc]
    laptop.configure('[notify]\nhook = "unbalanced \'quote"\n')
    assert laptop.cli("runs", check=False).returncode == 78


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _leaks(laptop: Project, secret: str) -> list[Path]:
    """Files of the pool that hold the secret; its own file is not one of them."""
    laptop.cli("down", check=False)  # Redis writes what it has
    folders = [laptop.root, Path(laptop.env["XDG_STATE_HOME"])]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if secret.encode() in path.read_bytes()]
