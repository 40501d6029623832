"""The kernel's count of what it killed for memory, in both versions of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcpools.runs.states import Cause
from hpcpools.training import oom
from hpcpools.training.ending import Ending

V1 = "9:name=systemd:/\n4:cpu,memory:/slurm/uid_7/job_3/step_0/task_0\n0::/\n"
V2 = "0::/system.slice/slurmstepd.scope/job_3/step_0/user/task_0\n"


@pytest.mark.parametrize(
    ("membership", "file", "text"),
    [
        (V1, "memory/slurm/uid_7/job_3/step_0/task_0/memory.oom_control", "under_oom 0\noom_kill 2\n"),
        (
            V2,
            "system.slice/slurmstepd.scope/job_3/step_0/user/task_0/memory.events",
            "max 4\noom 3\noom_kill 2\n",
        ),
        (V1, "memory/memory.oom_control", ""),  # the group is not visible here
        ("nonsense", "x", ""),
    ],
)
def test_the_count(tmp_path: Path, membership: str, file: str, text: str) -> None:
    """The group's own counter; 0 where it cannot be read."""
    proc, counters = tmp_path / "cgroup", tmp_path / "fs" / file
    proc.write_text(membership)
    counters.parent.mkdir(parents=True)
    counters.write_text(text)
    assert oom.kills(proc, tmp_path / "fs") == (2 if text else 0)


@pytest.mark.parametrize("outcome", ["failed", "killed"])
def test_a_kill_is_the_cause_of_a_bad_end_alone(outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that went on to its end, or heeded a warning, is not blamed; nor one that came before."""
    monkeypatch.setattr(oom, "kills", lambda: 2)
    bad = Ending(outcome, 1, cause=Cause.USER_ERROR, error="exit code 1")  # type: ignore[arg-type]
    blamed = oom.blame(bad, before=1)
    assert (blamed.outcome, blamed.cause, blamed.exit_code) == ("failed", Cause.OUT_OF_MEMORY, 1)
    assert blamed.error.startswith("exit code 1\n")
    assert oom.blame(bad, before=2) is bad
    for fine in (Ending("completed"), Ending("stopped", 75, cause=Cause.STOPPED)):
        assert oom.blame(fine, before=0) is fine
