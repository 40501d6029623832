"""`hpcpools logs`: of a run, of a service, or of one short job across all services."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import load_config, note

if TYPE_CHECKING:
    import re

    from hpcpools.config import Config
    from hpcpools.services.history import Filter
    from hpcpools.training.handle import RunHandle
    from hpcpools.training.logs import LogReader

LOOK_EVERY = 0.3  # seconds
ALL = "all"


@click.command(epilog="Examples: hpcpools logs hp-… -f; hpcpools logs short --since 1h --grep fail")
@click.argument("name", metavar="RUN|SERVICE|JOB|all", shell_complete=complete.logs)
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends, or Ctrl-C.")
@click.option("--attempt", type=click.IntRange(1), help="Of a run: this attempt instead of the newest.")
@click.option("--node", default="", help="Of a run on several nodes: only this one.")
@click.option("--stderr", is_flag=True, help="Of a run: the error log only.")
@click.option("--tail", "-n", type=click.IntRange(0), help="Only the last N lines.")
@click.option("--since", metavar="TIME", help="Of services: only what is not older, such as 10m or 2h.")
@click.option("--about", metavar="ID", default="", help="Of services: only what names this id.")
@click.option("--grep", "pattern", metavar="REGEX", help="Only lines that match.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, or per text read of a run.")
def logs(
    name: str,
    follow: bool,
    attempt: int | None,
    node: str,
    stderr: bool,
    tail: int | None,
    since: str | None,
    about: str,
    pattern: str | None,
    as_json: bool,
) -> None:
    """Print the log of a run (each attempt has its own), of a service, or all that was said of a job."""
    from hpcpools.services import history
    from hpcpools.short import views
    from hpcpools.training.handle import open_handle
    from hpcpools.training.logs import LogReader

    config = load_config()
    grep = _compiled(pattern) if pattern else None
    if name in history.names(config) or name == ALL:
        _refuse_of_services(attempt, stderr)
        of = history.names(config) if name == ALL else (name,)
        _services(config, of, history.Filter(_since(since), grep, about), follow, tail, as_json)
    elif about:
        raise click.UsageError("--about is for services: hpcpools logs all --about ID")
    elif name.startswith("hp-"):
        if since:
            raise click.UsageError("a run's log has no times: use --tail, or --since of a service")
        handle = open_handle(config, name)
        files = ("log.err",) if stderr else ("log.out", "log.err")
        _run(handle, LogReader(handle.directory, attempt, files, node), follow, tail, grep, as_json)
    else:
        _refuse_of_services(attempt, stderr)
        views.show(config, name)  # or it is no job at all
        wanted = history.Filter(_since(since), grep, about=name)
        _services(config, history.names(config), wanted, follow, tail, as_json)


def _since(text: str | None) -> float | None:
    from hpcpools import durations

    return None if text is None else time.time() - durations.seconds(text)


def _compiled(pattern: str) -> re.Pattern[str]:
    import re

    try:
        return re.compile(pattern)
    except re.error as error:
        raise click.UsageError(f"--grep {pattern!r} is no regular expression: {error}") from None


def _refuse_of_services(attempt: int | None, stderr: bool) -> None:
    if attempt is not None or stderr:
        raise click.UsageError("--attempt and --stderr are for runs")


def _services(
    config: Config, of: tuple[str, ...], wanted: Filter, follow: bool, tail: int | None, as_json: bool
) -> None:
    from hpcpools.services import history, logs

    def show(lines: list[dict[str, Any]]) -> None:
        for facts in lines:
            words = json.dumps(facts) if as_json else logs.render(facts)
            prefix = f"{facts.get('service', '')}: " if len(of) > 1 and not as_json else ""
            click.echo(prefix + words)

    follower = history.Follower(config, of, wanted)
    found = history.read(config, of, wanted)
    show(found if tail is None else found[len(found) - min(tail, len(found)) :])
    if not found and not follow:
        note("nothing is in the logs" + (" that matches" if wanted != history.Filter() else ""))
    while follow:
        time.sleep(LOOK_EVERY)
        show(follower.read())


def _run(
    handle: RunHandle,
    reader: LogReader,
    follow: bool,
    tail: int | None,
    grep: re.Pattern[str] | None,
    as_json: bool,
) -> None:
    show = partial(_print_json, handle.token) if as_json else _print
    show(reader.read(), tail, grep)
    waiting = False
    while follow:
        view = handle.view(ask=True)
        text = reader.read()
        show(text, None, grep)
        if view.state.is_final and not text:
            note(
                f"{handle.token} {view.state.value}" + (f" ({view.cause.value})" if view.cause.value else "")
            )
            return
        if not view.attempts and not waiting:
            waiting = True
            note(f"{view.state.value}: {view.reason or 'not started yet'}")
        time.sleep(LOOK_EVERY)
    if not handle.view().attempts:
        note(f"{handle.token} is {handle.state.value}: no attempt has started")


def _chosen(text: str, tail: int | None, grep: re.Pattern[str] | None) -> str:
    """Progress bars write bare carriage returns; in a log each is a new line."""
    if tail is None and grep is None:
        return text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").splitlines(keepends=True)
    lines = [line for line in lines if grep is None or grep.search(line)]
    return "".join(lines if tail is None else lines[len(lines) - min(tail, len(lines)) :])


def _print_json(run: str, text: str, tail: int | None, grep: re.Pattern[str] | None) -> None:
    if chosen := _chosen(text, tail, grep):
        click.echo(json.dumps({"run": run, "lines": chosen.splitlines()}))


def _print(text: str, tail: int | None, grep: re.Pattern[str] | None) -> None:
    from hpcpools.textsafe import escape

    if chosen := _chosen(text, tail, grep):
        click.echo(escape(chosen), nl=False)
