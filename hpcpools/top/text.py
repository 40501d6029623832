"""Words for what the screen shows: pure functions of one look, as rich texts in which nothing is markup.

Every piece that a user, a job or Redis wrote goes through :func:`words`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.text import Text

from hpcpools import durations
from hpcpools.runs.states import RunState
from hpcpools.textsafe import one_line
from hpcpools.top.facts import Facts

# What a state means to a reader; the word is always there, too.
COLOURS = {
    "COMPLETED": "green",
    "finished": "green",
    "running": "green",
    "RUNNING": "cyan",
    "started": "cyan",
    "busy": "cyan",
    "FAILED": "red",
    "failed": "red",
    "LOST": "red",
    "OUT_OF_MEMORY": "red",
    "backoff": "red",
    "TIMEOUT": "yellow",
    "CANCELLED": "yellow",
    "canceled": "yellow",
    "stopped": "yellow",
    "suspended": "yellow",
}
RUN_COLUMNS = ("STATE", "SINCE", "WHAT", "NODE", "STEP", "WHY", "RUN")
JOB_COLUMNS = ("STATE", "SINCE", "CALL", "QUEUE", "RAN", "WORKER", "JOB")
TITLE = "bold"

Cells = tuple[Text, ...]


def words(value: Any, limit: int = 60, style: str = "") -> Text:
    """One line of harmless text."""
    return Text(one_line("" if value is None else str(value), limit), style=style, no_wrap=True, end="")


def state(value: str) -> Text:
    """A state in its colour."""
    return words(value, 16, COLOURS.get(value, ""))


def age(at: float | None, now: float) -> str:
    """``5m``; "" for never."""
    return durations.age(now - at) if at else ""


def run_rows(facts: Facts, wanted: str) -> dict[str, Cells]:
    """Run → cells of :data:`RUN_COLUMNS`, of the runs that fit the filter."""
    found: dict[str, Cells] = {}
    for row in facts.runs:
        name = row["label"] or row["what"]
        why = row["cause"] or row["reason"]
        if _fits(wanted, row["run"], name, row["what"], row["state"], row["node"], row["job_id"], why):
            found[row["run"]] = (
                state(row["state"]),
                words(age(row["since"], facts.at)),
                words(name, 26),
                words(row["node"], 16),
                words(steps(row)),
                words(why, 30),
                words(row["run"]),
            )
    return found


def job_rows(facts: Facts, wanted: str) -> dict[str, Cells]:
    """Short job → cells of :data:`JOB_COLUMNS`, of the jobs that fit the filter."""
    found: dict[str, Cells] = {}
    for job in facts.jobs:
        if _fits(wanted, job.id, job.call, job.state, job.queue, job.worker):
            begin = job.ended or job.started or job.enqueued
            ran = f"{job.ended - job.started:.2f} s" if job.ended and job.started else ""
            found[job.id] = (
                state(job.state),
                words(age(begin, facts.at)),
                words(job.call, 30),
                words(job.queue, 16),
                words(ran),
                words(job.worker, 20),
                words(job.id),
            )
    return found


def steps(row: dict[str, Any]) -> str:
    """``120/1000`` or ``120``."""
    if row["step"] is None:
        return ""
    return f"{row['step']}/{row['total']}" if row["total"] else str(row["step"])


def pools(facts: Facts) -> Text:
    """Both pools, the schedule and the services, a line each; then a line for each thing that is wrong."""
    if not facts.at:
        return Text("looking …")
    lines = [_training(facts), _short(facts), _upkeep(facts)]
    if facts.slurm_error:
        lines.append(words(f"Slurm does not answer: {facts.slurm_error}", 200, "red"))
    lines += [words(problem, 200, "red") for problem in facts.problems]
    return Text("\n").join(lines)


def queues(facts: Facts) -> Text:
    """Depth and age of every queue, the training queue first."""
    live = [row for row in facts.runs if not RunState(row["state"]).is_final]
    running = [row for row in live if row["state"] == RunState.RUNNING.value]
    waiting = [row["created"] for row in live if row["state"] != RunState.RUNNING.value]
    oldest = age(min(waiting), facts.at) if waiting else ""
    rows: list[Sequence[Any]] = [("training", len(waiting), len(running), "", oldest)]
    for queue in facts.queues:
        since = "" if queue.oldest is None else durations.age(queue.oldest)
        rows.append((queue.name, queue.waiting, queue.running, queue.failed, since))
    return table(("QUEUE", "WAIT", "RUN", "FAIL", "AGE"), rows)


def nodes(facts: Facts) -> Text:
    """Where our runs are, and which nodes failed their checks."""
    rows = [
        (
            node.name,
            node.runs,
            node.gpus,
            "" if node.busy is None else f"{node.busy:.0f} %",
            "avoided" if node.avoided else f"{node.failures} failed" if node.failures else "",
        )
        for node in facts.nodes
    ]
    return table(("NODE", "RUNS", "GPUS", "BUSY", "CHECKS"), rows, "none of our runs is on a node")


def workers(facts: Facts) -> Text:
    """The workers of the short pool."""
    rows = [
        (each.name, state(each.state), age_of(each.heartbeat_age), each.finished, each.failed)
        for each in facts.workers
    ]
    return table(("WORKER", "STATE", "BEAT", "DONE", "FAIL"), rows, "none: start them with `hpcpools up`")


def age_of(seconds: float | None) -> str:
    """A length of time that may be unknown."""
    return "" if seconds is None else durations.age(seconds)


def services(facts: Facts) -> Text:
    """The services and since when they are so."""
    rows = [(each.name, state(each.state), age(each.since, facts.at), each.detail) for each in facts.services]
    return table(("SERVICE", "STATE", "SINCE", ""), rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "") -> Text:
    """Aligned columns under a bold line of their names."""
    cells = [
        [cell if isinstance(cell, Text) else words(cell, 24) for cell in row]
        for row in ([words(name, style=TITLE) for name in columns], *rows)
    ]
    if len(cells) == 1 and empty:
        return Text(empty)
    widths = [max(row[at].cell_len for row in cells) for at in range(len(columns))]
    lines = []
    for row in cells:
        line = Text(no_wrap=True, end="")
        for cell, width in zip(row, widths, strict=True):
            line.append_text(cell).append(" " * (width - cell.cell_len + 2))
        line.rstrip()
        lines.append(line)
    return Text("\n").join(lines)


def _training(facts: Facts) -> Text:
    line = Text("TRAINING  ", style="")
    if facts.engine == "slurm":
        seen = f"Slurm as of {age(facts.slurm_as_of, facts.at)} ago" if facts.slurm_as_of else "Slurm"
        line.append(seen)
    else:
        line.append("local slot")
    counts = Counter(row["state"] for row in facts.runs)
    for name in (each.value for each in RunState if counts[each.value]):
        line.append(f"  {counts[name]} ").append_text(state(name))
    return line.append(f"  of {facts.known} runs")


def _short(facts: Facts) -> Text:
    line = Text("SHORT     ")
    busy = sum(each.state in ("busy", "started") or bool(each.job) for each in facts.workers)
    line.append(f"{len(facts.workers)} workers, {busy} busy")
    for name in ("waiting", "running", "failed"):
        number = sum(getattr(queue, name) for queue in facts.queues)
        line.append(f"  {number} {name}", style="red" if name == "failed" and number else "")
    if any(each.state == "suspended" for each in facts.workers):
        line.append("  suspended", style="yellow")
    return line


def _upkeep(facts: Facts) -> Text:
    line = Text("UPKEEP    ")
    # Where Slurm is, nobody needs the local slot.
    wanted = [each for each in facts.services if each.name != "slot" or facts.engine != "slurm"]
    down = [each for each in wanted if each.state != "running"]
    line.append(f"{len(wanted) - len(down)} of {len(wanted)} services run")
    if down:
        names = ", ".join(f"{each.name} {each.state}" for each in down[:3])
        bad = any(each.state == "backoff" for each in down)
        line.append(": ").append_text(words(names, 80, "red" if bad else "yellow"))
    due = [entry for entry in facts.schedule if entry.next_due is not None]
    if due:
        first = min(due, key=lambda entry: entry.next_due or 0.0)
        when = durations.due((first.next_due or 0.0) - facts.at)
        line.append("  next ").append_text(words(first.name, 30)).append(f" {when}")
        if not first.holder:
            line.append("  no scheduler is live", style="red")
    return line


def _fits(wanted: str, *fields: str) -> bool:
    """Every word of the filter is in one of the fields."""
    text = "\n".join(fields).lower()
    return all(word in text for word in wanted.lower().split())
