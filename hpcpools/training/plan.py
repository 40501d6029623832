"""From what the user asked to a complete, valid Request: pure decisions, nothing written yet.

Precedence: config < declaration < template < command line. Refuses what no node of the partition can give.
"""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hpcpools
from hpcpools import catalog, durations, gpu, textsafe
from hpcpools.account import user
from hpcpools.catalog import Catalog
from hpcpools.config import Config
from hpcpools.declare import TrainingDeclaration
from hpcpools.errors import UsageError
from hpcpools.runs.request import Engine, Request, Resources
from hpcpools.runs.restarts import DEFAULTS, smaller
from hpcpools.runs.token import new_token
from hpcpools.training.launch import launches_python


@dataclass(frozen=True)
class Options:
    """What the command line or the Python call sets; None and "" mean not set. ``minutes`` wall time."""

    gpus: int | None = None
    nodes: int | None = None
    minutes: int | None = None
    partition: str = ""
    cpus: int | None = None
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gpu_type: str = ""  # from a site's template, see Resources.gpu_type
    launcher: str = ""
    label: str = ""
    restarts: tuple[str, ...] = ()  # KIND=NUMBER
    on_oom: str = ""  # halve:ARGUMENT:MINIMUM
    setup: tuple[str, ...] = ()  # from a site's template, after the config's
    sbatch: Mapping[str, str] = field(default_factory=dict)  # likewise, see Resources.options


def plan_callable(
    config: Config,
    listed: Catalog,
    target: str,
    arguments: dict[str, Any],
    *,
    options: Options,
    engine: Engine,
) -> Request:
    """A request that calls a declared training. Raises UsageError or RefusedError."""
    entry = listed.training(textsafe.callable_name(target))
    catalog.check_arguments(entry, arguments)
    textsafe.json_arguments(arguments)
    declared = entry.declaration if isinstance(entry.declaration, TrainingDeclaration) else None
    resources = _resources(config, declared or TrainingDeclaration(), options, engine)
    asked = options.launcher or (declared.launcher if declared else "") or config.training.launcher
    elastic = asked == "elastic" or (asked == "auto" and _several(resources))
    return _request(
        config,
        resources,
        engine,
        options,
        target=entry.name,
        arguments=arguments,
        launcher="elastic" if elastic else "single",
        workdir=str(config.folder.resolve()),
    )


def plan_command(config: Config, command: tuple[str, ...], options: Options, engine: Engine) -> Request:
    """A request that runs a command line in the current folder. Raises UsageError."""
    program = shutil.which(command[0])
    if program is None:
        raise UsageError(
            f"{textsafe.one_line(command[0])!r} is no program on PATH", hint="give its full path"
        )
    if any("\0" in word for word in command):
        raise UsageError("the command holds a NUL byte", hint="remove it")
    resources = _resources(config, TrainingDeclaration(), options, engine)
    asked = options.launcher or config.training.launcher
    python = launches_python(command)
    if asked == "elastic" and not python:
        raise UsageError(
            "launcher elastic needs `python script.py` or `python -m module`",
            hint="leave it to the command itself: --launcher single",
        )
    elastic = asked == "elastic" or (asked == "auto" and _several(resources) and python)
    return _request(
        config,
        resources,
        engine,
        options,
        command=(program, *command[1:]),
        launcher="elastic" if elastic else "single",
        workdir=str(Path.cwd()),
    )


def _several(resources: Resources) -> bool:
    """True if one process is not enough."""
    return resources.gpus > 1 or resources.nodes > 1


def _request(config: Config, resources: Resources, engine: Engine, options: Options, **what: Any) -> Request:
    now = time.time()
    label = options.label
    if label:
        textsafe.slurm_field("label", label)
    budgets = _budgets(config, options.restarts)
    if options.on_oom:
        _check_on_oom(options.on_oom, what.get("arguments", {}))
        budgets["out_of_memory"] = budgets["out_of_memory"] or 10
    return Request(
        token=new_token(now),
        created=now,
        engine=engine,
        resources=resources,
        label=label,
        restarts=budgets,
        on_oom=options.on_oom,
        python=sys.executable,
        python_path=config.python_path,
        host_lock=str(slot_lock(config)) if engine == "local" else "",
        user=user(),
        host=socket.gethostname(),
        version=hpcpools.__version__,
        gpu_checks=config.gpu_checks,
        telemetry=config.telemetry,
        **what,
    )


