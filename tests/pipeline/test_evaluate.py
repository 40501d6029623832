"""Continuous evaluation on a real pool: each checkpoint exactly once, whoever is killed when."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from hpcpools.maintenance import cleanup
from hpcpools.pipeline import evaluate
from hpcpools.runs import checkpoints
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from tests.pipeline.lab import TASKS, PipelineLab
from tests.short.lab import wait_for


def save(run: RunDirectory, step: int, text: str = "weights") -> None:
    """A checkpoint."""
    with checkpoints.writing(run.checkpoints, step, time.time(), {"loss": 1.0 / step}) as folder:
        (folder / "state").write_text(f"{text} {step}")


def evaluated(lab: PipelineLab) -> list[int]:
    """The steps in the order in which the task itself wrote them down."""
    file = lab.folder / "evaluated"
    return [int(line.split()[0]) for line in file.read_text().splitlines()] if file.exists() else []


def submits(run: RunDirectory) -> list[Path]:
    """The markers."""
    return sorted((run.path / "evaluations").glob("*.submit.json"))


def test_twenty_checkpoints_twenty_evaluations(lab: PipelineLab) -> None:
    """Scanners killed after the marker and before the job, and after the job and before its end; two more
    in parallel; Redis wiped while evaluations run; the training saved the same step again."""
    run = lab.run()
    first = lab.loop("scan")
    lab.server.send_signal(signal.SIGSTOP)  # so that the scanner hangs right after its marker
    for step in (1, 2):
        save(run, step)
    wait_for(lambda: submits(run), "a marker")
    first.kill()
    first.wait()
    lab.server.send_signal(signal.SIGCONT)
    assert not lab.redis.keys("rq:job:evaluation-*")
    second = lab.loop("scan")
    wait_for(lambda: len(lab.redis.keys("rq:job:evaluation-*")) == 2, "the jobs")
    second.kill()
    second.wait()
    lab.start_pool()
    loops = [lab.loop("scan") for _ in range(2)]
    for step in range(3, 11):
        save(run, step)
    save(run, 10)  # a requeued training that repeats a step writes the same content
    wait_for(lambda: len(evaluated(lab)) >= 5, "some evaluations")
    lab.redis.flushall()
    for step in range(11, 21):
        save(run, step)
    run.record(RunState.COMPLETED, time.time())
    wait_for((lab.config.root / ".evaluations" / run.token).exists, "the run is done with", 60)
    for loop in loops:
        loop.kill()
        loop.wait()
    assert sorted(evaluated(lab)) == list(range(1, 21))
    found = evaluate.read(run)
    assert [each.step for each in found] == list(range(1, 21))
    assert {each.step for each in found if each.ended != "completed"} == {13}
    assert "an unlucky step" in found[12].reason
    assert found[0].result == {"step": 1}
    assert evaluate.scan(lab.config) == {"waiting": 0, "runs": 0, "problems": []}


def test_other_content_is_another_checkpoint(lab: PipelineLab) -> None:
    """The same step with new weights is evaluated again; what ended before the first scan is not."""
    old = lab.run()
    save(old, 1)
    old.record(RunState.COMPLETED, time.time() - 3600)
    run = lab.run()
    save(run, 1)
    assert evaluate.scan(lab.config)["waiting"] == 1
    save(run, 1, "better weights")
    assert evaluate.scan(lab.config)["waiting"] == 2
    assert submits(old) == []
    assert (lab.config.root / ".evaluations" / old.token).exists()


def test_cleanup_waits_for_the_evaluation(lab: PipelineLab) -> None:
    """A checkpoint that retention lets go stays until it was evaluated."""
    run = lab.run()
    for step in range(1, 7):
        save(run, step)
    assert cleanup.clean(lab.config, dry_run=True).removed == []
    evaluate.scan(lab.config)
    lab.start_pool()
    wait_for(lambda: len(list((run.path / "evaluations").glob("*.done.json"))) == 6, "all ends")
    assert [path.name[-1] for path in cleanup.clean(lab.config, dry_run=True).removed] == ["1", "2", "3"]


def test_redis_is_away(lab: PipelineLab) -> None:
    """The scan says so, and goes on when it is back."""
    run = lab.run()
    save(run, 1)
    lab.server.kill()
    lab.server.wait()
    assert evaluate.scan(lab.config)["problems"]
    lab.socket.unlink(missing_ok=True)
    lab.start_redis()
    assert evaluate.scan(lab.config) == {"waiting": 1, "runs": 1, "problems": []}
    assert lab.redis.llen("rq:queue:evaluation") == 1
    assert TASKS.encode() in (lab.redis.hget(lab.redis.keys("rq:job:*")[0], "description") or b"")
