"""Data of a newer version: one line, exit 4, nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcpools import config as configuration
from hpcpools import formats
from hpcpools.errors import RefusedError
from hpcpools.pipeline.record import PipelineRecord
from hpcpools.runs import checkpoints
from hpcpools.runs.batches import BatchDirectory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.sweeps import SweepDirectory
from hpcpools.services import place
from hpcpools.short import declared
from tests.move.lab import plant, redis
from tests.project import Project

NEWER = formats.FORMAT + 1
ID = "01m8a3h1bgf1b4b2j4aj1n7p7z"


def newer(file: Path, **facts: object) -> Path:
    """A file as a newer version may have written it: with keys that nobody knows here."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_text(json.dumps({**facts, "format": NEWER, "shape": "new"}))
    file.chmod(0o600)
    return file


def run(root: Path) -> Callable[[], object]:
    newer(root / f"hp-{ID}" / "run.json")
    return RunDirectory(root, f"hp-{ID}").request


def sweep(root: Path) -> Callable[[], object]:
    newer(root / ".sweeps" / f"hs-{ID}.json")
    return SweepDirectory(root, f"hs-{ID}").read


def array(root: Path) -> Callable[[], object]:
    newer(root / ".sweeps" / f"hs-{ID}" / "0.json")
    return lambda: SweepDirectory(root, f"hs-{ID}").array(0)


def pipeline(root: Path) -> Callable[[], object]:
    newer(root / ".pipelines" / f"hq-{ID}" / "pipeline.json")
    return PipelineRecord(root, f"hq-{ID}").header


def batch(root: Path) -> Callable[[], object]:
    newer(root / ".lane" / f"hl-{ID}" / "batch.json")
    return BatchDirectory(root, f"hl-{ID}").read


def checkpoint(root: Path) -> Callable[[], object]:
    folder = root / f"hp-{ID}" / "checkpoints"
    newer(folder / "step-000000001" / "manifest.json", step=1)
    return lambda: checkpoints.newest_valid(folder)


def pool(root: Path) -> Callable[[], object]:
    newer(root / ".pool" / "0.json", host="x")
    return lambda: place.newest(root)


@pytest.mark.parametrize("kind", [run, sweep, array, pipeline, batch, checkpoint, pool])
def test_newer_files_are_refused(tmp_path: Path, kind: Callable[[Path], Callable[[], object]]) -> None:
    """Each with what it is, its format and ours."""
    read = kind(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(RefusedError, match=rf"has format {NEWER}, this hpcpools reads format {NEWER - 1}"):
        read()
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(("text", "fine"), [("{}", True), ('{"format": 1, "x": 2}', True),
                                            ('{"format": 2}', False), ('{"format": "1"}', False),
                                            ('{"format": true}', False)])  # fmt: skip
def test_no_number_is_the_first_format(text: str, fine: bool) -> None:
    """Data of the first versions carry none."""
    if fine:
        formats.check_bytes(text.encode(), "it")
    else:
        with pytest.raises(RefusedError):
            formats.check_bytes(text.encode(), "it")


def test_a_newer_schedule_is_left_out_with_its_reason(tmp_path: Path) -> None:
    """The scheduler goes on with the others, and tells."""
    config = configuration.parse({}, tmp_path / "hpcpools.toml", {})
    newer(config.root / ".schedule" / "nightly.json", task="usertasks:evaluate", every="1d")
    table = declared.read(config)
    assert "nightly" not in table.entries
    assert f"has format {NEWER}" in table.problems[0]


def test_the_command_line_says_it_in_one_line(laptop: Project) -> None:
    """A newer run does not hide the others; a newer Redis is not written to."""
    good, bad = plant(laptop.root, 2)
    file = laptop.root / bad / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": NEWER, "shape": "new"}))
    before = file.read_bytes()
    shown = laptop.cli("show", bad, check=False)
    assert (shown.returncode, shown.stdout) == (4, "")
    assert f"run {bad} has format {NEWER}" in shown.stderr.splitlines()[0]
    assert good in laptop.cli("runs").stdout
    assert laptop.cli("cancel", bad, check=False).returncode == 4
    laptop.cli("up", "redis")
    found = laptop.json("reconcile")
    assert (found["runs"], len(found["problems"])) == (2, 1)
    assert file.read_bytes() == before

    redis(laptop).set("hp:format", NEWER)
    keys = redis(laptop).dbsize()
    refused = laptop.cli("enqueue", "usertasks:evaluate", check=False)
    assert refused.returncode == 4
    assert f"has format {NEWER}" in refused.stderr
    assert redis(laptop).dbsize() == keys
