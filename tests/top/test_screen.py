"""`hpcpools top` through Textual's pilot: every pane, every key, every size."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pty
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Log, Static

from hpcpools.cli import group
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, UsageError
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.view import read_view
from hpcpools.short import views
from hpcpools.top.app import Top
from hpcpools.top.dialogs import Confirm, Help
from hpcpools.top.facts import Look
from tests.short.lab import Lab
from tests.top.scene import EVIL, plant

Scenario = Callable[[Top, Pilot[None]], Awaitable[None]]


def play(config: Config, scenario: Scenario, size: tuple[int, int] = (120, 36)) -> None:
    """Run the screen, without a terminal, until the first look is drawn; then the scenario."""

    async def main() -> None:
        app = Top(config)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: "digits-baseline" in screen(app), "a first look")
            await scenario(app, pilot)

    asyncio.run(main())


async def until(pilot: Pilot[None], condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition while the screen works."""
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, f"never: {what}\n{screen(pilot.app)}"
        await pilot.pause(0.02)


def screen(app: Any) -> str:
    """What is drawn, line by line."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def rows(app: Top) -> list[str]:
    """The names in the table that is shown."""
    return [str(key.value) for key in app._table().rows]


async def select(app: Top, pilot: Pilot[None], name: str) -> None:
    """Move the cursor down to a row."""
    for _ in range(rows(app).index(name) - app._table().cursor_row):
        await pilot.press("down")
    await until(pilot, lambda: app.selected == name, "it is selected")


def state_of(config: Config, token: str) -> RunState:
    """As the run's files tell."""
    return read_view(RunDirectory(config.root, token)).state


def log_of(app: Top) -> str:
    """All text of the log pane."""
    return "\n".join(app.query_one("#log", Log).lines)


def test_every_pane_has_its_facts(config: Config, runs: dict[str, str]) -> None:
    """Both pools, live runs first, queues, nodes with their GPUs, workers, services."""

    async def look(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "2 workers, 0 busy" in screen(app), "workers")
        drawn = screen(app)
        assert "2 PENDING" in drawn and "2 RUNNING" in drawn and "of 9 runs" in drawn
        assert rows(app)[:2] == [runs["distill-base"], runs["distill-tiny"]]
        assert set(rows(app)) == set(runs.values())
        for word in (
            "llama-finetune",
            "1000/1000",
            "Prior",
            "evaluation",
            "85 %",
            "avoided",
            "slot stopped",
        ):
            assert word in drawn, word

    play(config, look)


def test_names_are_text_not_markup(config: Config, runs: dict[str, str]) -> None:
    """Markup and escapes in a label, a reason and a log are shown as they are; links do nothing."""

    async def look(app: Top, pilot: Pilot[None]) -> None:
        assert "[bold red]evil[/] [@click" in screen(app)
        await select(app, pilot, runs[EVIL])
        await until(pilot, lambda: "step 39" in log_of(app), "its log")
        assert f"step 39 of {EVIL[:38]}" in log_of(app) and "\x1b" not in log_of(app)
        assert "\\x1b[31m" in log_of(app)
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, Confirm), "a question")
        assert "[bold red]evil[/]" in screen(app)
        await pilot.press("n", "slash", *["left_square_bracket", "slash"])
        await until(pilot, lambda: app.filter_words == "[/" and rows(app) == [runs[EVIL]], "its row")
        drawn = screen(app)
        assert "filter [/" in drawn and not any(char in drawn for char in "\x1b\x07\u202e")

    play(config, look)


def test_filter(config: Config, runs: dict[str, str]) -> None:
    """Words, each somewhere in the row; keys typed there act on nothing; escape shows all again."""

    async def look(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"fine run", "enter")
        wanted = [runs["llama-finetune-2"], runs["llama-finetune"]]
        await until(pilot, lambda: rows(app) == wanted, "two rows")
        assert app.focused is app.query_one("#runs", DataTable)
        await pilot.press("slash", "q", "c")
        await until(pilot, lambda: rows(app) == [], "no row")
        assert app.query_one("#filter", Input).value == "qc"
        await pilot.press("enter", "c")  # nothing is selected: nothing is asked
        assert not isinstance(app.screen, Confirm)
        await pilot.press("escape")
        await until(pilot, lambda: len(rows(app)) == 9, "all rows")

    play(config, look)


