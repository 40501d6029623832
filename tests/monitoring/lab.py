"""Prometheus as these tests use it: promtool, a real server on a loopback port, and what a scrape says."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.short.lab import wait_for

SAMPLES = 3  # scrapes before a rate says anything


def program(name: str) -> str:
    """Its path. Without it the test is skipped, or fails where `make test` should have installed it."""
    if found := shutil.which(name):
        return found
    reason = f"{name} is not installed (Debian: prometheus)"
    if os.environ.get("CI") == "true" or os.environ.get("HPCPOOLS_REQUIRE_LAB") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def promtool(*words: str | Path, stdin: bytes = b"") -> str:
    """What promtool printed; it must find nothing wrong."""
    argv = [program("promtool"), *map(str, words)]
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def families(page: bytes) -> dict[str, Metric]:
    """The plain text format, by the names of the families."""
    return {family.name: family for family in parse_text(page.decode())}


def openmetrics(page: bytes) -> dict[str, Metric]:
    """The same of an OpenMetrics page, by the library's strict parser."""
    return {family.name: family for family in parse_openmetrics(page.decode())}  # type: ignore[no-untyped-call]


def value(page: bytes, name: str, **labels: str) -> float:
    """One sample."""
    found = [
        sample.value
        for family in parse_text(page.decode())
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, f"{name}{labels}: {found}"
    return found[0]


class Prometheus:
    """A server of its own that scrapes one exporter every second and evaluates our alert rules."""

    def __init__(self, folder: Path, target: str, token: Path, rules: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{json.dumps(str(rules))}]\n"
            "scrape_configs:\n"
            "- job_name: hpcpools\n"
            f"  authorization: {{credentials_file: {json.dumps(str(token))}}}\n"
            f"  static_configs: [{{targets: [{json.dumps(target)}]}}]\n"
        )
        self._log = (folder / "prometheus.log").open("w+b")
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def ask(self, path: str, **words: str) -> Any:
        """``data`` of an answer of the HTTP API; an error of the query is raised with Prometheus's words."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  (http, loopback)
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{words}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's vector."""
        found = self.ask("query", query=expression)
        assert found["resultType"] == "vector", expression
        return list(found["result"])

    def wait_scraped(self) -> None:
        """Until a few scrapes succeeded."""

        def ready() -> bool:
            assert self._process.poll() is None, self._said()
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=20):  # noqa: S310
                    return True
            except OSError:  # not yet listening, or 503
                return False

        wait_for(ready, "Prometheus is ready", 60)
        enough = f'sum_over_time(up{{job="hpcpools"}}[1m]) >= {SAMPLES}'
        wait_for(lambda: self.query(enough), "Prometheus scrapes the exporter", 60)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()
