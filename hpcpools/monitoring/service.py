"""The exporter as a process: serve the page until told to end, or keep a file for node_exporter up to date.

Owns the three modes and the file. Refuses a file whose name the textfile collector would not read.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hpcpools import atomic, eventlog
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, UsageError
from hpcpools.eventlog import event, log
from hpcpools.monitoring import web
from hpcpools.short.process import Signals

if TYPE_CHECKING:
    from hpcpools.monitoring.collector import Collector

# The collector runs as another user, and reads only what it may; there is no secret in it.
TEXTFILE_MODE = 0o644


def run(config: Config) -> int:
    """As the config says, until SIGTERM or SIGINT; returns 0. Call it in the main thread.

    Raises as :func:`serve` and :func:`write`.
    """
    eventlog.to_stderr()
    said = config.exporter
    if said.textfile:
        return keep(config, config.folder / Path(said.textfile).expanduser(), float(said.every))
    return serve(config, said.listen)


def serve(config: Config, listen: str = "") -> int:
    """Serve on the private unix socket, or on the loopback address ``listen`` behind a token.

    Raises UsageError for another address, RefusedError if another exporter runs, PermissionsError,
    HpcpoolsError without prometheus_client.
    """
    signals = Signals((signal.SIGTERM, signal.SIGINT))
    with web.serving(config.runtime_dir, collector(config).page, listen) as where:
        log.info(event("exporter-start", where=where))
        while not any(signals.counts.values()):
            signals.wait(3600.0)
    log.info(event("exporter-end"))
    return 0


def keep(config: Config, file: Path, every: float) -> int:
    """Write ``file`` every so many seconds; one that cannot be written now is tried again.

    Raises UsageError, HpcpoolsError without prometheus_client.
    """
    check(file)
    source, signals = collector(config), Signals((signal.SIGTERM, signal.SIGINT))
    log.info(event("exporter-start", file=file, every=every))
    due = time.monotonic()
    while not any(signals.counts.values()):
        if time.monotonic() >= due:
            due = max(due + every, time.monotonic())
            try:
                write(source, file)
            except HpcpoolsError as error:
                log.error(event("write-fail", error=error))
        signals.wait(due - time.monotonic())
    log.info(event("exporter-end"))
    return 0


def check(file: Path) -> None:
    """Raise UsageError unless the textfile collector would read a file of that name."""
    if file.suffix != ".prom":
        raise UsageError(f"{file} does not end in .prom", hint="node_exporter reads no other files")


def write(source: Collector, file: Path) -> None:
    """Replace ``file`` in one step. Raises UsageError, HpcpoolsError for what the file system says."""
    check(file)
    try:
        atomic.write_bytes(file, source.text(), mode=TEXTFILE_MODE)
    except OSError as error:
        raise HpcpoolsError(
            f"cannot write {file}: {error.strerror or error}", hint="check its folder's mode and space"
        ) from error


def collector(config: Config) -> Collector:
    """What reads the metrics. Raises HpcpoolsError without prometheus_client."""
    try:
        from hpcpools.monitoring.collector import Collector
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise HpcpoolsError(
            "the exporter needs prometheus_client", hint="`pip install 'hpcpools[exporter]'`"
        ) from None
    return Collector(config)