def test_the_log_follows_the_selection_and_grows(config: Config, runs: dict[str, str]) -> None:
    """Its end first, what is added comes along, a large view and back."""

    async def look(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "PENDING: Priority" in log_of(app), "why there is none")
        token = runs["llama-finetune"]
        file = RunDirectory(config.root, token).attempts / "0.0" / "log.out"
        file.write_text("".join(f"filler {n}\n" for n in range(20_000)) + file.read_text())
        await select(app, pilot, token)
        await until(pilot, lambda: "step 39 of llama-finetune," in log_of(app), "its log")
        assert "filler 19999" in log_of(app) and "filler 100\n" not in log_of(app)
        await pilot.press("l")
        assert app.query_one("#log").region.height > 25 and app.query_one("#runs").region.height == 0
        with file.open("a") as out:
            out.write("10 %\r20 %\r\n\x1b[2Jnewest\n")
        await until(pilot, lambda: "newest" in log_of(app), "what was added")
        assert "10 %\n20 %\n\\x1b[2Jnewest" in log_of(app)
        await pilot.press("l")
        assert app.query_one("#runs").region.height > 5 and app.selected == token
        newer = plant(config.root, "newer", RunState.PENDING, age=1.0).token
        app.watcher.soon()
        await until(pilot, lambda: rows(app)[0] == newer, "a new run comes in above it")
        assert app.selected == token

    play(config, look)


def test_cancel_asks_and_only_y_says_yes(config: Config, runs: dict[str, str]) -> None:
    """A run of the local slot that has not started ends at once; an ended one is not asked about."""
    token = plant(config.root, "mine", RunState.PENDING, age=100.0, engine="local").token

    async def look(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.selected == token, "the newest is on top")
        for key in ("n", "enter"):
            await pilot.press("c")
            await until(pilot, lambda: isinstance(app.screen, Confirm), "a question")
            assert token in screen(app)
            await pilot.press(key)
            assert app.screen is app.base
        assert state_of(config, token) is RunState.PENDING
        await pilot.press("c", "y")
        await until(pilot, lambda: state_of(config, token) is RunState.CANCELLED, "it is cancelled")
        await until(pilot, lambda: "nothing" in _told(app) or "CANCELLED" in _told(app), "it is told")
        await until(pilot, lambda: "1 CANCELLED" in screen(app), "it is drawn")
        await select(app, pilot, runs["resnet50-sgd"])
        await pilot.press("c")
        assert not isinstance(app.screen, Confirm) and "nothing to cancel" in _told(app)

    play(config, look)


def test_retry_asks(config: Config, runs: dict[str, str]) -> None:
    """A failed run of the local slot waits again; one that completed is refused in words."""
    token = plant(config.root, "mine", RunState.FAILED, age=50.0, engine="local").token

    async def look(app: Top, pilot: Pilot[None]) -> None:
        await select(app, pilot, token)
        await pilot.press("r", "n")
        assert state_of(config, token) is RunState.FAILED
        await pilot.press("r", "y")
        await until(pilot, lambda: state_of(config, token) is RunState.PENDING, "it waits again")
        await until(pilot, lambda: "tried again" in _told(app), "it is told")
        await select(app, pilot, runs["digits-baseline"])
        await pilot.press("r", "y")
        await until(pilot, lambda: "completed" in _told(app), "it is refused")

    play(config, look)


def test_short_jobs(lab: Lab, config: Config, runs: dict[str, str]) -> None:
    """j shows them; a failed one has its traceback in the log pane, and goes back to its queue."""
    job = lab.enqueue("leave_meta", how="fail")

    async def look(app: Top, pilot: Pilot[None]) -> None:
        job.wait(20)
        await pilot.press("j")
        await until(pilot, lambda: job.id in rows(app) and "failed" in screen(app), "the job")
        await until(pilot, lambda: "Traceback" in log_of(app), "its traceback")
        before = views.show(config, job.id).job.enqueued
        await pilot.press("r", "y")
        await until(pilot, lambda: views.show(config, job.id).job.enqueued != before, "it is enqueued again")
        await until(pilot, lambda: "back in its queue" in _told(app), "it is told")
        await pilot.press("j")
        assert rows(app)[0] == runs["distill-base"]

    play(config, look)


