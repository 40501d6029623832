"""What `hpcpools deploy logs` prints fits the lines that our services write."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hpcpools import deploy
from hpcpools.cli import main
from hpcpools.config import parse
from hpcpools.errors import UsageError
from hpcpools.eventlog import event
from hpcpools.services.logs import LineLog, log_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LEVELS = {"debug", "info", "warning", "error", "critical"}


@pytest.fixture
def lines(tmp_path: Path) -> list[dict[str, Any]]:
    """Lines of a real log file: an event, plain output, and a task's attempt to speak for another."""
    config = parse({"services": {"runtime_dir": "rt"}}, tmp_path / "hpcpools.toml", {})
    (tmp_path / "rt" / "logs").mkdir(parents=True)
    log = LineLog.of(config, "short")
    facts = {"at": "2026-11-25T18:40:00.123Z", "level": "warning", "pid": 7, **event("kill", job="j").facts}
    log.feed(json.dumps(facts).encode() + b"\n")
    log.note("plain output")
    log.feed(b'{"at": 5, "level": "made-up", "service": "supervisor"}\n')
    return [json.loads(line) for line in log_path(config, "short").read_text().splitlines()]


def test_alloy_reads_our_fields(lines: list[dict[str, Any]]) -> None:
    """Each field it extracts is in each line, the time in its form; the labels are service and level."""
    text = deploy.shipper("alloy", "/rt/logs", "http://loki:3100/")
    (wanted,) = re.findall(r"expressions = \{(.*)\}", text)
    names = set(re.findall(r'"(\w+)" = ""', wanted))
    assert names == {"at", "service", "level"}
    assert all(names <= line.keys() for line in lines)
    assert 'source = "at"\n    format = "RFC3339Nano"' in text
    assert re.findall(r"label_keep \{\n\s+values = (\[.*\])", text) == ['["service", "level"]']
    (known,) = re.findall(r'level!~\\"([a-z|]+)\\"', text)
    assert set(known.split("|")) == LEVELS
    assert '"__path__" = "/rt/logs/*.log"' in text
    assert 'url = "http://loki:3100/loki/api/v1/push"' in text
    assert text.count("{") == text.count("}")
    # every component that is pointed at is there
    declared = {f"{kind}.{name}" for kind, name in re.findall(r'^([a-z_.]+) "(\w+)" \{', text, re.M)}
    pointed = set(re.findall(r"\b((?:local|loki)\.\w+\.\w+)\.(?:targets|receiver)", text))
    assert pointed <= declared
    assert len(pointed) == len(declared) - 1  # the source itself


def test_vector_reads_our_fields(lines: list[dict[str, Any]]) -> None:
    """The same of Vector's file, whose parts are fed by one another."""
    made = tomllib.loads(deploy.shipper("vector", "/rt/logs", "http://loki:3100"))
    (source,), (transform,), (sink,) = made["sources"], made["transforms"], made["sinks"]
    assert made["sources"][source]["include"] == ["/rt/logs/*.log"]
    assert made["transforms"][transform]["inputs"] == [source]
    assert made["sinks"][sink]["inputs"] == [transform]
    assert made["sinks"][sink]["labels"] == {"service": "{{ service }}", "level": "{{ level }}"}
    program = made["transforms"][transform]["source"]
    names = set(re.findall(r"\bfacts\.(\w+)", program))
    assert names == {"at", "service", "level"}
    assert all(names <= line.keys() for line in lines)
    assert set(re.findall(r'"(\w+)"', re.findall(r"includes\(\[(.*)\]", program)[0])) == LEVELS


def test_our_lines_have_the_time_and_their_own_service(lines: list[dict[str, Any]]) -> None:
    """What a task prints cannot pass for another service's; times of ours are RFC 3339."""
    assert {line["service"] for line in lines} == {"short"}
    assert {line["level"] for line in lines[:2]} <= LEVELS
    for line in lines[:2]:
        assert datetime.fromisoformat(line["at"].replace("Z", "+00:00")).tzinfo is not None


@pytest.mark.parametrize(
    "loki", ["loki:3100", "http://user:pw@loki", 'http://x"', "http://x\n}", "file:///x"]
)
def test_odd_addresses_are_refused(loki: str) -> None:
    """Nothing ends the string, and no credentials on a command line."""
    with pytest.raises(UsageError):
        deploy.shipper("vector", "/logs", loki)


def test_the_command_names_the_pool_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, for both agents."""
    (tmp_path / "hpcpools.toml").write_text('[services]\nruntime_dir = "rt"\n')
    monkeypatch.chdir(tmp_path)
    for agent in ("alloy", "vector"):
        monkeypatch.setattr(sys, "argv", ["hpcpools", "deploy", "logs", agent, "--loki", "https://l.example"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (0, None)
        said = capsys.readouterr().out
        assert f"{tmp_path}/rt/logs/*.log" in said
        assert "https://l.example" in said
