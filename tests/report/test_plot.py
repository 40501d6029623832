"""`hpcpools plot`: one curve over all attempts, on a terminal and in files."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hpcpools.errors import HpcpoolsError, UsageError
from hpcpools.report import plot
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from tests.report.scene import curve, plant

HOSTILE = r"loss $\frac$ [/]<b>"  # as a formula it would be an error


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Two attempts, with curves."""
    made = plant(tmp_path / "runs", "two-attempts", RunState.COMPLETED, (9, 7), (5, 2), created=10)
    curve(made, bad=HOSTILE)
    return made


def test_attempts_make_one_curve(run: RunDirectory) -> None:
    """60 steps once each, as they were logged last; GPUs with a gap between the attempts."""
    logged, gpus = plot.panels(run)
    (loss,) = (line for line in logged.curves if line.name == "loss")
    assert loss.x == tuple(range(1, 61)) and logged.axis == "step"
    assert loss.y[34] == pytest.approx(1 / 35) and loss.y[9] == pytest.approx(2 / 10)
    mean, busiest = gpus.curves
    assert gpus.axis == "minutes" and max(mean.x) > 200 and None in mean.y
    assert {value for value in busiest.y if value is not None} == {90}
    assert len(plot._whole(mean)) == 2
    assert [line.name for line in plot.panels(run, ["loss"])[0].curves] == ["loss"]
    with pytest.raises(UsageError, match="has not logged 'accuracy'"):
        plot.panels(run, ["accuracy"])


def test_files(run: RunDirectory, tmp_path: Path) -> None:
    """A PNG of some size; an SVG that is XML and loads nothing. A formula in a name is text."""
    found = plot.panels(run, ["loss", HOSTILE])
    plot.file(found, tmp_path / "c.png", "run $x$")
    data = (tmp_path / "c.png").read_bytes()
    assert data.startswith(b"\x89PNG") and int.from_bytes(data[16:20], "big") > 800
    plot.file(found, tmp_path / "c.svg", "run")
    drawn = ElementTree.parse(tmp_path / "c.svg").getroot()  # noqa: S314  (our own file)
    links = [value for each in drawn.iter() for name, value in each.items() if name.endswith("href")]
    assert links and all(link.startswith("#") for link in links)
    with pytest.raises(UsageError):
        plot.file(found, tmp_path / "c.pdf", "run")


@pytest.mark.parametrize(("library", "draw"), [("plotext", "terminal"), ("matplotlib", "file")])
def test_without_the_library_there_is_a_hint(
    library: str, draw: str, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each of them is optional."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(HpcpoolsError) as caught:
        if draw == "terminal":
            plot.terminal(plot.panels(run), 80, 18, colours=False)
        else:
            plot.file(plot.panels(run), tmp_path / "c.png", "run")
    assert "hpcpools[plots]" in caught.value.hint


@pytest.mark.parametrize("colours", [True, False])
def test_on_a_terminal(colours: bool, run: RunDirectory, tmp_path: Path) -> None:
    """Through a pty: as wide as it, with colours unless NO_COLOR is set."""
    (tmp_path / "hpcpools.toml").write_text("[project]\nmodules = []\n")
    keep = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    env = keep | ({} if colours else {"NO_COLOR": "1"}) | {"COLUMNS": "72"}
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "hpcpools", "plot", run.token, "--metric", "loss"]
    started = subprocess.Popen(argv, cwd=tmp_path, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert started.wait(30) == 0
    text = said.decode()
    assert ("\x1b[" in text) is colours
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r", "").splitlines()
    assert max(map(len, lines)) == 72
    assert any("loss" in line for line in lines) and any("GPU utilisation" in line for line in lines)
    assert any("step" in line for line in lines) and any("minutes" in line for line in lines)
