"""`hpcpools wait`, `result`, `cancel`: acting on runs (hp-…), sweeps (hs-…), pipelines (hq-…), short jobs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import dry_run_option, json_option, load_config, on_terminal, say, show_json
from hpcpools.runs.token import names_pipeline

if TYPE_CHECKING:
    from hpcpools.config import Config


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete.live)
@click.option("--timeout", metavar="TIME", help="Give up after this long (exit 6); the work goes on.")
@json_option
def wait(names: tuple[str, ...], timeout: str | None, as_json: bool) -> None:
    """Wait for runs, sweeps, pipelines or short jobs to end; exit 5 if one did not succeed."""
    from hpcpools import durations

    limit = None if timeout is None else durations.seconds(timeout)
    wait_for(load_config(), list(names), limit, as_json=as_json)


def wait_for(config: Config, names: list[str], timeout: float | None, *, as_json: bool = False) -> None:
    """Wait for all; raise RunFailedError if one did not succeed, WaitTimeoutError when time is up."""
    from hpcpools.errors import RunFailedError

    deadline = None if timeout is None else time.monotonic() + timeout
    failed = []
    rows = []
    if any(name.startswith("hs-") for name in names):
        from hpcpools.cli.sweeps import with_runs_of_sweeps

        names = with_runs_of_sweeps(config, names)
    for name in names:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        waiting = _wait_run if _is_run(name) else _wait_pipeline if names_pipeline(name) else _wait_job
        state, good, reason = waiting(config, name, left)
        rows.append({"name": name, "state": state, "reason": reason})
        if not as_json:
            say(f"{name}  {state}" + (f"  {reason}" if reason else ""))
        if not good:
            failed.append(name)
    if as_json:
        show_json(rows)
    if failed:
        raise RunFailedError(
            f"{len(failed)} of {len(names)} did not succeed", hint=f"see `hpcpools show {failed[0]}`"
        )


def _is_run(name: str) -> bool:
    return name.startswith("hp-")


def _wait_run(config: Config, name: str, timeout: float | None) -> tuple[str, bool, str]:
    from hpcpools.runs.states import RunState
    from hpcpools.textsafe import one_line
    from hpcpools.training.handle import open_handle

    handle = open_handle(config, name)
    bar = Bar(handle.token)
    try:
        view = handle.wait(timeout, bar.update)
    finally:
        bar.close()
    return view.state.value, view.state is RunState.COMPLETED, one_line(view.reason or view.cause.value)


def _wait_pipeline(config: Config, name: str, timeout: float | None) -> tuple[str, bool, str]:
    from hpcpools.pipeline import advance, record
    from hpcpools.pipeline.decide import StageState

    seen = advance.wait(config, record.open_record(config.root, name), timeout)
    bad = [stage for stage, found in seen.standings.items() if found.state is StageState.FAILED]
    return seen.state, seen.state == "COMPLETED", ", ".join(f"{stage} FAILED" for stage in bad)


def _wait_job(config: Config, name: str, timeout: float | None) -> tuple[str, bool, str]:
    from hpcpools.short.enqueue import fetch
    from hpcpools.textsafe import one_line

    job = fetch(config, name)
    state = job.wait(timeout)
    return state, state == "finished", "" if state == "finished" else one_line(job.reason())


class Bar:
    """A progress bar on stderr from the logged steps; silent where stderr is no terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._progress: Any = None
        self._task: Any = None

    def update(self, view: Any, progress: Any) -> None:
        """Draw what is known now."""
        if not on_terminal():
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(self._title, total=None)
            self._progress.start()
        values = progress.values if progress else {}
        facts = "  ".join(f"{name}={value:.4g}" for name, value in list(values.items())[:3])
        self._progress.update(
            self._task,
            description=f"{view.state.value} {facts}".strip(),
            completed=(progress.step or 0) if progress else 0,
            total=progress.total if progress else None,
        )

    def close(self) -> None:
        """Leave a clean line."""
        if self._progress is not None:
            self._progress.stop()


@click.command()
@click.argument("name", shell_complete=complete.works)
@click.option("--wait", "wait_", is_flag=True, help="Wait for the end first.")
@click.option("--timeout", metavar="TIME", help="With --wait: give up after this long (exit 6).")
@json_option
def result(name: str, wait_: bool, timeout: str | None, as_json: bool) -> None:
    """Print the result of a run, a pipeline's stages or a short job as JSON; of a sweep, as a table."""
    from hpcpools import durations

    config = load_config()
    limit = (None if timeout is None else durations.seconds(timeout)) if wait_ else 0.0
    if name.startswith("hs-"):
        from hpcpools.cli.sweeps import show_results

        show_results(config, name, limit, as_json=as_json)
    elif names_pipeline(name):
        from hpcpools.pipeline import advance, record

        found = record.open_record(config.root, name)
        if wait_:
            advance.wait(config, found, limit)
        show_json(advance.results(found))
    elif _is_run(name):
        from hpcpools.training.handle import open_handle

        show_json(open_handle(config, name).result(limit))
    else:
        from hpcpools.short.enqueue import fetch

        job = fetch(config, name)
        job.wait(limit)
        show_json(job.result())


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete.live)
@dry_run_option
@json_option
def cancel(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Cancel runs, sweeps, pipelines or short jobs; those that ended already stay as they are.

    A short job that runs is waited for; exit 6 if it has not ended after ten seconds.
    """
    from hpcpools.errors import WaitTimeoutError
    from hpcpools.training import cancel as cancelling
    from hpcpools.training.handle import open_handle

    config = load_config()
    sweeps = [name for name in names if name.startswith("hs-")]
    pipelines = [name for name in names if names_pipeline(name)]
    names = tuple(name for name in names if name not in (*sweeps, *pipelines))
    handles = [open_handle(config, name) for name in names if _is_run(name)]
    jobs = []
    if len(handles) < len(names):
        from hpcpools.short.enqueue import ENDED, fetch

        jobs = [fetch(config, name) for name in names if not _is_run(name)]
    deaf: list[str] = []
    if dry_run:
        rows = [(handle.token, handle.state.value) for handle in handles] + [
            (job.id, job.state) for job in jobs
        ]
    else:
        views = cancelling.cancel(config, [handle.directory for handle in handles])
        rows = [(view.token, view.state.value) for view in views]
        for job in jobs:
            job.cancel()
            rows.append((job.id, job.refresh().state))
            if job.state not in ENDED:
                deaf.append(job.id)
    if sweeps:
        from hpcpools.cli.sweeps import cancel_sweeps

        rows += cancel_sweeps(config, sweeps, dry_run=dry_run)
    rows += [_cancel_pipeline(config, name, dry_run=dry_run) for name in pipelines]
    if as_json:
        show_json([{"name": name, "state": state, "dry_run": dry_run} for name, state in rows])
    else:
        for name, state in rows:
            click.echo(f"would cancel {name} ({state})" if dry_run else f"{name}  {state}")
    if deaf:
        raise WaitTimeoutError(
            f"told to stop, and not ended yet: {', '.join(deaf)}",
            hint="`hpcpools ps` shows whether the short pool and the lane run; cancel again once they do",
        )


def _cancel_pipeline(config: Config, name: str, *, dry_run: bool) -> tuple[str, str]:
    from hpcpools.pipeline import advance, record

    found = record.open_record(config.root, name)
    seen = advance.snapshot(found) if dry_run else advance.cancel(config, found)
    return found.id, seen.state
