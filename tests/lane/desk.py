"""A Redis, a client that enqueues, and the lanes' workers of one or more login nodes: no Slurm."""

from __future__ import annotations

import time
from typing import Any

from hpcpools import catalog
from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.lane.worker import Held, LaneWorker
from hpcpools.redisdb.connect import connect
from hpcpools.short import job, views
from hpcpools.short.enqueue import Client
from tests.short.lab import TASKS, Lab


class Desk:
    """A lane's worker on a Redis of its own, and a client that enqueues for it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.config = self.node("run")
        self.redis = lab.redis
        self.client = Client(self.config)
        self.worker = self.new_worker()

    def node(self, runtime_dir: str, **lane: Any) -> Config:
        """The configuration on one login node: its own runtime directory, the same Redis and key."""
        data = {
            "project": {"modules": [TASKS]},
            "redis": {"url": f"unix://{self.lab.socket}", "key_file": "pool.key"},
            "services": {"runtime_dir": runtime_dir},
            "lane": {"partition": "cpu", **lane},
        }
        key = self.lab.folder / "pool.key"
        if not key.exists():
            key.touch(0o600)
            key.write_text("ab" * 32 + "\n")
        return configuration.parse(data, self.lab.folder / "lane.toml", {})

    def new_worker(self, config: Config | None = None) -> LaneWorker:
        """The lane after a restart: the same name; or that of another login node."""
        config = config or self.config
        job_class = job.bind(config, catalog.load(config))
        return LaneWorker(connect(config), job_class, ("slurm", "default"))

    def is_gone(self, worker: LaneWorker) -> None:
        """A lane that gave no sign of life for its time to live: Redis has dropped its registration."""
        assert self.redis.delete(f"rq:worker:{worker.name}") == 1

    def enqueue(self, word: str = "x", queue: str = "slurm", **options: Any) -> str:
        """One job."""
        arguments = {"log": "unused", "word": word}
        return self.client.enqueue(f"{TASKS}:say", arguments, queue=queue, **options).id

    def claim(self, queue: str = "slurm") -> Held:
        """The next one, which must be there."""
        held = self.worker.claim(queue)
        assert held is not None
        return held

    def finish(self, held: Held, outcome: str, **facts: Any) -> bool:
        """As if the node had said so."""
        end = {"outcome": outcome, "at": time.time(), "seconds": 2.0, **facts}
        return self.worker.finish(held.queue, held.id, held.execution, end)

    def state(self, job_id: str) -> str:
        """rq's word."""
        return views.show(self.config, job_id).job.state
