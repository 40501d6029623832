"""SEC-10: a name never leads out of the runs, and a log is a regular file of the run or nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcpools import atomic
from hpcpools.runs import attempts, checkpoints, directory
from hpcpools.runs.attempts import Place
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import RunState
from hpcpools.runs.token import new_token
from hpcpools.training.logs import LogReader
from tests.project import Project
from tests.security.inside import Inside

KEY = "the-words-of-the-key"
PATIENCE = 3.0  # seconds; one on a machine that has nothing else to do
NAMES = """
.. ../.. ../key ../../../../../../../etc/passwd ..%2f..%2fkey %2e%2e/key ..%252fkey ....//key ..\\..\\key
/etc/passwd /proc/self/environ //etc/passwd file:///etc/passwd ~/key hp-../../key {token}/../key
{token}/../../key {token}/run.json hs-../key pl-../key hp-* hp-? 1;id short/../../key redis.log ../logs/short
supervisor.log.1 \u2024\u2024/key \uff11_\uff11
""".split()  # noqa: SIM905
NAMES.append("..\n/key")


@pytest.fixture
def run(laptop: Project) -> RunDirectory:
    """A run that has ended, with a log, a result and a checkpoint; the key beside the runs."""
    (laptop.folder / "key").write_text(KEY)
    now = time.time()
    made = directory.create(
        laptop.root, Request(new_token(now), now, "local", Resources(), command=("true",))
    )
    made.next_submission(now)
    attempt = attempts.claim(made, 0, Place("local", "7", 0, "here", os.getpid(), 1, "boot"), now)
    assert attempt is not None
    (attempt / "log.out").write_text("all is well\n")
    (attempt / "log.err").write_text("")
    with checkpoints.writing(made.checkpoints, 1, now, {}) as folder:
        (folder / "x").write_text("1")
    atomic.append_line(made.metrics_file, {"at": now, "step": 1})
    atomic.write_json(made.result_file, 1)
    attempts.end(attempt, "completed", now)
    made.record(RunState.COMPLETED, now)
    return made


def test_sec_10_thirty_names_that_lead_elsewhere(
    laptop: Project, run: RunDirectory, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against every command that reads by name: refused, not one byte, at once, and no bug."""
    monkeypatch.chdir(run.path)
    names = [name.replace("{token}", run.token) for name in NAMES]
    assert len(names) == 30
    out = laptop.folder / "exported"
    inside.told("show", run.token)  # imports what it needs
    for name in names:
        for command in ("logs", "show", "result", "explain", "checkpoints", "export"):
            told = inside.told(command, "--", name, *([str(out)] if command == "export" else []))
            assert told.code not in (0, 70), (command, name, told.text)
            assert KEY not in told.text and "root:" not in told.text
            assert told.seconds < PATIENCE
    assert not out.exists()


def planted(run: RunDirectory, key: Path) -> Iterator[str]:
    """Each special file in the place of each file of the run, in turn."""
    (log,) = run.attempts.glob("*/log.out")
    targets = {"a key": key, "a device": Path("/dev/zero"), "proc": Path("/proc/self/environ")}
    for path in (
        log,
        run.metrics_file,
        run.events_file,
        run.result_file,
        run.run_file,
        log.with_name("end.json"),
    ):
        kept = path.with_name("kept")
        path.rename(kept)
        for kind, target in targets.items():
            path.symlink_to(target)
            yield f"{kind} for {path.name}"
            path.unlink()
        os.mkfifo(path)
        yield f"a pipe for {path.name}"
        path.unlink()
        kept.rename(path)


def test_sec_10_special_files(laptop: Project, run: RunDirectory, inside: Inside) -> None:
    """Links to a key, a device, /proc, and pipes: 0 bytes of them, no waiting."""
    assert inside.told("logs", run.token).text == "all is well\n"
    wrong = []
    for what in planted(run, laptop.folder / "key"):
        for command in ("logs", "show", "result"):
            told = inside.told(command, run.token)
            leaked = any(word in told.text for word in (KEY, "PATH=", "\\x00"))
            bug = told.code == 70 and not what.startswith("a pipe")
            if leaked or bug or told.seconds > PATIENCE:
                wrong.append((what, command, told))
    assert wrong == []
    assert inside.told("show", run.token).code == 0


def test_sec_10_linked_folders(run: RunDirectory, tmp_path: Path) -> None:
    """An attempt or a checkpoint that is a link to another folder is none."""
    (attempt,) = run.attempts.iterdir()
    attempt.rename(tmp_path / "elsewhere")
    attempt.symlink_to(tmp_path / "elsewhere")
    assert LogReader(run, None, ("log.out",)).read() == ""
    (found,) = checkpoints.complete(run.checkpoints)
    found.path.rename(tmp_path / "step")
    found.path.symlink_to(tmp_path / "step")
    assert checkpoints.complete(run.checkpoints) == []


def test_sec_10_a_page_is_bounded(run: RunDirectory) -> None:
    """A log of 3 MiB comes in pages of 1 MiB."""
    (log,) = run.attempts.glob("*/log.out")
    log.write_bytes(b"x" * (3 << 20))
    reader = LogReader(run, None, ("log.out",))
    assert [len(reader.read()) for _ in range(4)] == [1 << 20] * 3 + [0]


def test_sec_10_the_id_of_a_job_is_no_path(laptop: Project, run: RunDirectory, inside: Inside) -> None:
    """A record that names ``x/../../../../key`` as Slurm's id does not lead there."""
    for attempt in run.attempts.iterdir():
        attempt.rename(run.path / "moved")
    (run.submitit / "x").mkdir()
    (laptop.folder / "key_0_log.out").write_text(KEY)
    job = {"job_id": "x/../../../../key", "cluster": "local", "at": 1}
    atomic.write_json(run.submissions / "0.job.json", job)
    told = inside.told("logs", run.token)
    assert told.code == 3
    assert KEY not in told.text
