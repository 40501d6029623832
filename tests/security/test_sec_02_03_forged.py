"""SEC-2 and SEC-3: who can write to Redis makes us run nothing, and stops nothing."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from hpcpools.short.enqueue import ShortJob
from tests.short.lab import Lab
from tests.short.test_forged import FORGERIES, Attacker


def test_sec_2_forged_replayed_and_retargeted_jobs(lab: Lab) -> None:
    """14 kinds of forged job: each one is failed with a reason; no command, import, callback or request of
    theirs happened, and the next good job runs."""
    calls: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    attacker = Attacker(lab, f"http://127.0.0.1:{server.server_port}/")
    forged = {forgery.__name__: forgery(attacker) for forgery in FORGERIES}
    lab.start_pool()
    for name, job_id in forged.items():
        job = ShortJob(lab.config, lab.redis, job_id)
        assert job.wait(30) == "failed", name
        assert "refused: it" in job.reason(), name
    assert lab.enqueue("say", word="good").result(20) == "good"
    server.shutdown()
    server.server_close()
    assert calls == []
    assert not attacker.mark.exists()
    assert {tuple(line) for line in lab.lines()} == {("say", "good")}


def test_sec_3_a_poison_pill_among_good_jobs(lab: Lab) -> None:
    """Forged jobs among 100 good ones: 100 finish, the workers are the same processes, nothing is left."""
    attacker = Attacker(lab, "http://127.0.0.1:9/")
    forged, good = [], []
    for forgery in FORGERIES:
        good += [lab.enqueue("say", word="good") for _ in range(7)]
        forged.append(forgery(attacker))
    good += [lab.enqueue("say", word="good") for _ in range(100 - len(good))]
    lab.start_pool()
    before = lab.wait_idle_workers(2)
    assert [job.wait(60) for job in good] == ["finished"] * 100
    assert [ShortJob(lab.config, lab.redis, job_id).wait(20) for job_id in forged] == ["failed"] * len(forged)
    assert lab.workers() == before
    assert lab.redis.zcard("rq:wip:default") == lab.redis.zcard("rq:wip:maintenance") == 0
