"""``python -m hpcpools.demo [FOLDER]``: run it, print the table, stop everything it started."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

from hpcpools import config as configuration
from hpcpools import enqueue, train
from hpcpools.cli.init_template import render
from hpcpools.cli.output import show_table
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.runs import checkpoints
from hpcpools.runs.states import RunState
from hpcpools.services import control
from hpcpools.short import views
from hpcpools.slurm.site import read_site
from hpcpools.training import engine
from hpcpools.training.handle import RunHandle

MODULE = "hpcpools.demo.digits"
UPKEEP = "hpcpools.maintenance:update_job_metrics"
PAUSE = 1.5  # seconds between two rounds of short tasks


@dataclass
class Lane:
    """What one kind of short task met: seconds from enqueue to start, and when it was enqueued."""

    waits: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)


def main() -> int:
    """The demo; exit code 0 only if the training completed and the short tasks were served."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output").absolute()
    folder.mkdir(mode=0o700, exist_ok=True)
    config = _configure(folder)
    where = engine.choose(config)
    click.echo(f"training goes to: {'Slurm' if where == 'slurm' else 'the local slot (no Slurm here)'}")
    try:
        control.up(config, engine=where)
        click.echo(
            "services are up: " + ", ".join(s.name for s in control.ps(config) if s.state == "running")
        )
        return _show(config, folder)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return 130
    except HpcpoolsError as error:
        click.echo(f"demo: {error}", err=True)
        return error.exit_code
    finally:
        control.down(config)
        click.echo("services are stopped")


def _configure(folder: Path) -> Config:
    """The embedded defaults: what ``hpcpools init`` writes, with the demo's module and short set-up."""
    path = folder / configuration.FILE_NAME
    runner = engine.runner(Config(file=str(path)))
    site = read_site(runner) if runner.available() else None
    path.write_text(render(site, (MODULE,)).replace("# preload", "preload", 1))
    config = configuration.load(path)
    configuration.activate(config)
    return config


def _show(config: Config, folder: Path) -> int:
    prepared = enqueue(f"{MODULE}:preprocess_dataset", {"folder": str(folder)}, config=config)
    prepared.wait(120)
    data = prepared.result()
    click.echo(f"preprocess_dataset: {data['train']} images to train on, {data['held_out']} held out")
    handle = train(f"{MODULE}:train_model", {"data": data["path"]}, config=config)
    try:
        return _during(config, handle, data["path"])
    finally:
        if not handle.state.is_final:
            handle.cancel()
            handle.wait(60)


def _during(config: Config, handle: RunHandle, data: str) -> int:
    click.echo(f"train_model: {handle.token}; short tasks are fired while it runs")
    lanes = {"update_job_metrics": Lane(), "run_evaluation": Lane()}
    bar_at = 0.0
    while not handle.state.is_final:
        newest = checkpoints.complete(handle.directory.checkpoints)
        if handle.state is RunState.RUNNING and handle.progress() is not None:
            _fire(config, lanes["update_job_metrics"], UPKEEP, {})
            if newest:
                arguments = {"checkpoint": str(newest[-1].path), "data": data}
                _fire(config, lanes["run_evaluation"], f"{MODULE}:run_evaluation", arguments)
        if time.monotonic() > bar_at and (progress := handle.progress()) is not None:
            bar_at = time.monotonic() + 10
            of = f"/{progress.total}" if progress.total else ""
            click.echo(f"  epoch {progress.step}{of}  loss {progress.values['loss']:.3f}")
        time.sleep(PAUSE)
        handle.view(max_age=5.0)
    view = handle.wait()
    if view.state is not RunState.COMPLETED:
        click.echo(f"the training ended {view.state.value}: {view.cause.value} {view.reason}", err=True)
        return 5
    ended = view.since
    last = checkpoints.complete(handle.directory.checkpoints)[-1]
    arguments = {"checkpoint": str(last.path), "data": data}
    final = enqueue(f"{MODULE}:run_evaluation", arguments, config=config)
    final.wait(120)
    accuracy = final.result()["accuracy"]
    click.echo()
    rows = []
    for name, lane in lanes.items():
        without = [ended - asked for asked in lane.asked]
        rows.append(
            [
                name,
                len(lane.waits),
                _ms(statistics.median(lane.waits)),
                _ms(max(lane.waits)),
                f"{statistics.median(without):.1f} s",
                f"{max(without):.1f} s",
            ]
        )
    columns = ["while training runs", "fired", "wait p50", "max", "p50 without pools", "max without pools"]
    show_table(columns, rows)
    click.echo("(wait: enqueue to start; without pools: the time until the training freed the one queue)")
    click.echo(f"\naccuracy on held-out images: {accuracy:.1%} at epoch {last.step}")
    click.echo(f"run directory:  {handle.directory.path}")
    click.echo(f"configuration:  {config.file}")
    return 0 if all(lane.waits for lane in lanes.values()) else 1


def _fire(config: Config, lane: Lane, name: str, arguments: dict[str, str]) -> None:
    asked = time.time()
    job = enqueue(name, arguments, config=config)
    job.wait(120)
    job.result()
    facts = views.show(config, job.id).job
    lane.asked.append(asked)
    lane.waits.append(max(0.0, (facts.started or asked) - (facts.enqueued or asked)))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
