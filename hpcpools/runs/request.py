"""What was asked for: the frozen content of ``run.json``, written once, before Slurm hears of the run.

The compute node trusts this file alone; it is JSON, and its digest travels in the submitted script.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec
from msgspec import Struct

from hpcpools import formats
from hpcpools.errors import HpcpoolsError
from hpcpools.schema import GpuChecks, Telemetry

Engine = Literal["slurm", "local"]


class Resources(Struct, frozen=True, forbid_unknown_fields=True):
    """What exclusive nodes, one task on each, are given; empty text means not asked for.

    ``gpus`` of each node, ``minutes`` of wall time; ``gpu_type`` as the site's gres names it.
    """

    gpus: int = 0
    nodes: int = 1
    minutes: int = 720
    partition: str = ""
    cpus: int | None = None
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gpu_type: str = ""
    signal_lead: int = 90  # seconds before the limit at which the job is warned
    setup: tuple[str, ...] = ()  # shell lines of the site's config and template, run before the task
    options: dict[str, str] = {}  # more options of sbatch, from a site's template; "" for a mere flag

    @property
    def all_gpus(self) -> int:
        """The GPUs of all nodes together."""
        return self.nodes * self.gpus


class Code(Struct, frozen=True, forbid_unknown_fields=True):
    """The code snapshot a run imports from: ``<root>/.code/<digest>``, and the live tree it was taken of."""

    digest: str
    source: str
    files: int
    size: int  # bytes
    commit: str = ""  # empty outside git
    branch: str = ""
    dirty: bool = False  # other files than the commit's


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """One logical training submission. Exactly one of ``target`` and ``command`` is set."""

    token: str
    created: float
    engine: Engine
    resources: Resources
    target: str = ""
    arguments: dict[str, Any] = {}
    command: tuple[str, ...] = ()
    launcher: Literal["elastic", "single"] = "single"
    label: str = ""
    workdir: str = ""
    python: str = ""
    python_path: tuple[str, ...] = ()
    sweep: str = ""  # the sweep it is an element of
    code: Code | None = None  # None: the live files run
    reproduces: str = ""  # the run that this one repeats
    host_lock: str = ""  # local engine: the file whose lock means "this machine trains"
    user: str = ""
    host: str = ""
    version: str = ""
    restarts: dict[str, int] = {}  # budgets by kind, see runs/restarts.py
    on_oom: str = ""  # halve:ARGUMENT:MINIMUM
    gpu_checks: GpuChecks = GpuChecks()
    telemetry: Telemetry = Telemetry()
    format: int = formats.FORMAT

    @property
    def what(self) -> str:
        """The callable or the command line, for people."""
        import shlex

        return self.target or shlex.join(self.command)


def encode(request: Request) -> bytes:
    """The bytes of ``run.json``."""
    return msgspec.json.format(msgspec.json.encode(request), indent=2) + b"\n"


def decode(data: bytes, what: str = "run.json") -> Request:
    """The request in ``data``, of ``what``. Raises HpcpoolsError if damaged, RefusedError if newer."""
    try:
        formats.check_bytes(data, what)
        return msgspec.json.decode(data, type=Request)
    except msgspec.MsgspecError as error:
        raise HpcpoolsError(f"run.json is damaged: {error}", hint="the run cannot be used") from None


def digest(data: bytes) -> str:
    """SHA-256 of ``run.json``, hexadecimal; passed to the node in the script (SEC-6)."""
    return hashlib.sha256(data).hexdigest()
