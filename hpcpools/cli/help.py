"""`hpcpools help [TOPIC]`: the pages of docs/ in the terminal; of any other word, that command's options."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from hpcpools.cli import complete

WIDTH = 100  # where no terminal has one: what the pages' examples need
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


@click.command(name="help")
@click.argument("words", nargs=-1, metavar="[TOPIC | COMMAND]...", shell_complete=complete.topics)
@click.pass_context
def help_(context: click.Context, words: tuple[str, ...]) -> None:
    """Read about TOPIC, or see the options of COMMAND; without either, list the topics."""
    known = pages()
    if not words:
        rows = [(name, _title(page)) for name, page in known.items()]
        width = max((len(name) for name, _ in rows), default=0)
        click.echo("Topics, each read by `hpcpools help TOPIC`:\n")
        click.echo("\n".join(f"  {name:{width}}  {title}" for name, title in rows))
        click.echo("\n`hpcpools help COMMAND` shows the options of a command; `hpcpools -h` lists them.")
    elif len(words) == 1 and words[0] in known:
        terminal = sys.stdout.isatty()
        width = (context.terminal_width or WIDTH) if terminal else WIDTH
        text = _rendered(known[words[0]].read_text(encoding="utf-8"), width, terminal)
        if terminal:
            click.echo_via_pager(text, color=True)
        else:
            click.echo(text, nl=False)
    else:
        click.echo(_options(context, words, known))


def pages() -> dict[str, Path]:
    """Topic → its page, sorted by name."""
    import hpcpools

    folder = Path(hpcpools.__file__).parent / "docs"  # in a wheel
    if not folder.is_dir():
        folder = Path(hpcpools.__file__).parent.parent / "docs"  # in the repository
    return {path.stem: path for path in sorted(folder.glob("*.md"))}


def _title(page: Path) -> str:
    with page.open(encoding="utf-8") as lines:
        return next((line[2:].strip() for line in lines if line.startswith("# ")), "")


def _rendered(text: str, width: int, terminal: bool) -> str:
    """Markdown as wrapped text; for a terminal with the styles that it has."""
    import io

    from rich.console import Console
    from rich.markdown import Markdown

    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=terminal)
    console.print(Markdown(_LINK.sub(_in_words, text), hyperlinks=False))
    lines = (line.rstrip() for line in shown.getvalue().splitlines())
    return "\n".join(lines) + "\n"


def _in_words(link: re.Match[str]) -> str:
    """A link to another page names its topic; pictures and places in the repository are text."""
    picture, label, target = link.groups()
    if "://" in target:
        return link[0]
    page = re.fullmatch(r"([\w.-]+)\.md(?:#.*)?", target)
    if picture or page is None:
        return label
    topic = f"`hpcpools help {page[1]}`"
    return topic if label == f"{page[1]}.md" else f"{label} ({topic})"


def _options(context: click.Context, words: Sequence[str], topics: dict[str, Path]) -> str:
    """The help of a command, or of a command of a group. Raises NotFoundError."""
    from hpcpools.errors import NotFoundError
    from hpcpools.textsafe import one_line

    at = context.find_root()
    for word in words:
        found = at.command.get_command(at, word) if isinstance(at.command, click.Group) else None
        if found is None:
            import difflib

            near = difflib.get_close_matches(word, [*topics, *_names(at)], n=1)
            hint = f"did you mean `hpcpools help {near[0]}`?" if near else "`hpcpools help` lists the topics"
            raise NotFoundError(f"no topic or command {one_line(' '.join(words), 80)!r}", hint=hint)
        at = click.Context(found, info_name=word, parent=at)
    return at.get_help()


def _names(context: click.Context) -> list[str]:
    return context.command.list_commands(context) if isinstance(context.command, click.Group) else []
