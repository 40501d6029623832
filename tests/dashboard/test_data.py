"""What the pages are made of, without a browser: rows, curves, pieces of logs, drawings."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from msgspec import structs

from hpcpools import config
from hpcpools.dashboard import graph, logtail, shown
from hpcpools.dashboard.rows import Row, parsed
from hpcpools.dashboard.table import Table
from hpcpools.pipeline import definition
from hpcpools.runs import curves, directory
from hpcpools.runs.attempts import Attempt
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.metrics import log
from hpcpools.runs.states import RunState
from tests.dashboard import scene


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Of planted runs; no thread, no Redis, no Slurm."""
    file = tmp_path / "hpcpools.toml"
    file.write_text('[training]\nengine = "local"\n[services]\nruntime_dir = "run"\n')
    settings = config.load(file)
    scene.plant(settings.root, 12)
    return Table(settings)


def test_the_table_follows_the_directories(table: Table) -> None:
    """New, ended, revived and removed runs; without an index all comes from the files."""
    table.look()
    assert not table._fill(time.monotonic() + 60)
    assert (table.counts()["COMPLETED"], sum(table.counts().values()), table.live()) == (7, 14, [])
    run = RunDirectory(table.config.root, table.page(text="ablation-011").rows[0].run)
    run.revive(time.time())
    table.look()
    assert [row.run for row in table.live()] == [run.token]
    run.record(RunState.CANCELLED, time.time())
    table.look()
    assert table.live() == [] and table.page(text=run.token).rows[0].state == "CANCELLED"
    run.path.rename(run.path.with_name("gone"))
    table.look()
    assert table.page(text=run.token).found == 0


def test_a_damaged_run_is_shown_as_such(table: Table) -> None:
    """It hides no other, and is not read again and again."""
    run = RunDirectory(table.config.root, directory.tokens(table.config.root)[0])
    run.run_file.write_text("{")
    table.look()
    assert not table._fill(time.monotonic() + 60)
    assert table.loaded() == (14, 14) and table.page(text=run.token).rows[0].state == "UNREADABLE"


def test_pages_of_rows(table: Table) -> None:
    """Filtered and sorted over all of them, then cut."""
    table.look()
    table._fill(time.monotonic() + 60)
    every = [row.label for row in table.page(text="ablation", size=100).rows]
    assert every == sorted(every, reverse=True) and len(every) == 12
    page = table.page(text="ABLATION", state="FAILED", sort="what", down=False, first=1, size=1)
    assert (page.found, [row.label for row in page.rows]) == (3, ["ablation-006"])
    assert table.page(text="ablation", down=False, size=1).rows[0].label == "ablation-000"


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"run": 5}', b"\xff", b'{"run": "x", "state": "RUNNING", "since": "now"}']
)
def test_an_index_that_somebody_wrote(text: bytes) -> None:
    """What is no row is as good as not there."""
    assert parsed(text) is None


def test_a_row_of_the_index() -> None:
    """Facts that lists do not show are passed over."""
    facts = {
        "run": "hp-1",
        "state": "FAILED",
        "since": 1.5,
        "created": 1,
        "metrics": {"loss": 1},
        "label": "x",
    }
    assert parsed(json.dumps(facts).encode()) == Row("hp-1", "FAILED", 1.5, 1.0, label="x")


def test_curves_of_any_length(tmp_path: Path) -> None:
    """Thinned to what a screen shows, the newest point kept; of a long file only samples are read."""
    file = tmp_path / "metrics.jsonl"
    for step in range(1, 6):
        log(file, 10.0 + step, step, None, {"loss": 1 / step, "note": float("nan")})
    log(file, 20.0, 3, None, {"loss": 7.0})  # resumed: the newest counts
    found = curves.metrics(file)
    assert found["x"] == [1, 2, 3, 4, 5] and found["names"] == ["loss"] and found["columns"][0][2] == 7.0
    line = json.dumps({"at": 1.0, "step": 0, "loss": 0.5, "pad": "x" * 60})
    file.write_text("".join(line.replace('"step": 0', f'"step": {step}') + "\n" for step in range(120_000)))
    assert file.stat().st_size > 2 * curves.WHOLE
    begin = time.monotonic()
    found = curves.metrics(file)
    assert time.monotonic() - begin < 5
    assert found["x"][-1] == 119_999 and 900 < len(found["x"]) <= curves.POINTS
    gaps = [after - before for before, after in zip(found["x"], found["x"][1:], strict=False)]
    assert max(gaps) < 1000
    assert curves.lines(tmp_path) == curves.lines(tmp_path / "none") == []


def test_a_log_piece_by_piece(tmp_path: Path) -> None:
    """The end first, in whole lines; then what is new; never half a character."""
    attempt = Attempt(1, 0, 0, tmp_path)
    text = "".join(f"line {number} \u00e9\n" for number in range(9000))
    data = (text + "\u20ac").encode()
    (tmp_path / "log.out").write_bytes(data[:-1])
    piece = logtail.read(attempt, "out", "", None)
    assert piece["text"].startswith("line ") and piece["text"].endswith("line 8999 \u00e9\n")
    (tmp_path / "log.out").write_bytes(data + b"\x1b[2Jend")
    more = logtail.read(attempt, "out", "", piece["next"])
    assert more["text"] == "\u20ac\\x1b[2Jend" and more["next"] == more["size"]
    assert logtail.read(attempt, "out", "", 10**9)["text"] == ""
    assert logtail.read(attempt, "err", "", None)["text"] == logtail.read(None, "out", "", 0)["text"] == ""


def test_the_drawing_of_a_pipeline(tmp_path: Path) -> None:
    """Each stage right of all it waits for, no two on one place, an edge per wait."""
    file = tmp_path / "nightly.toml"
    file.write_text(scene.PIPELINE)
    found = definition.read(file)
    drawing = graph.draw(found)
    places = {box.name: (box.x, box.y) for box in drawing.boxes}
    assert len(set(places.values())) == 5 and len(drawing.paths) == 5
    for name, stage in found.stages.items():
        assert all(places[before][0] < places[name][0] for before in definition.edges(stage))
    assert all(
        x + graph.BOX[0] <= drawing.width and y + graph.BOX[1] <= drawing.height for x, y in places.values()
    )


def test_sentences_with_commands() -> None:
    """What stands in backticks becomes code, all else text."""
    assert shown.commands("run `hpcpools up` <b>") == "run <code>hpcpools up</code> &lt;b&gt;"
    assert shown.commands("`<i>` and ` alone") == "<code>&lt;i&gt;</code> and  alone"


def test_a_look_that_fails_is_told(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page does not wait for facts that do not come; it says why there are none."""
    broken = structs.replace(table.config, training=structs.replace(table.config.training, engine="slurm"))
    monkeypatch.setenv("PATH", "/nowhere")
    table.config = broken
    table.start()
    begin = time.monotonic()
    table.want()
    assert time.monotonic() - begin < 5
    assert "not on PATH" in table.facts.problem
