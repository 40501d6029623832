"""The schedules to be served, each checked against the allow-list: what to fire, when, into which queue.

Owns the step from what is declared to plans. Refuses a schedule that could never fire, before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpcpools import catalog
from hpcpools.config import Config
from hpcpools.errors import ConfigError, HpcpoolsError, UsageError
from hpcpools.schema import LANE_QUEUE
from hpcpools.short import declared, slots
from hpcpools.short.declared import Declared, Table
from hpcpools.short.timetable import Record


@dataclass(frozen=True)
class Plan:
    """One schedule, checked: what to fire, when, and into which queue."""

    name: str
    timing: slots.Timing
    queue: str
    entry: catalog.Entry

    @property
    def id(self) -> str:
        """The fixed id of its entry in rq-scheduler."""
        return entry_id(self.name)

    def knows(self, record: Record) -> bool:
        """Whether ``record`` tells the last slot of this very timing."""
        return record.last_slot is not None and record.timing == str(self.timing)


def entry_id(name: str) -> str:
    """The id of schedule ``name`` in rq-scheduler."""
    return f"schedule-{name}"


def plans(config: Config, known: catalog.Catalog) -> list[Plan]:
    """The plans of the config. Raises ConfigError for a wrong timing, or a task that no short pool runs."""
    entries = (Declared(name, schedule, config.file) for name, schedule in config.schedules.items())
    return [plan(config, known, entry) for entry in entries]


def served(config: Config, known: catalog.Catalog, table: Table) -> tuple[list[Plan], list[str]]:
    """The plans of all schedules that are on, and what is wrong with the others."""
    found, problems = [], list(table.problems)
    for entry in table.entries.values():
        if entry.state == "on":
            try:
                found.append(plan(config, known, entry))
            except ConfigError as error:
                problems.append(error.message)
    return found, problems


def plan(config: Config, known: catalog.Catalog, entry: Declared) -> Plan:
    """The plan of one schedule. Raises ConfigError naming file and key."""
    timing = slots.timing(config, entry.name, entry.schedule, entry.file)
    name = entry.schedule.task
    try:
        task = known.short(name)
        catalog.check_arguments(task, {})
        queue = catalog.destination(
            config, task, LANE_QUEUE if task.queue == LANE_QUEUE else entry.schedule.queue
        )
    except HpcpoolsError as error:
        raise ConfigError(
            f"{entry.file}: schedule.{entry.name}.task = {name!r}: {error.message}",
            hint=error.hint or "`hpcpools tasks` lists what is declared",
        ) from None
    return Plan(entry.name, timing, queue, task)


def draft(config: Config, known: catalog.Catalog, name: str, facts: Mapping[str, Any]) -> Plan:
    """The plan of a schedule that a command would add.

    Raises UsageError, RefusedError for a taken name and for a task that is not on the allow-list.
    """
    catalog.check_arguments(known.short(str(facts["task"])), {})
    try:
        entry = declared.draft(config, name, facts)
        return plan(config, known, entry)
    except ConfigError as error:
        raise UsageError(error.message.partition(": ")[2], hint=error.hint) from None
