"""Classes for rq's own tools on our Redis: ``rq info --queue-class hpcpools.short.stock.JsonQueue``.

Owns nothing but harmlessness. rq unpickles a job's meta, imports its callbacks and calls its webhooks while
it only looks (it cleans registries before it counts); these classes refuse all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rq import Worker
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

if TYPE_CHECKING:
    from redis import Redis

_DANGEROUS = ("webhooks", "result", "success_callback_name", "failure_callback_name", "stopped_callback_name")


class JsonJob(Job):
    """A job whose meta, arguments and result are JSON, and that has no callbacks and no webhooks."""

    def __init__(
        self, id: str | None = None, connection: Redis | None = None, serializer: Any = None
    ) -> None:
        super().__init__(id, connection=connection, serializer=JSONSerializer)

    def restore(self, raw_data: Mapping[Any, Any]) -> None:
        """Read the hash, without what could act."""
        fields = {name: raw_data[name] for name in raw_data if _text(name) not in _DANGEROUS}
        super().restore(fields)


class JsonQueue(Queue):
    """A queue of such jobs."""

    job_class = JsonJob

    def __init__(self, name: str = "default", connection: Redis | None = None, **options: Any) -> None:
        super().__init__(name, connection=connection, **{**options, "serializer": JSONSerializer})


class JsonWorker(Worker):
    """A worker as it is read from Redis, whose jobs are such jobs."""

    @classmethod
    def find_by_key(
        cls,
        worker_key: str,
        connection: Redis,
        job_class: type[Job] | None = None,
        queue_class: type[Queue] | None = None,
        serializer: Any = None,
    ) -> BaseWorker | None:
        """Read it, whatever classes the caller names."""
        return super().find_by_key(worker_key, connection, JsonJob, JsonQueue, JSONSerializer)


class _ShownJob(JsonJob):
    """As rq-dashboard 0.9 wants to have it: it decodes ids that rq 3 has decoded already."""

    @property
    def dependency_ids(self) -> list[Any]:
        """Bytes."""
        return [each.encode() for each in super().dependency_ids]


def tame(web: Any) -> None:
    """Give the module ``rq_dashboard.web`` these classes.

    With its own it unpickles, and fails on a worker that runs a JSON job.
    """
    names: dict[str, object] = {"Job": _ShownJob, "Queue": JsonQueue, "Worker": JsonWorker}
    for kind in ("Failed", "Deferred", "Started", "Finished", "Scheduled", "Canceled"):
        stock = getattr(web, f"{kind}JobRegistry")
        names[f"{kind}JobRegistry"] = partial(stock, job_class=JsonJob, serializer=JSONSerializer)
    vars(web).update(names)
    web.config.serializer = JSONSerializer


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
