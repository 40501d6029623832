"""The rules and the dashboard, judged by promtool and by a real Prometheus that scrapes the exporter."""

from __future__ import annotations

import json
import re
import signal
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcpools import monitoring
from hpcpools.monitoring import web
from tests.monitoring.conftest import Pool
from tests.monitoring.lab import Prometheus, program, promtool
from tests.short.lab import wait_for

ALERTS = Path(monitoring.__file__).with_name(monitoring.SHIPPED["alerts"])
METRIC = re.compile(r"\bhpcpools_\w+")
VARIABLES = {"$__rate_interval": "30s", "$__range": "1m", "$instance": ".*"}
# What is rightly empty here: no limit of Redis's memory is set.
EMPTY = {'sum(hpcpools_redis_memory_limit_bytes{instance=~".*"} > 0)'}


@pytest.fixture(scope="module")
def prometheus(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes `hpcpools exporter --listen` with its token."""
    program("prometheus")
    exporter = pool.project.start("exporter", "--listen", "127.0.0.1:0")
    try:
        assert exporter.stdout is not None
        first = exporter.stdout.readline()
        address = re.search(r"http://(127\.0\.0\.1:\d+)/metrics", first)
        assert address is not None, first
        folder = tmp_path_factory.mktemp("prometheus")
        server = Prometheus(folder, address[1], pool.config.runtime_dir / web.TOKEN_NAME, ALERTS)
        try:
            server.wait_scraped()
            yield server
        finally:
            server.close()
    finally:
        exporter.send_signal(signal.SIGTERM)
        exporter.communicate(timeout=30)
    assert exporter.returncode == 0


def test_rules_are_valid_and_do_what_they_say() -> None:
    """promtool checks the syntax, and runs each alert against series that shall and shall not raise it."""
    assert "rules found" in promtool("check", "rules", ALERTS)
    tests = Path(__file__).with_name("alerts_test.yml")
    assert "SUCCESS" in promtool("test", "rules", tests)
    raised = set(re.findall(r"alertname: (\w+)", tests.read_text()))
    assert raised == set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))


def test_every_query_of_the_dashboard_runs(prometheus: Prometheus) -> None:
    """Each names only metrics that the exporter has, has no error, and returns data."""
    known = set(prometheus.ask("label/__name__/values"))
    queries = list(dashboard_queries())
    assert len(queries) > 40
    unknown = {name for query in queries for name in METRIC.findall(query)} - known
    assert unknown == set()
    empty = {query for query in queries if not prometheus.query(query)}
    assert empty == EMPTY


def test_every_alert_is_evaluated(prometheus: Prometheus) -> None:
    """Health ok for each, over known metrics; those whose reason is there are pending or fire."""
    known = set(prometheus.ask("label/__name__/values"))
    assert set(METRIC.findall(ALERTS.read_text())) <= known

    def rules() -> Any:
        found = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else None

    found = wait_for(rules, "all rules evaluated")
    assert {rule["name"]: rule.get("lastError", "") for rule in found if rule["health"] != "ok"} == {}
    states = {rule["name"]: rule["state"] for rule in found}
    assert states["HpcpoolsGpuIdle"] == "pending"
    assert states["HpcpoolsExporterSilent"] == states["HpcpoolsRedisUnsafe"] == "inactive"


def test_it_scrapes_openmetrics_and_keeps_the_number_of_series_small(prometheus: Prometheus) -> None:
    """The whole pool is a few hundred series; a scrape takes a fraction of its interval."""
    (series,) = prometheus.query('scrape_samples_scraped{job="hpcpools"}')
    assert 100 < float(series["value"][1]) < 1000
    (took,) = prometheus.query('max_over_time(scrape_duration_seconds{job="hpcpools"}[1m])')
    assert float(took["value"][1]) < 1
    kinds = prometheus.ask("metadata", metric="hpcpools_jobs")
    assert kinds["hpcpools_jobs"][0]["type"] == "counter"  # OpenMetrics names the family without _total


def test_an_unknown_query_would_be_noticed(prometheus: Prometheus) -> None:
    """The judge can say no."""
    with pytest.raises((AssertionError, urllib.error.HTTPError)):
        prometheus.query("sum by (hpcpools_runs")
    assert prometheus.query("hpcpools_no_such_metric") == []


def dashboard_queries() -> Iterator[str]:
    """All expressions of panels and variables, with Grafana's variables filled in."""
    board = json.loads(monitoring.shipped("grafana"))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield _filled(target["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            assert found is not None, variable
            yield _filled(found[1])


def _filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression
