"""The configuration: every wrong value is named with file, key, value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcpools import config
from hpcpools.errors import ConfigError

FILE = Path("/project/hpcpools.toml")


def test_defaults_are_whole() -> None:
    """An empty file is a valid configuration: 4 workers, 4 queues, 3 schedules."""
    found = config.parse({}, FILE, {})
    assert found.short.workers == 4
    assert found.short.queues == ("default", "evaluation", "preprocessing", "maintenance")
    assert {name: float(entry.every or 0) for name, entry in found.schedules.items()} == {
        "update_job_metrics": 60.0,
        "scan_failed_jobs": 300.0,
        "cleanup_old_checkpoints": 3600.0,
        "advance_pipelines": 10.0,
    }
    assert found.root == Path("/project/runs")


@pytest.mark.parametrize(
    ("data", "key", "value", "allowed"),
    [
        ({"short": {"workers": 0}}, "short.workers", "0", ">= 1"),
        ({"short": {"timeout": "5 parsecs"}}, "short.timeout", "5 parsecs", "12h"),
        ({"short": {"queues": ["default"]}}, "short", "", "maintenance"),
        ({"training": {"engine": "pbs"}}, "training.engine", "pbs", "enum"),
        ({"training": {"partition": "gpu'\n#SBATCH --x"}}, "training.partition", "gpu", "regex"),
        ({"training": {"setup": ["a\nb"]}}, "training.setup", "a\\nb", "regex"),
        ({"shrot": {}}, "shrot", "", "unknown"),
        ({"short": {"worker": 1}}, "short.worker", "", "unknown"),
        ({"schedule": {"x": {"every": "1m", "cron": "* * * * *"}}}, "schedule.x", "", "either"),
        ({"schedule": {"x": {"every": 1.5}}}, "schedule.x", "1.5", "whole seconds"),
        ({"schedule": {"ok": {"every": 60}, "a.b": {"every": 60}}}, "schedule.a.b", "a.b", "regex"),
        (
            {"training": {"partitions": {"p": {"gpus_per_node": -1}}}},
            "partitions.p.gpus_per_node",
            "-1",
            ">= 0",
        ),
        ({"routing": {"not a task": "default"}}, "routing.not a task", "not a task", "regex"),
        ({"schedule": {"x": {"every": "1m", "queue": "nope"}}}, "schedule.x.queue", "nope", "maintenance"),
        ({"routing": {"a.b:c": "nope"}}, "a.b:c", "nope", "training"),
        ({"redis": {"url": "http://x"}}, "redis.url", "http://x", "regex"),
        ({"project": {"root": "a%j"}}, "", "a%j", "Slurm expands"),
        ({"retention": {"mode": "best"}}, "retention.mode", "best", "enum"),
    ],
)
def test_a_wrong_value_is_named(data: dict[str, Any], key: str, value: str, allowed: str) -> None:
    """File, key, value and the allowed values stand in the message."""
    with pytest.raises(ConfigError) as caught:
        config.parse(data, FILE, {})
    text = str(caught.value)
    assert str(FILE) in text
    assert key in text
    assert value in text
    assert allowed in text
    assert caught.value.exit_code == 78


def test_the_environment_overrules_the_file() -> None:
    """HPCPOOLS_SHORT__WORKERS=8 beats the file; a wrong one is named by its variable."""
    assert config.parse({"short": {"workers": 2}}, FILE, {"HPCPOOLS_SHORT__WORKERS": "8"}).short.workers == 8
    with pytest.raises(ConfigError, match="HPCPOOLS_SHORT__WORKERS"):
        config.parse({}, FILE, {"HPCPOOLS_SHORT__WORKERS": "many"})


def test_the_file_is_found_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder below the project the project's file is found; HPCPOOLS_CONFIG beats it."""
    monkeypatch.delenv("HPCPOOLS_CONFIG", raising=False)
    (tmp_path / "hpcpools.toml").write_text("")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert config.locate(below) == tmp_path / "hpcpools.toml"
    other = tmp_path / "other.toml"
    other.write_text("")
    monkeypatch.setenv("HPCPOOLS_CONFIG", str(other))
    assert config.locate(below) == other


def test_without_a_file_the_next_step_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file anywhere: the error says `hpcpools init`."""
    monkeypatch.delenv("HPCPOOLS_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="hpcpools init"):
        config.locate(tmp_path)


def test_two_projects_have_two_runtime_directories(tmp_path: Path) -> None:
    """Services of one project never meet those of another."""
    one = config.parse({}, tmp_path / "one" / "hpcpools.toml", {})
    two = config.parse({}, tmp_path / "two" / "hpcpools.toml", {})
    assert one.runtime_dir != two.runtime_dir
    assert one.machine_dir == two.machine_dir
