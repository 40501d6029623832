"""``hpcpools top``: the screen. Draws what a look found, and only what differs from the look before."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult, ScreenStackError
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.css.query import NoMatches
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Log, Static

from hpcpools.config import Config, environment
from hpcpools.errors import HpcpoolsError
from hpcpools.runs.states import RunState
from hpcpools.textsafe import one_line
from hpcpools.top import actions, rows, text
from hpcpools.top.dialogs import Confirm, Help
from hpcpools.top.facts import Facts
from hpcpools.top.watcher import Piece, Watcher

LOG_LINES = 5000
GONE = (NoMatches, ScreenStackError)  # what a late message meets while the screen is taken down
ASKED = "words of a name, state, node or cause; enter keeps the filter, escape clears it"
PANES: dict[str, tuple[str, Callable[[Facts], Text]]] = {
    "queues": ("queues", text.queues),
    "nodes": ("nodes", text.nodes),
    "workers": ("workers", text.workers),
    "services": ("services", text.services),
}


class Draw(Message):
    """Something to draw, from another thread."""

    def __init__(self, draw: Callable[[], None]) -> None:
        super().__init__()
        self.draw = draw


class Top(App[None]):
    """Pools, runs or short jobs, the log of the selected one, queues, nodes, workers and services."""

    TITLE = "hpcpools top"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012  (as Textual declares it)
    CSS_PATH = "top.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        # Before any widget sees them, so that what is typed in a burst takes effect key by key.
        Binding("question_mark", "help", "Help", key_display="?", priority=True),
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("j", "jobs", "Runs/jobs", priority=True),
        Binding("l", "log", "Log", priority=True),
        Binding("c", "cancel", "Cancel", priority=True),
        Binding("r", "retry", "Retry", priority=True),
        Binding("q", "leave", "Quit", priority=True),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
        Binding("escape", "clear", "Clear", show=False),
    ]

    def __init__(self, config: Config) -> None:
        plain = "NO_COLOR" in environment()
        super().__init__(ansi_color=True if plain else None)
        if plain:
            self.theme = "ansi-dark"
        self.config = config
        self.facts = Facts()
        self.filter_words = ""
        self._drawn: dict[str, Text] = {}
        self.watcher = Watcher(
            config,
            lambda facts: self._from_thread(partial(self.show, facts)),
            lambda piece: self._from_thread(partial(self.follow, piece)),
        )

    def compose(self) -> ComposeResult:
        """The panes, in the order in which tab goes through them."""
        yield Static(id="pools", markup=False)
        with Container(id="body"):
            with Vertical(id="left"):
                yield rows.table("runs", text.RUN_COLUMNS)
                yield rows.table("jobs", text.JOB_COLUMNS)
                yield Log(id="log", max_lines=LOG_LINES)
            with Container(id="right"):
                for name, (title, _) in PANES.items():
                    with VerticalScroll(id=f"{name}-box", classes="box") as box:
                        box.border_title = Text(title)
                        yield Static(id=name, markup=False)
        yield Input(id="filter", placeholder=ASKED, compact=True)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Begin to look."""
        self.base.query_one("#filter", Input).cursor_blink = False
        self.base.add_class("-runs")
        self._put("pools", text.pools(self.facts))
        self._title_tables()
        self._table().focus()
        self.watcher.start()

    def on_unmount(self) -> None:
        """Look no more."""
        self.watcher.stop()

    def show(self, facts: Facts) -> None:
        """Draw what a look found."""
        self.facts = facts
        with self.batch_update():
            self._put("pools", text.pools(facts))
            for name, (_, words) in PANES.items():
                self._put(name, words(facts))
            self._fill()

    def _put(self, name: str, words: Text) -> None:
        if self._drawn.get(name) != words:
            self._drawn[name] = words
            self.base.query_one(f"#{name}", Static).update(words)

    def follow(self, piece: Piece) -> None:
        """Draw new text of the selected run's log."""
        pane = self.base.query_one("#log", Log)
        if piece.name != self.selected:
            return
        if piece.first:
            pane.clear()
            pane.border_title = Text(f"log {one_line(piece.name)}" if piece.name else "log")
        at_end = piece.first or pane.is_vertical_scroll_end
        pane.write(piece.text, scroll_end=at_end)

    @property
    def base(self) -> Screen[object]:
        """The screen with the panes, whatever is asked above it."""
        if not self.screen_stack:
            raise ScreenStackError("the program ends")
        return self.screen_stack[0]

    @property
    def on_jobs(self) -> bool:
        """Short jobs are shown, not runs."""
        return self.base.has_class("-jobs")

    @property
    def selected(self) -> str:
        """The run or short job under the cursor; "" if there is none."""
        table = self._table()
        if not table.row_count or not table.is_valid_row_index(table.cursor_row):
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def _table(self) -> DataTable[Text]:
        found: DataTable[Text] = self.base.query_one("#jobs" if self.on_jobs else "#runs", DataTable)
        return found

    def _fill(self) -> None:
        cells = (text.job_rows if self.on_jobs else text.run_rows)(self.facts, self.filter_words)
        rows.fill(self._table(), text.JOB_COLUMNS if self.on_jobs else text.RUN_COLUMNS, cells)
        self._title_tables()
        self.watcher.choose(self.selected)

    def _title_tables(self) -> None:
        table = self._table()
        title = "short jobs" if self.on_jobs else "runs"
        if self.facts.at:
            title += f" {table.row_count}"
        if self.filter_words:
            title += f", filter {one_line(self.filter_words, 40)}"
        if self._drawn.get("title") != Text(f"{table.id} {title}"):
            self._drawn["title"] = Text(f"{table.id} {title}")
            table.border_title = Text(title)

    @on(DataTable.RowHighlighted)
    def _chosen(self) -> None:
        with contextlib.suppress(*GONE):
            self.watcher.choose(self.selected)

    @on(DataTable.RowSelected)
    def _opened(self) -> None:
        self.action_log()

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        self.filter_words = event.value
        self._fill()

    @on(Input.Submitted, "#filter")
    def _filtered(self) -> None:
        self._close_filter()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys in the footer are letters while a filter is typed, and rest while something is asked."""
        if action in ("help", "filter", "jobs", "log", "cancel", "retry", "leave"):
            return self.screen is self.base and not isinstance(self.focused, Input)
        return super().check_action(action, parameters)

    def action_leave(self) -> None:
        """The end."""
        self.exit()

    def action_help(self) -> None:
        """All keys."""
        self.push_screen(Help())

    def action_filter(self) -> None:
        """Type what the rows must have."""
        box = self.base.query_one("#filter", Input)
        box.display = True
        self.base.set_focus(box)  # at once: what is typed next must not reach the keys that act

    def _close_filter(self) -> None:
        self.base.set_focus(self._table())
        self.base.query_one("#filter", Input).display = False

    def action_clear(self) -> None:
        """One step back: out of the filter, or out of the large log."""
        if self.base.has_class("-log"):
            self.action_log()
        else:
            self.base.query_one("#filter", Input).value = ""
            self._close_filter()

    def action_jobs(self) -> None:
        """Show short jobs instead of runs, or runs again."""
        self.base.toggle_class("-jobs")
        self.base.toggle_class("-runs")
        self._fill()
        self._table().focus()
        self.watcher.soon(jobs=self.on_jobs)

    def action_log(self) -> None:
        """The log alone, or everything again."""
        self.base.toggle_class("-log")
        if self.base.has_class("-log"):
            self.base.query_one("#log", Log).focus()
        else:
            self._table().focus()

    def action_cancel(self) -> None:
        """Cancel what is selected, once confirmed."""
        self._ask("cancel", "Cancel it?", actions.cancel)

    def action_retry(self) -> None:
        """Try what is selected again, once confirmed."""
        self._ask(
            "retry", "Put it back into its queue?" if self.on_jobs else "Submit it again?", actions.retry
        )

    def _ask(self, title: str, question: str, act: Callable[[Config, str], str]) -> None:
        name = self.selected
        if not name:
            self.notify("nothing is selected", markup=False)
            return
        if why := self._pointless(name, title):
            self.notify(why, markup=False)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                threading.Thread(target=self._do, args=(act, name), daemon=True).start()

        self.push_screen(Confirm(title, f"{name}\n{self._called(name)}\n\n{question}"), answered)

    def _called(self, name: str) -> str:
        """What people call it, and its state."""
        for row in self.facts.runs:
            if row["run"] == name:
                return one_line(f"{row['label'] or row['what']}, {row['state']}", 60)
        return next(
            (one_line(f"{job.call}, {job.state}", 60) for job in self.facts.jobs if job.id == name), ""
        )

    def _pointless(self, name: str, title: str) -> str:
        """Why a key has nothing to do with a run; "" if it has."""
        found = next((row["state"] for row in self.facts.runs if row["run"] == name), None)
        if found is None or (title == "cancel") != RunState(found).is_final:
            return ""
        return f"{name} is {found}: nothing to {title}"

    def _do(self, act: Callable[[Config, str], str], name: str) -> None:
        """In a thread of its own: Slurm may take its time."""
        try:
            told, failed = act(self.config, name), False
        except HpcpoolsError as error:
            told, failed = str(error), True
        self._from_thread(partial(self._tell, told, failed=failed))
        self.watcher.soon()

    def _tell(self, words: str, *, failed: bool = False) -> None:
        severity: Literal["error", "information"] = "error" if failed else "information"
        self.notify(one_line(words), severity=severity, timeout=8, markup=False)

    def _from_thread(self, draw: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.post_message(Draw(draw))

    @on(Draw)
    def _draw(self, message: Draw) -> None:
        with contextlib.suppress(*GONE):
            message.draw()
