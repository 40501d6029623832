"""A short job whose truth is on the shared file system: what to call in one file, how it ended in another.

Owns giving it to the workers under a fixed job id, and running it there. The worker itself writes the
end, so neither a result's TTL nor a wiped Redis loses it or runs the task again. Refuses two copies at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcpools import atomic, catalog
from hpcpools.config import Config
from hpcpools.errors import NotFoundError, RefusedError, RunFailedError
from hpcpools.runs.directory import check_owned
from hpcpools.short import outcome
from hpcpools.short.enqueue import ENDED, Client, ShortJob
from hpcpools.textsafe import one_line

RUNNER = "hpcpools.maintenance:run_call"
_SUBMIT, _DONE = ".submit.json", ".done.json"
_WORDS = {"finished": "completed", "failed": "failed"}  # stopped and canceled: cancelled
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Call:
    """One call, known by its submit file and the id of its job."""

    submit: Path
    job_id: str

    @property
    def done(self) -> Path:
        """Beside the submit file; ``ended`` is completed, failed or cancelled."""
        return self.submit.with_name(self.submit.name.removesuffix(_SUBMIT) + _DONE)

    def write(self, entry: catalog.Entry, config: Config, arguments: dict[str, Any], **more: Any) -> bool:
        """Fix what is called, how and where; False if that was done before."""
        declared = entry.declaration
        facts = {
            "task": entry.name,
            "arguments": arguments,
            "queue": entry.queue,
            "timeout": getattr(declared, "timeout", None) or float(config.short.timeout),
            "retries": getattr(declared, "retries", None),
            "at": time.time(),
            **more,
        }
        return atomic.create_json(self.submit, facts)

    def look(self, config: Config) -> dict[str, Any] | None:
        """How it ended, or None; gives it to the workers if Redis does not know it (yet, or any more).

        Raises RedisUnavailableError.
        """
        if done := atomic.read_json(self.done):
            return dict(done)
        client = Client.of(config)
        job = ShortJob(config, client.connection, self.job_id)
        try:
            state = job.refresh().state
        except NotFoundError:
            if atomic.read_json(self.done) is None:
                facts = atomic.read_json(self.submit) or {}
                client.enqueue(
                    RUNNER,
                    {"task": facts["task"], "file": str(self.submit)},
                    queue=facts["queue"],
                    timeout=facts["timeout"],
                    retries=facts["retries"],
                    job_id=self.job_id,
                )
            return None
        if state in ENDED and atomic.read_json(self.done) is None:
            end: dict[str, Any] = {"ended": _WORDS.get(state, "cancelled"), "at": time.time()}
            end |= {"result": job.result()} if state == "finished" else {"reason": job.reason()}
            atomic.create_json(self.done, end)
        return atomic.read_json(self.done)

    def cancel(self, config: Config) -> None:
        """Take it from its queue, or stop it; what has ended stays as it is."""
        if atomic.read_json(self.done) is not None:
            return
        with contextlib.suppress(NotFoundError):
            ShortJob(config, Client.of(config).connection, self.job_id).cancel()
            return
        atomic.create_json(self.done, {"ended": "cancelled", "at": time.time()})


def run(config: Config, task: str, file: str) -> Any:
    """In a worker: the task's value, computed now or by an earlier copy of this job."""
    submit = Path(file)
    if not submit.name.endswith(_SUBMIT) or not submit.resolve().is_relative_to(config.root.resolve()):
        raise RefusedError(
            f"{one_line(file)!r} is no call of this pool", hint="only hpcpools makes such jobs"
        )
    check_owned(submit.parent)
    check_owned(submit)
    call = Call(submit, "")
    with _alone(submit):
        if (done := atomic.read_json(call.done)) is not None:
            if done["ended"] != "completed":
                raise RunFailedError(f"it {done['ended']} before", hint=str(done.get("reason", "")))
            return done["result"]
        facts = atomic.read_json(submit) or {}
        if facts.get("task") != task:
            raise RefusedError(f"{one_line(file)!r} names another task", hint="the file was changed")
        entry = catalog.load(config).short(task)
        catalog.check_arguments(entry, facts["arguments"])
        value = entry.function(**facts["arguments"])
        outcome.check_result(value)
        atomic.create_json(call.done, {"ended": "completed", "at": time.time(), "result": value})
        return value


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Wait until no other copy of the job runs (after a wiped Redis there may be one)."""
    fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:  # a file system without locks: the fixed id must do
                raise
        yield
    finally:
        os.close(fd)