def test_sizes(config: Config, runs: dict[str, str]) -> None:
    """From tiny to wide and back: all panes where there is room, and the cursor stays where it is."""

    async def look(app: Top, pilot: Pilot[None]) -> None:
        token = runs["vit-small lr=3e-4"]
        await select(app, pilot, token)
        for width, height in ((200, 60), (30, 8), (80, 24)):
            await pilot.resize_terminal(width, height)
            await pilot.pause()
            assert app.selected == token and len(screen(app).splitlines()) == height
            assert (app.query_one("#workers").region.height > 0) == (width >= 110)
        drawn = screen(app)
        for word in ("TRAINING", "UPKEEP", "vit-small", "log hp-", "QUEUE", "gpu-17", "Cancel", "Quit"):
            assert word in drawn, word

    play(config, look)


def test_help_and_quit(config: Config, runs: dict[str, str]) -> None:
    """? and q."""

    async def look(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help) and "try it again" in screen(app)
        await pilot.press("escape")
        assert app.screen is app.base
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running or app._exit, "the end")

    play(config, look)


def test_an_unchanged_look_draws_nothing(
    config: Config, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same facts again touch no widget; one changed cell is one cell."""

    async def look(app: Top, pilot: Pilot[None]) -> None:
        app.watcher.stop()
        await pilot.pause(0.1)
        drawn: list[str] = []
        for kind, name in ((Static, "update"), (DataTable, "update_cell"), (DataTable, "clear")):
            monkeypatch.setattr(kind, name, lambda *_a, name=name, **_k: drawn.append(name))
        app.show(app.facts)
        assert drawn == []
        first, *others = app.facts.runs
        app.show(dataclasses.replace(app.facts, runs=(first | {"step": 77}, *others)))
        assert drawn == ["update_cell"]

    play(config, look)


def test_what_does_not_answer_is_a_line(config: Config, runs: dict[str, str], tmp_path: Path) -> None:
    """Without Redis the runs are there; with Redis back, so are the queues. Slurm's silence is told, too."""
    poll = {
        "at": time.time() - 100,
        "next_try": time.time() + 600,
        "failures": 2,
        "error": "squeue timed out",
    }
    (config.root / ".poll.json").write_text(json.dumps(poll))
    away = msgspec.structs.replace(
        config, redis=msgspec.structs.replace(config.redis, url=f"unix://{tmp_path}/none.sock")
    )

    async def look(app: Top, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "Slurm does not answer: squeue timed out" in screen(app), "the line")
        assert "Redis" in "".join(app.facts.problems) and len(app.facts.problems) <= 2
        assert len(rows(app)) == 9
        app.watcher._look = Look(config)
        app.watcher.soon()
        await until(pilot, lambda: "2 workers" in screen(app), "Redis is back")

    play(away, look)


@pytest.mark.parametrize("plain", [True, False])
def test_no_colour_when_told_so(
    plain: bool, config: Config, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR: neither foreground nor background, and the cursor is still seen."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")

    async def look(app: Top, pilot: Pilot[None]) -> None:
        strips = app.screen._compositor.render_strips()
        styles = [segment.style for strip in strips for segment in strip if segment.style]
        coloured = [s for s in styles if any(c and not c.is_default for c in (s.color, s.bgcolor))]
        assert bool(coloured) is not plain
        assert not plain or any(style.reverse for style in styles)

    play(config, look)


def test_what_it_needs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal, and Textual."""
    (tmp_path / "hpcpools.toml").write_text("[project]\nmodules = []\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="needs a terminal"):
        group.main(["top"], standalone_mode=False)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r+b", buffering=0) as terminal:
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, name, terminal)
        monkeypatch.setitem(sys.modules, "textual", None)
        monkeypatch.delitem(sys.modules, "hpcpools.top.app")
        with pytest.raises(HpcpoolsError) as caught:
            group.main(["top"], standalone_mode=False)
    os.close(ours)
    assert "hpcpools[top]" in caught.value.hint


def _told(app: Top) -> str:
    return "\n".join(note.message for note in app._notifications)
