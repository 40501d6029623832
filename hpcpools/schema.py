"""The sections of hpcpools.toml as frozen structures: every key, its type, its default, its bounds.

Plain data for msgspec; finding, reading and explaining errors is the business of ``config``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

QUEUES = ("default", "evaluation", "preprocessing", "maintenance")
TRAINING_QUEUE = "training"


class Seconds(float):
    """A length of time in seconds, written in the file as 30, "30s", "5m", "12h" or "HH:MM:SS"."""


Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Positive = Annotated[int, Meta(ge=1, le=1_000_000)]
# RQ's ids allow no dot, and a slot's id begins with its schedule's name.
ScheduleName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Optional = Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.,:=@+*&|!\[\]()/-]{0,127})?$")]
Callable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]
Line = Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*$")]


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; unknown keys are errors."""


class Project(Section, frozen=True):
    """Where the runs live and which modules declare tasks."""

    root: str = "runs"
    modules: tuple[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")], ...] = ()
    path: tuple[str, ...] = (".",)


class PartitionSection(Section, frozen=True):
    """What one partition's nodes hold; 0 GPUs means a CPU partition."""

    gpus_per_node: Count = 0
    max_time: Seconds | None = None


class Training(Section, frozen=True):
    """Defaults of a training run; a declaration and then the command line overrule them."""

    engine: Literal["auto", "slurm", "local"] = "auto"
    partition: Optional = ""
    gpus: Count | None = None
    time: Seconds = Seconds(12 * 3600)
    cpus: Count | None = None
    account: Optional = ""
    qos: Optional = ""
    constraint: Optional = ""
    launcher: Literal["auto", "elastic", "single"] = "auto"
    signal_lead: Seconds = Seconds(90)
    setup: tuple[Line, ...] = ()
    keep_env: tuple[str, ...] = ()
    partitions: dict[Name, PartitionSection] = {}


class Short(Section, frozen=True):
    """The short pool: workers on this machine, over RQ queues in strict priority order."""

    workers: Annotated[int, Meta(ge=1, le=256)] = 4
    queues: tuple[Name, ...] = QUEUES
    timeout: Seconds = Seconds(1800)
    retries: Annotated[int, Meta(ge=0, le=100)] = 0
    result_ttl: Seconds = Seconds(86400)
    failure_ttl: Seconds = Seconds(30 * 86400)
    preload: tuple[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")], ...] = ()

    def __post_init__(self) -> None:
        missing = {"default", "maintenance"} - set(self.queues)
        if missing:
            raise ValueError(f"queues must contain {' and '.join(sorted(missing))}")
        if TRAINING_QUEUE in self.queues:
            raise ValueError("'training' is the training pool's own queue; short workers must not serve it")


class Redis(Section, frozen=True):
    """A Redis given by address; empty means hpcpools starts its own on a private unix socket."""

    url: Annotated[str, Meta(pattern=r"^($|unix://|redis://|rediss://)")] = ""
    password_file: str = ""


class Slurm(Section, frozen=True):
    """How patient we are with Slurm; lengths of time in seconds."""

    command_timeout: Seconds = Seconds(30)
    submit_lookups: tuple[Seconds, ...] = (Seconds(5), Seconds(15), Seconds(45), Seconds(120))
    poll_interval: Seconds = Seconds(30)
    lost_after: Seconds = Seconds(120)
    provisional_for: Seconds = Seconds(300)


class Services(Section, frozen=True):
    """Where the services keep sockets, locks, logs and Redis data: a local disk, never shared."""

    runtime_dir: str = ""
    autostart: bool = True
    log_bytes: Positive = 1_000_000
    log_files: Positive = 3


class Schedule(Section, frozen=True):
    """One periodic task: either ``every`` a length of time or a ``cron`` line (UTC)."""

    task: Callable = "hpcpools.maintenance:update_job_metrics"
    every: Seconds | None = None
    cron: Annotated[str, Meta(max_length=64)] = ""
    queue: Name = "maintenance"
    enabled: bool = True

    def __post_init__(self) -> None:
        if (self.every is None) == (not self.cron):
            raise ValueError('give either every = "5m" or cron = "*/5 * * * *"')
        if self.every is not None and (self.every < 1 or self.every % 1):
            raise ValueError(f"every = {self.every:g} s: whole seconds, at least 1")


class Retention(Section, frozen=True):
    """Which checkpoints ``cleanup_old_checkpoints`` keeps; everything it does not match is removed."""

    keep_last: Positive = 3
    keep_best: Count = 1
    metric: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$")] = "loss"
    mode: Literal["min", "max"] = "min"
    max_age: Seconds | None = None


DEFAULT_SCHEDULE = {
    "update_job_metrics": Schedule(task="hpcpools.maintenance:update_job_metrics", every=Seconds(60)),
    "scan_failed_jobs": Schedule(task="hpcpools.maintenance:scan_failed_jobs", every=Seconds(300)),
    "cleanup_old_checkpoints": Schedule(
        task="hpcpools.maintenance:cleanup_old_checkpoints", every=Seconds(3600)
    ),
}
