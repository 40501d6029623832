"""The sections of hpcpools.toml as frozen structures: every key, its type, its default, its bounds.

Plain data for msgspec; finding, reading and explaining errors is the business of ``config``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

QUEUES = ("default", "evaluation", "preprocessing", "maintenance")
TRAINING_QUEUE = "training"
LANE_QUEUE = "slurm"


class Seconds(float):
    """A length of time in seconds, written in the file as 30, "30s", "5m", "12h" or "HH:MM:SS"."""


Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Positive = Annotated[int, Meta(ge=1, le=1_000_000)]
# Every pattern ends with \Z: a $ would let a newline at the end through (SEC-8).
# RQ's ids allow no dot; a slot's id begins with its schedule's name, and has 64 characters at most.
ScheduleName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}\Z")]
Zone = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*\Z")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
Optional = Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.,:=@+*&|!\[\]()/-]{0,127})?\Z")]
Callable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*\Z")]
Line = Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*\Z")]


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; unknown keys are errors."""


class Project(Section, frozen=True):
    """Where the runs live and which modules declare tasks."""

    root: str = "runs"
    modules: tuple[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*\Z")], ...] = ()
    path: tuple[str, ...] = (".",)
    templates: str = ""  # a folder of sbatch templates, looked at before the user's and ours


class PartitionSection(Section, frozen=True):
    """What one partition's nodes hold; 0 GPUs means a CPU partition."""

    gpus_per_node: Count = 0
    max_time: Seconds | None = None
    nodes: Count = 0  # 0: unknown; then no node is avoided by all runs


class Training(Section, frozen=True):
    """Defaults of a training run; a declaration and then the command line overrule them."""

    engine: Literal["auto", "slurm", "local"] = "auto"
    partition: Optional = ""
    gpus: Count | None = None
    nodes: Positive = 1
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
    """The short pool: workers on this machine, over RQ queues in strict priority order, or in turns."""

    workers: Annotated[int, Meta(ge=1, le=256)] = 4
    max_workers: Annotated[int, Meta(ge=0, le=256)] = 0  # 0: as many as workers, whatever waits
    grow_after: Seconds = Seconds(10)
    grow_backlog: Positive = 20
    shrink_after: Seconds = Seconds(60)
    queues: tuple[Name, ...] = QUEUES
    order: Literal["priority", "round_robin"] = "priority"
    timeout: Seconds = Seconds(1800)
    retries: Annotated[int, Meta(ge=0, le=100)] = 0
    result_ttl: Seconds = Seconds(86400)
    failure_ttl: Seconds = Seconds(30 * 86400)
    preload: tuple[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*\Z")], ...] = ()
    max_jobs: Positive = 1000  # then a worker's process is replaced
    max_rss_mb: Positive = 512  # by so much it may grow before that
    memory_mb: Count = 0  # of one task with its processes; 0: no limit
    nice: Annotated[int, Meta(ge=0, le=19)] = 10

    def __post_init__(self) -> None:
        missing = {"default", "maintenance"} - set(self.queues)
        if missing:
            raise ValueError(f"queues must contain {' and '.join(sorted(missing))}")
        if TRAINING_QUEUE in self.queues:
            raise ValueError("'training' is the training pool's own queue; short workers must not serve it")
        if LANE_QUEUE in self.queues:
            raise ValueError("'slurm' is the Slurm lane's own queue; short workers must not serve it")


class Lane(Section, frozen=True):
    """Short tasks on compute nodes: those that declare it, or an overflow. No partition means no lane."""

    partition: Optional = ""
    gpu_partition: Optional = ""  # for tasks that declare GPUs; empty: the same
    account: Optional = ""
    qos: Optional = ""
    constraint: Optional = ""
    cpus: Positive = 1
    mem: Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,8}[KMGT]?\Z")] = "2G"
    max_jobs: Annotated[int, Meta(ge=1, le=1000)] = 4
    group: Annotated[int, Meta(ge=1, le=1000)] = 50
    group_time: Seconds = Seconds(900)
    overflow_after: Seconds | None = None  # None: never
    overflow_above: Count | None = None  # jobs that wait in one queue; None: however many
    overflow_queues: tuple[Name, ...] = ()  # empty: all short queues but maintenance

    def __post_init__(self) -> None:
        if "maintenance" in self.overflow_queues:
            raise ValueError("overflow_queues: maintenance works on Redis, which compute nodes never open")


class Restarts(Section, frozen=True):
    """How often a training is started again, by the kind of its end; see docs/training.md."""

    preemption: Count = 50
    time_limit: Count = 50
    node_failure: Count = 5
    bad_node: Count = 5
    launch_failure: Count = 3
    out_of_memory: Count = 0
    user_error: Count = 0
    without_progress: Count = 1
    first_delay: Seconds = Seconds(60)


class Snapshot(Section, frozen=True):
    """Whether a training runs a copy of its code as it was at submission, and how large that may be."""

    enabled: bool = True
    max_mb: Positive = 50


class Redis(Section, frozen=True):
    """A Redis given by address; empty means hpcpools starts its own on a private unix socket.

    ``key_file``: the key that signs jobs, where several login nodes share that Redis.
    """

    url: Annotated[str, Meta(pattern=r"^(\Z|unix://|redis://|rediss://)")] = ""
    password_file: str = ""
    key_file: str = ""


class Slurm(Section, frozen=True):
    """How patient we are with Slurm; lengths of time in seconds."""

    command_timeout: Seconds = Seconds(30)
    submit_lookups: tuple[Seconds, ...] = (Seconds(5), Seconds(15), Seconds(45), Seconds(120))
    poll_interval: Seconds = Seconds(30)
    max_in_flight: Positive = 500
    lost_after: Seconds = Seconds(120)
    provisional_for: Seconds = Seconds(300)


class Notify(Section, frozen=True):
    """Who is told of what; the webhook's address is a secret and stands in a file of its own."""

    hook: Line = ""
    webhook_file: str = ""
    timeout: Seconds = Seconds(30)
    events: tuple[Literal["run_finished", "run_failed", "breaker_open", "quarantine", "gpu_verdict"], ...] = (
        "run_finished",
        "run_failed",
        "breaker_open",
        "quarantine",
        "gpu_verdict",
    )

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 60:
            raise ValueError("timeout: up to one minute")
        if self.hook.strip():
            import shlex  # here: each command reads a config, and few configs name a hook

            if not shlex.split(self.hook):  # unbalanced quotes raise ValueError
                raise ValueError("hook names no program")


class Services(Section, frozen=True):
    """Where the services keep sockets, locks, logs and Redis data: a local disk, never shared."""

    runtime_dir: str = ""
    autostart: bool = True
    log_bytes: Positive = 1_000_000
    log_files: Positive = 3


class Exporter(Section, frozen=True):
    """Metrics for Prometheus, on a private unix socket, a loopback port or in a file: docs/monitoring.md.

    ``every``: how often the file is written.
    """

    enabled: bool = False
    listen: Annotated[str, Meta(pattern=r"^\Z|^127(\.[0-9]{1,3}){3}:[0-9]{1,5}\Z|^\[::1\]:[0-9]{1,5}\Z")] = ""
    textfile: str = ""
    every: Seconds = Seconds(30)

    def __post_init__(self) -> None:
        if self.listen and self.textfile:
            raise ValueError("give either listen or textfile")
        if self.every < 1:
            raise ValueError("every: at least one second")


class Dashboard(Section, frozen=True):
    """The web pages as a service, on a private unix socket or a loopback port: docs/dashboard.md."""

    enabled: bool = False
    listen: Annotated[str, Meta(pattern=r"^\Z|^127(\.[0-9]{1,3}){3}:[0-9]{1,5}\Z|^\[::1\]:[0-9]{1,5}\Z")] = ""
    allow_changes: bool = False


class Schedule(Section, frozen=True):
    """One periodic task: ``every`` a length of time, or by a ``cron`` line on the clock of ``timezone``."""

    task: Callable = "hpcpools.maintenance:update_job_metrics"
    every: Seconds | None = None
    cron: Annotated[str, Meta(max_length=64)] = ""
    timezone: Zone = "UTC"
    queue: Name = "maintenance"
    enabled: bool = True

    def __post_init__(self) -> None:
        if (self.every is None) == (not self.cron):
            raise ValueError('give either every = "5m" or cron = "*/5 * * * *"')
        if self.every is not None and (self.every < 1 or self.every % 1):
            raise ValueError(f"every = {self.every:g} s: whole seconds, at least 1")
        if self.timezone != "UTC":
            _check_zone(self.timezone, self.cron)


def _check_zone(name: str, cron: str) -> None:
    from zoneinfo import ZoneInfo  # here: few configs name a zone, and each command reads one

    if not cron:
        raise ValueError(f"timezone = {name!r} is for cron lines; every = ... counts seconds of UTC")
    try:
        ZoneInfo(name)
    except (LookupError, OSError, ValueError):
        raise ValueError(f"timezone = {name!r} is not known here; for example Europe/Berlin") from None


class GpuChecks(Section, frozen=True):
    """The checks of a node's GPUs before and after a training; times in seconds, see docs/gpus.md."""

    enabled: bool = True
    strict: bool = False
    require_nvml: bool = False
    skip: tuple[Annotated[str, Meta(pattern=r"^GPU-[0-9]{1,2}\Z")], ...] = ()
    call_timeout: Annotated[float, Meta(gt=0, le=60)] = 5.0
    total_timeout: Annotated[float, Meta(gt=0, le=120)] = 10.0
    memory_fail_mib: Positive = 1024
    memory_fail_percent: Annotated[float, Meta(gt=0, le=100)] = 2.0
    memory_warn_mib: Positive = 15
    ecc_corrected_warn: Annotated[int, Meta(ge=0)] = 50_000_000
    retired_pages_fail: Count = 10
    temperature_warn: Count = 60
    temperature_margin: Count = 5
    link_errors_warn: Positive = 5


class Telemetry(Section, frozen=True):
    """What is measured while a training has GPUs, and what its verdicts do; times in seconds."""

    enabled: bool = True
    interval: Annotated[float, Meta(ge=0.05, le=3600)] = 5.0
    idle_after: Annotated[float, Meta(gt=0)] = 900.0
    hung_after: Annotated[float, Meta(gt=0)] = 1800.0
    starved_after: Annotated[float, Meta(gt=0)] = 900.0
    idle_percent: Annotated[float, Meta(ge=0, le=100)] = 5.0
    hung_percent: Annotated[float, Meta(ge=0, le=100)] = 50.0
    starved_percent: Annotated[float, Meta(ge=0, le=100)] = 30.0
    on_idle: Literal["note", "notify", "stop"] = "note"
    on_hung: Literal["note", "notify", "stop"] = "note"
    on_starved: Literal["note", "notify", "stop"] = "note"


class Retention(Section, frozen=True):
    """Which checkpoints ``cleanup_old_checkpoints`` keeps; everything it does not match is removed.

    ``runs``: how long after their end whole runs, sweeps and pipelines are kept; None: for ever.
    """

    keep_last: Positive = 3
    keep_best: Count = 1
    metric: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*\Z")] = "loss"
    mode: Literal["min", "max"] = "min"
    max_age: Seconds | None = None
    runs: Seconds | None = None


DEFAULT_SCHEDULE = {
    "update_job_metrics": Schedule(task="hpcpools.maintenance:update_job_metrics", every=Seconds(60)),
    "scan_failed_jobs": Schedule(task="hpcpools.maintenance:scan_failed_jobs", every=Seconds(300)),
    "cleanup_old_checkpoints": Schedule(
        task="hpcpools.maintenance:cleanup_old_checkpoints", every=Seconds(3600)
    ),
    "advance_pipelines": Schedule(task="hpcpools.maintenance:advance_pipelines", every=Seconds(10)),
}
