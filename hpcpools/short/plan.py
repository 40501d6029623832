"""The declared schedules, each checked against the allow-list: what to fire, when, into which queue.

Owns the step from the config to plans. Refuses a schedule that could never fire, before anything runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcpools import catalog
from hpcpools.config import Config
from hpcpools.errors import ConfigError, HpcpoolsError
from hpcpools.short import slots
from hpcpools.short.timetable import Record


@dataclass(frozen=True)
class Plan:
    """One declared schedule, checked: what to fire, when, and into which queue."""

    name: str
    timing: slots.Timing
    queue: str
    entry: catalog.Entry

    @property
    def id(self) -> str:
        """The fixed id of its entry in rq-scheduler."""
        return f"schedule-{self.name}"

    def knows(self, record: Record) -> bool:
        """Whether ``record`` tells the last slot of this very timing."""
        return record.last_slot is not None and record.timing == str(self.timing)


def plans(config: Config, known: catalog.Catalog) -> list[Plan]:
    """The declared schedules. Raises ConfigError for a wrong timing, or a task that no short pool runs."""
    found = []
    for name, schedule in config.schedules.items():
        timing = slots.timing(config, name, schedule)
        try:
            entry = known.short(schedule.task)
            catalog.check_arguments(entry, {})
        except HpcpoolsError as error:
            raise ConfigError(
                f"{config.file}: schedule.{name}.task = {schedule.task!r}: {error.message}",
                hint=error.hint or "`hpcpools tasks` lists what is declared",
            ) from None
        found.append(Plan(name, timing, schedule.queue, entry))
    return found
