"""Logs of the services: one JSON object per event, joined by ids, filtered, followed across a rotation."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest

from hpcpools import eventlog
from hpcpools.config import Config, parse
from hpcpools.eventlog import event
from hpcpools.services import logs
from hpcpools.services.history import Filter, Follower, read
from hpcpools.services.logs import LineLog
from tests.project import Project


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Small log files, two rotated ones."""
    services = {"runtime_dir": "rt", "log_bytes": 2000, "log_files": 3}
    config = parse({"services": services}, tmp_path / "hpcpools.toml", {})
    (config.runtime_dir / "logs").mkdir(parents=True)
    return config


def said(facts: dict[str, Any]) -> str:
    """An event's line as the service writes it."""
    record = logging.LogRecord("hpcpools", logging.INFO, "", 0, event(facts.pop("action"), **facts), (), None)
    return eventlog._Json().format(record)


def test_an_event_is_one_json_line_and_reads_well() -> None:
    """Values keep their types; hostile text stays inside its value, on one line."""
    hostile = 'a\n\x1b]0;owned\x07\u202e "quoted" action=forged'
    line = said(
        {"action": "fail", "job": "j-1", "seconds": 1.23456, "count": 3, "none": None, "why": hostile}
    )
    assert "\n" not in line
    assert "\x1b" not in line
    facts = logs.parse(line)
    assert (facts["action"], facts["job"], facts["seconds"], facts["count"]) == ("fail", "j-1", 1.235, 3)
    assert "none" not in facts
    shown = logs.render(facts)
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z action=fail job=j-1 seconds=1.235 count=3 why=\"a", shown)
    assert "\x1b" not in shown


def test_what_programs_print_is_kept_as_text(config: Config) -> None:
    """Redis' own lines, tracebacks, and JSON that is no event of ours."""
    log = LineLog.of(config, "redis")
    log.feed(b'1:M Ready to accept\n{"not": "ours"}\n[1]\n' + said({"action": "start"}).encode() + b"\n")
    lines = [json.loads(line) for line in logs.log_path(config, "redis").read_text().splitlines()]
    assert [line.get("text") for line in lines[:3]] == ["1:M Ready to accept", '{"not": "ours"}', "[1]"]
    assert lines[3]["action"] == "start"
    assert {line["service"] for line in lines} == {"redis"}


def test_one_job_is_found_in_all_logs(config: Config) -> None:
    """In order of time, whatever file it was rotated into."""
    short, scheduler = LineLog.of(config, "short"), LineLog.of(config, "scheduler")
    scheduler.feed(said({"action": "fire", "job": "j-7"}).encode() + b"\n")
    for number in range(30):
        time.sleep(0.001)
        short.feed(said({"action": "start", "job": f"j-{number}"}).encode() + b"\n")
    found = read(config, ("short", "scheduler"), Filter(about="j-7"))
    assert [(each["service"], each["action"]) for each in found] in (
        [("scheduler", "fire"), ("short", "start")],
        [("scheduler", "fire")],
    )
    assert len(read(config, ("short",), Filter(grep=re.compile("job=j-29$")))) == 1
    assert read(config, ("short",), Filter(since=time.time() + 60)) == []
    everything = read(config, ("short",), Filter(since=time.time() - 60))
    assert [each["job"] for each in everything][-3:] == ["j-27", "j-28", "j-29"]


def test_following_loses_nothing_at_a_rotation(config: Config) -> None:
    """Every line once, although the file is renamed under the reader, and half lines wait."""
    log = LineLog.of(config, "short")
    log.feed(b"before\n")
    follower = Follower(config, ("short",), Filter())
    seen = []
    for number in range(60):
        log.feed(f"line {number}\n".encode())
        if number % 7 == 0:
            seen += follower.read()
    with logs.log_path(config, "short").open("ab") as file:
        file.write(b'{"at": "9", "level"')
    seen += follower.read()
    assert [each["text"] for each in seen] == [f"line {number}" for number in range(60)]
    with logs.log_path(config, "short").open("ab") as file:
        file.write(b': "info", "text": "whole"}\n')
    assert [each["text"] for each in follower.read()] == ["whole"]


def test_logs_of_services_and_jobs_on_the_command_line(laptop: Project) -> None:
    """A service, a job across services, --grep, --since, --json; a name that is neither."""
    laptop.cli("up")
    job = laptop.json("enqueue", "usertasks:broken")["job"]
    found = laptop.until(lambda: laptop.cli("logs", job, check=False).stdout, "the job's lines")
    assert re.match(rf"short: [\d:.TZ-]+ WARNING action=fail job={job} .*a broken task", found)
    assert "action=pool-start" in laptop.cli("logs", "short").stdout
    assert "action=pool-start" not in laptop.cli("logs", "short", "--grep", "slot").stdout
    lines = [
        json.loads(line) for line in laptop.cli("logs", "all", "--since", "1h", "--json").stdout.splitlines()
    ]
    assert {"redis", "short", "supervisor"} <= {line["service"] for line in lines}
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert laptop.cli("logs", "nothing", check=False).returncode == 3
    assert laptop.cli("logs", "short", "--grep", "(", check=False).returncode == 2
    assert laptop.cli("logs", job, "--about", job, check=False).returncode == 2


@pytest.mark.slurm
def test_one_runs_story_is_joined_by_ids(site: Project) -> None:
    """Crash, restart, end, as upkeep saw them: run, attempts, Slurm's jobs, and whose short job told.

    The ids of the events are those on disk; each event of a Slurm job leads to its run and back.
    """
    with (site.folder / "hpcpools.toml").open("a") as file:
        file.write("[restarts]\nfirst_delay = '1s'\n[schedule.scan_failed_jobs]\n")
        file.write("task = 'hpcpools.maintenance:scan_failed_jobs'\nevery = '3s'\n")
    site.cli("up", "scheduler", "short")
    token = site.train("usertasks:slow", "steps=6", "crash_at=3", "pace=0.05", "--restart", "user_error=3")
    site.until(lambda: "action=verdict" in site.cli("logs", "all", "--about", token).stdout, "the end", 120)
    attempts = site.json("show", token)["attempts"]
    first, second = (attempt["job_id"] for attempt in attempts)
    story = events(site, token)
    assert {each["run"] for each in story} == {token}
    assert {each["slurm_job"] for each in story} == {first, second}
    [due] = [each for each in story if each["action"] == "restart-due"]
    assert (due["slurm_job"], due["attempt"]) == (first, 1)
    verdict = story[-1]
    assert (verdict["slurm_job"], verdict["attempt"], verdict["state"]) == (second, 2, "COMPLETED")
    of_first = events(site, first)
    assert of_first == [each for each in story if each["slurm_job"] == first]
    for job in {each["job"] for each in story}:  # all was told from within short jobs, each of which is known
        assert site.cli("show", job, check=False).returncode == 0
        assert [each for each in story if each["job"] == job] == [
            each for each in events(site, job) if each.get("run") == token
        ]


def events(project: Project, about: str) -> list[dict[str, Any]]:
    """What the services said about one id, oldest first."""
    found = project.cli("logs", "all", "--about", about, "--json").stdout
    return [json.loads(line) for line in found.splitlines()]
