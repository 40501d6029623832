"""What is asked before something changes, and the help. Only the key y says yes."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

HELP = """\
up, down    choose a run         enter, l   its log, large and back
tab         to the next pane     /          filter: words, each in a name,
j           runs or short jobs              state, node, cause or job id
c           cancel it            escape     no filter
r           try it again         q          quit

Both c and r ask first. A training that is tried again keeps its name,
its frozen code and its checkpoints; a short job goes back to its queue.

The screen is renewed every 2 s. What Slurm says is the answer that all
commands share; its age stands in the first line."""


class Box(ModalScreen[bool]):
    """A text over the screen; closed by a key."""

    CSS = """
    Box { align: center middle; }
    Box > Vertical { width: auto; max-width: 90%; height: auto; max-height: 90%; padding: 1 2;
                     border: round $accent; background: $surface; }
    Box Static { width: auto; max-width: 100%; height: auto; }
    """

    def __init__(self, title: str, text: str, keys: str) -> None:
        super().__init__()
        self._title, self._text, self._keys = title, text, keys

    def compose(self) -> ComposeResult:
        """Title, text, keys."""
        with Vertical() as box:
            box.border_title = Text(self._title)
            yield Static(Text(self._text), markup=False, id="text")
            yield Static(Text(f"\n{self._keys}", style="bold"), markup=False)


class Confirm(Box):
    """True only for the key y."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,enter,q", "answer(False)", "No"),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__(title, text, "y  yes    n  no")

    def action_answer(self, yes: bool) -> None:
        """Close it."""
        self.dismiss(yes)


class Help(Box):
    """All keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q,question_mark", "close", "Close")]

    def __init__(self) -> None:
        super().__init__("keys", HELP, "escape  close")

    def action_close(self) -> None:
        """Close it."""
        self.dismiss(False)