def _budgets(config: Config, asked: tuple[str, ...]) -> dict[str, int]:
    """The config's budgets, overruled by ``KIND=NUMBER``. Raises UsageError."""
    budgets = {kind: int(getattr(config.restarts, kind)) for kind in DEFAULTS}
    for item in asked:
        kind, _, number = item.partition("=")
        if kind not in budgets or not number.isdecimal():
            raise UsageError(
                f"--restart {textsafe.one_line(item)!r} is not KIND=NUMBER",
                hint=f"kinds: {', '.join(budgets)}",
            )
        budgets[kind] = int(number)
    return budgets


def _check_on_oom(rule: str, arguments: dict[str, Any]) -> None:
    if smaller({**arguments}, rule) is None:
        raise UsageError(
            f"--on-oom {textsafe.one_line(rule)!r} changes nothing",
            hint="halve:ARGUMENT:MINIMUM, where ARGUMENT is a number given on this command line",
        )


def slot_lock(config: Config) -> Path:
    """The lock of this machine's one local training slot, shared by all projects of the user."""
    return config.machine_dir / "training-slot.lock"


def _resources(config: Config, declared: TrainingDeclaration, asked: Options, engine: Engine) -> Resources:
    site = config.training
    partition = asked.partition or declared.partition or site.partition
    minutes = asked.minutes or declared.time or durations.minutes(site.time)
    cpus = _first(asked.cpus, declared.cpus, site.cpus)
    gpus = _first(asked.gpus, declared.gpus, site.gpus)
    nodes = _first(asked.nodes, declared.nodes, site.nodes) or 0
    for name, value in (("gpus", gpus), ("cpus", cpus)):
        if value is not None and value < 0:
            raise UsageError(f"{name}={value} is negative", hint="0 or more")
    if nodes < 1:
        raise UsageError(f"nodes={nodes} is wrong", hint="1 or more")
    fields = {
        "partition": partition,
        "account": asked.account or declared.account or site.account,
        "qos": asked.qos or declared.qos or site.qos,
        "constraint": asked.constraint or declared.constraint or site.constraint,
    }
    for name, text in fields.items():
        if text:
            textsafe.slurm_field(name, text)
    if engine == "local":
        if nodes > 1:
            raise UsageError(f"{nodes} nodes asked, but one machine is one node", hint="--nodes 1")
        gpus = min(gpus, gpu.count()) if gpus is not None else gpu.count()
    else:
        gpus = _slurm_gpus(config, partition, gpus, nodes, minutes)
    lead = min(int(site.signal_lead), minutes * 30)  # never more than half of the time
    return Resources(
        gpus=gpus,
        nodes=nodes,
        minutes=minutes,
        cpus=cpus,
        signal_lead=lead,
        setup=(*site.setup, *asked.setup),
        options=dict(asked.sbatch),
        gpu_type=asked.gpu_type,
        **fields,
    )


def _slurm_gpus(config: Config, partition: str, gpus: int | None, nodes: int, minutes: int) -> int:
    """The GPUs of each node, if the partition has such nodes, so many, for so long."""
    known = config.training.partitions.get(partition)
    if known is None:
        if gpus is None:
            where = f"training.partitions.{partition or 'NAME'}"
            raise UsageError(
                f"how many GPUs has a node of partition {partition or '(default)'}?",
                hint=f"say --gpus N, or set gpus_per_node in [{where}] ({config.file})",
            )
        return gpus
    if known.max_time is not None and minutes * 60 > known.max_time:
        raise UsageError(
            f"time {durations.clock(minutes)} is over partition {partition}'s limit",
            hint=f"at most {durations.clock(durations.minutes(known.max_time))}",
        )
    if gpus is not None and gpus > known.gpus_per_node:
        raise UsageError(
            f"{gpus} GPUs asked, but a node of partition {partition} has {known.gpus_per_node}",
            hint=f"several nodes: --nodes {-(-gpus // known.gpus_per_node)} --gpus {known.gpus_per_node}"
            if known.gpus_per_node
            else "choose another partition",
        )
    if 0 < known.nodes < nodes:
        raise UsageError(
            f"{nodes} nodes asked, but partition {partition} has {known.nodes}",
            hint="ask for fewer, or choose another partition",
        )
    return known.gpus_per_node if gpus is None else gpus


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
