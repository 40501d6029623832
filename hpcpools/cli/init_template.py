"""The text of a new hpcpools.toml: every section with its defaults, the site's partitions filled in."""

from __future__ import annotations

from hpcpools import durations
from hpcpools.slurm.site import Partition, Site

HEAD = """# hpcpools.toml: found from the working directory upwards, or in ~/.config/hpcpools/.
# Any value can be overridden by the environment: HPCPOOLS_SHORT__WORKERS=8 sets [short] workers.
# Lengths of time: 90 (seconds), "30s", "5m", "12h", "1d", "HH:MM:SS". Paths are relative to this file.

[project]
root = "runs"              # all run directories; on a cluster: a file system the compute nodes see
modules = [{modules}]      # modules that declare tasks with @task and @training; nothing else can run
path = ["."]               # where those modules are found

[training]
engine = "auto"            # auto: Slurm where it is, else the local slot; or "slurm", "local"
{training}
# account = "my-account"
# qos = "normal"
# constraint = "a100"
# setup = ["module load cuda"]   # shell lines before the training starts (Slurm only)
# signal_lead = "90s"      # how long before the limit a training is told to save and stop
# keep_env = ["WANDB_API_KEY"]   # variables to pass on although their names look secret
"""

TAIL = """
# [snapshot]               # a training runs its code as it was at submission, see docs/reproduce.md
# enabled = true
# max_mb = 50

[short]
workers = 4                # processes on this machine
# preload = ["torch"]      # imported once, before the workers are forked
queues = ["default", "evaluation", "preprocessing", "maintenance"]   # strict priority, left to right
timeout = "30m"            # of a task that declares none
# memory_mb = 8000         # of one task with the processes it starts; beyond that it is killed
retries = 0
result_ttl = "1d"

# [lane]                   # short tasks that need a GPU, or overflow, in shared Slurm jobs: docs/lane.md
# partition = "cpu"
# gpu_partition = "gpu"
# overflow_after = "10m"

# [exporter]               # metrics for Prometheus, a service of `hpcpools up`: docs/monitoring.md
# enabled = true
# listen = "127.0.0.1:9123"   # else a private unix socket, or textfile = "/path/hpcpools.prom"

[routing]                  # overrules the declarations
# "tasks:run_evaluation" = "evaluation"

[redis]
url = ""                   # empty: hpcpools starts its own, on a private unix socket

[schedule.update_job_metrics]
task = "hpcpools.maintenance:update_job_metrics"
every = "1m"

[schedule.scan_failed_jobs]
task = "hpcpools.maintenance:scan_failed_jobs"
every = "5m"

[schedule.cleanup_old_checkpoints]
task = "hpcpools.maintenance:cleanup_old_checkpoints"
every = "1h"

[retention]                # checkpoints that the cleanup keeps
keep_last = 3
keep_best = 1              # by the metric logged with the checkpoint
metric = "loss"
mode = "min"
# max_age = "30d"
# runs = "90d"             # whole runs, so long after their end; left out: for ever
"""


def render(site: Site | None, modules: tuple[str, ...]) -> str:
    """The whole file. ``site`` None: no Slurm here."""
    quoted = ", ".join(f'"{module}"' for module in modules)
    if site is None:
        training = (
            '# partition = "gpu"\ntime = "12h"               # wall time of a training that declares none'
        )
        return HEAD.format(modules=quoted, training=training) + TAIL
    chosen = choose(site.partitions)
    lines = []
    if chosen is not None:
        limit = min(chosen.max_minutes or 720, 720)
        lines.append(f'partition = "{chosen.name}"')
        lines.append(
            f'time = "{durations.clock(limit)}"          # wall time of a training that declares none'
        )
    text = HEAD.format(modules=quoted, training="\n".join(lines))
    for partition in site.partitions:
        text += f"\n[training.partitions.{partition.name}]\n"
        text += f"gpus_per_node = {partition.gpus_per_node}\nnodes = {partition.nodes}\n"
        if partition.max_minutes is not None:
            text += f'max_time = "{durations.clock(partition.max_minutes)}"\n'
    return text + TAIL


def choose(partitions: tuple[Partition, ...]) -> Partition | None:
    """The partition that trainings most likely want: with GPUs before without, the default one first."""
    ranked = sorted(partitions, key=lambda item: (item.gpus_per_node == 0, not item.default, item.name))
    return ranked[0] if ranked else None
