"""One scrape: every source in turn, each whole or not at all; a source that is away leaves the others there.

Owns the list of sources and the rendering. Refuses two scrapes at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import InfoMetricFamily
from prometheus_client.exposition import choose_encoder

import hpcpools
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.eventlog import event, log
from hpcpools.monitoring import pool, runs, site
from hpcpools.monitoring.families import PREFIX, Metric, gauge, gauges
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import told

PATIENCE = 2.0  # seconds for Redis to say that it is there; Prometheus waits ten for the page

Source = tuple[str, Callable[[], Iterable[Metric]]]


class Collector:
    """All metrics of one pool, for prometheus_client's registry."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._index = runs.Index()
        self._broken: dict[str, str] = {}
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that the header ``Accept`` asks for, and the name of the format."""
        encode, kind = choose_encoder(accept)
        with self._lock:
            return encode(self._registry), kind

    def text(self) -> bytes:
        """The metrics in the plain text format, the one that the textfile collector reads."""
        with self._lock:
            return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering asks nobody."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        begun, up = time.monotonic(), {}
        for name, read in self._sources():
            try:
                found = list(read())
            except (HpcpoolsError, OSError, ValueError, TypeError) as error:
                up[name] = 0.0
                self._heard(name, str(error))
            else:
                up[name] = 1.0
                self._heard(name, "")
                yield from found
        yield gauges("source_up", "Whether that part of the facts could be read", "source", up)
        yield InfoMetricFamily(f"{PREFIX}build", "The exporter", {"version": hpcpools.__version__})
        yield gauge("exported_timestamp_seconds", "When these facts were read", time.time())
        yield gauge("collect_seconds", "How long that took", time.monotonic() - begun)

    def _sources(self) -> Iterator[Source]:
        config = self._config
        yield "slurm", lambda: site.read_slurm(config)
        yield "services", lambda: site.read_services(config)
        yield "lane", lambda: site.read_lane(config)
        ours: tuple[tuple[str, Callable[..., Iterable[Metric]]], ...] = (
            ("redis", lambda connection: pool.redis(connection.info())),
            ("pool", lambda connection: pool.read(config, connection)),
            ("schedule", lambda connection: pool.read_schedule(config, connection)),
            ("runs", lambda connection: runs.read(self._index, connection)),
        )
        try:
            connection = connect(config, retries=0, reply_timeout=PATIENCE)
        except HpcpoolsError as error:  # asked once, not once per source
            away = error
            yield from ((name, lambda: _raise(away)) for name, _read in ours)
            return
        with connection:
            for name, read in ours:
                yield name, lambda read=read: _told(read, connection)  # type: ignore[misc]

    def _heard(self, source: str, error: str) -> None:
        """Say it once, not at every scrape."""
        if error and self._broken.get(source) != error:
            log.warning(event("source-fail", source=source, error=error))
        self._broken[source] = error


def _told(read: Callable[..., Iterable[Metric]], connection: object) -> list[Metric]:
    with told():
        return list(read(connection))


def _raise(error: HpcpoolsError) -> Iterable[Metric]:
    raise error
