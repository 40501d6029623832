"""The token bucket: its arithmetic, and many processes that share one file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hpcpools.errors import PermissionsError
from hpcpools.slurm.bucket import Bucket, Level, fill


def test_it_fills_up_to_its_size() -> None:
    """One token a second, twenty at most; a clock that ran backwards gives nothing."""
    assert fill(Level(3, 100), 105, rate=1, burst=20) == Level(8, 105)
    assert fill(Level(3, 100), 1000, rate=1, burst=20) == Level(20, 1000)
    assert fill(Level(3, 100), 40, rate=1, burst=20) == Level(3, 100)


def test_a_loop_of_submissions(tmp_path: Path) -> None:
    """LOAD-5: of 100 in a row twenty go at once, then one a second; never more than 30 in any 10 s."""
    now = [1000.0]
    bucket = Bucket(tmp_path / "bucket", rate=1, burst=20, clock=lambda: now[0])
    sent = []
    for _ in range(100):
        now[0] += bucket.reserve()
        sent.append(now[0])
    assert [at for at in sent if at == 1000.0] == [1000.0] * 20
    assert sent[-1] == pytest.approx(1080.0)
    assert max(sum(at <= other < at + 10 for other in sent) for at in sent) <= 30


def test_a_turn_that_is_not_waited_for(tmp_path: Path) -> None:
    """LOAD-6: a loop of 100 requests in 100 s gets at most ten answers."""
    now = [1000.0]
    bucket = Bucket(tmp_path / "bucket", rate=0.1, burst=1, clock=lambda: now[0])
    taken = 0
    for second in range(100):
        now[0] = 1000.0 + second
        taken += bucket.take()
    assert taken == 10


def test_damage_and_a_clock_far_ahead(tmp_path: Path) -> None:
    """A damaged file, or one from the future, is a full bucket; a link to elsewhere is refused."""
    path = tmp_path / "bucket"
    for text in ("{half", '{"tokens": -50, "at": 99999999}', "[]", ""):
        path.write_text(text)
        assert Bucket(path, rate=1, burst=2, clock=lambda: 1000.0).reserve() == 0.0
    path.unlink()
    path.mkdir()
    with pytest.raises((PermissionsError, OSError)):
        Bucket(path, rate=1, burst=2).reserve()


def test_processes_share_it(tmp_path: Path) -> None:
    """Four processes take fifty in all: exactly twenty did not wait."""
    script = (
        "import sys; from pathlib import Path; from hpcpools.slurm.bucket import Bucket\n"
        "b = Bucket(Path(sys.argv[1]), rate=1e-6, burst=20)\n"
        "print(sum(b.reserve() == 0 for _ in range(int(sys.argv[2]))))"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "bucket"), str(count)], stdout=subprocess.PIPE
        )
        for count in (13, 13, 12, 12)
    ]
    assert sum(int(worker.communicate(timeout=30)[0]) for worker in workers) == 20
