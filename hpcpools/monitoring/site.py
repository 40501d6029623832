"""Slurm as this pool meets it, the services, the lane: from files and one question to our own supervisor."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from hpcpools.config import Config
from hpcpools.errors import UnavailableError
from hpcpools.lane import views
from hpcpools.lane.views import BatchView
from hpcpools.monitoring.families import Metric, counters, gauge, gauges, histograms
from hpcpools.redisdb import runtime
from hpcpools.services import apart, channel, control
from hpcpools.services.channel import Request
from hpcpools.services.state import ServiceState
from hpcpools.slurm import ledger, states
from hpcpools.slurm.ledger import Load
from hpcpools.slurm.states import Phase
from hpcpools.training import watch
from hpcpools.training.watch import Poll

PATIENCE = 2.0  # seconds for the supervisor's answer; a scrape may take ten
PHASES: tuple[Phase, ...] = ("pending", "running", "ended", "unknown")


def slurm(poll: Poll, calls: dict[str, Load], now: float) -> Iterable[Metric]:
    """The shared answer and its age, and what our commands cost."""
    age = max(0.0, now - poll.at) if poll.at else None
    text = "Age of the shared answer; grows without meaning while no run is in Slurm, as nobody asks"
    yield gauge("slurm_answer_age_seconds", text, age)
    yield gauge("slurm_poll_failures", "Polls in a row that got no answer", poll.failures)
    yield gauge("slurm_poll_interval_seconds", "When the answer counts as old", poll.interval)
    yield gauge("slurm_jobs_listed", "Runs that the last answer listed", len(poll.listed))
    yield histograms(
        "slurm_call_seconds",
        "Slurm commands of all our processes on this host",
        "command",
        ledger.BOUNDS,
        {command: (load.counts, load.total) for command, load in sorted(calls.items())},
    )
    failed: dict[str, float] = {command: load.failed for command, load in sorted(calls.items())}
    yield counters("slurm_call_failures", "Those that failed", "command", failed)


def services(found: Sequence[ServiceState]) -> Iterable[Metric]:
    """Those that are wanted; what somebody stopped is left out."""
    wanted = [one for one in found if one.state not in ("stopped", "stopping")]
    running = {one.name: float(one.state == "running") for one in wanted}
    yield gauges("service_running", "Whether a wanted service runs", "service", running)
    restarts = {one.name: float(one.restarts) for one in wanted}
    yield counters("service_restarts", "Restarts after a death", "service", restarts)


def lane(found: Sequence[BatchView]) -> Iterable[Metric]:
    """Open batches and their tasks."""
    phases = Counter(states.meaning(one.state).phase for one in found)
    counts = {str(phase): float(phases[phase]) for phase in PHASES}
    yield gauges("lane_batches", "Open batches by the phase of their Slurm job", "phase", counts)
    ended, running = sum(one.ended for one in found), sum(one.running for one in found)
    waiting = sum(one.tasks for one in found) - ended - running
    tasks = {"waiting": float(waiting), "running": float(running), "ended": float(ended)}
    yield gauges("lane_tasks", "Tasks in open batches", "state", tasks)


def read_slurm(config: Config) -> Iterable[Metric]:
    """Two small files."""
    calls = ledger.read(config.runtime_dir / ledger.NAME)
    return slurm(watch.load_poll(config.root), calls, time.time())


def read_services(config: Config) -> Iterable[Metric]:
    """Nothing where no supervisor runs. Raises UnavailableError if it does not answer."""
    if not control.running(config):
        return ()
    if apart.running(config):
        return services(apart.ps(config))
    address = runtime.socket_path(config.runtime_dir, channel.SOCKET_NAME)
    try:
        return services(channel.call(address, Request("ps"), PATIENCE).services)
    except OSError as error:
        raise UnavailableError(f"the supervisor does not answer: {error}") from None


def read_lane(config: Config) -> Iterable[Metric]:
    """Nothing without a lane."""
    return lane(views.open_batches(config)) if config.has_lane else ()
