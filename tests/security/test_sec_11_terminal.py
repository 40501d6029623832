"""SEC-11: what jobs, users and Slurm wrote reaches a terminal or a log as harmless text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hpcpools import eventlog, textsafe
from hpcpools.cli import output
from hpcpools.services.logs import LineLog, parse, render
from tests.project import Project
from tests.security.inside import Inside

CORPUS = {
    "OSC 0, the title": "\x1b]0;owned\x07",
    "OSC 8, a link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "OSC 52, the clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "CSI": "\x1b[2J\x1b[1;1H\x1b[8m",
    "C1 CSI": "\x9b2J\x9d0;owned\x9c",
    "DCS": "\x1bP$q\x1b\\",
    "back to the start": "harmless\revil",
    "backspace": "rm\x08\x08ls",
    "bell, NUL, DEL": "\x07\x00\x7f",
    "bidi": "\u202eevil\u202c \u2066x\u2069",
    "zero width": "a\u200bb\ufeffc\u2028d",
}
HOSTILE = " ".join(CORPUS.values())
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

TASK = f"""
HOSTILE = {HOSTILE!a}

@training(gpus=None, time="5m", launcher="single")
def evil(run, name=""):
    print(HOSTILE, flush=True)
    print(HOSTILE + "\\n" + HOSTILE, file=sys.stderr, flush=True)
    run.log(step=1, **{{"loss": 1.0}})
    raise RuntimeError(HOSTILE + "\\nstate  COMPLETED")

@task(timeout="1m")
def bad(name=""):
    print(HOSTILE)
    raise ValueError(HOSTILE + "\\nstate  finished")
"""


@pytest.mark.parametrize("what", CORPUS)
def test_sec_11_every_voice(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The filter, the tables and facts, the events and the services' log files."""
    text = CORPUS[what]
    output.show_table(["A", text], [[text, f"{text}\n{text}"]])
    output.show_facts([("name", f"{text}\nstate  COMPLETED")])
    output.say(f"{text}\n{text}")
    output.note(text)
    output.show_json({"text": text})
    said = capsys.readouterr()
    log = LineLog(tmp_path / "x.log", max_bytes=10**6, files=2)
    log.feed(f"{text}\n".encode("utf-8", "surrogateescape"))
    log.feed(eventlog.event("note", said=f"{text}\n{text}").encode() + b"\n")
    lines = (tmp_path / "x.log").read_text().splitlines()
    assert len(lines) == 2  # one event, one line
    for shown in (textsafe.printable(text), said.err, *lines, *(render(parse(line)) for line in lines)):
        assert RAW.search(shown) is None
    assert RAW.search(said.out.replace("\x7f", "")) is None  # JSON writes DEL as it is; terminals ignore it
    assert "\nstate" not in said.out


def test_sec_11_a_hostile_run_and_job_in_every_command(laptop: Project, inside: Inside) -> None:
    """A training and a task that print and raise the corpus, and arguments that hold it."""
    (laptop.folder / "usertasks.py").write_text((laptop.folder / "usertasks.py").read_text() + TASK)
    laptop.cli("up")
    job = laptop.cli("enqueue", "usertasks:bad", f"name={json.dumps(HOSTILE)}").stdout.strip()
    token = laptop.train("usertasks:evil", f"name={json.dumps(HOSTILE)}")
    waited = laptop.cli("wait", token, check=False)
    assert waited.returncode == 5
    laptop.cli("wait", job, check=False)
    laptop.cli("upkeep", "scan_failed_jobs")
    commands = [
        ["status"], ["runs"], ["jobs"], ["queues"], ["failures"], ["doctor"], ["ps"], ["usage"],
        ["show", token], ["show", job], ["explain", token], ["explain", job], ["logs", token], ["logs", job],
        ["logs", "all"], ["logs", token, "--grep", "owned"], ["result", token], ["result", job],
        ["wait", token, job], ["show", HOSTILE], ["logs", HOSTILE], ["train", HOSTILE], ["enqueue", HOSTILE],
        ["requeue", job, "--dry-run"], ["retry", token, "--dry-run"], ["reproduce", token, "--dry-run"],
    ]  # fmt: skip
    found = {"wait": RAW.findall(waited.stdout + waited.stderr)}
    for words in commands:
        told = inside.told(*words)
        found[" ".join(words)[:40]] = RAW.findall(told.text.replace("\x7f", ""))
        assert "this is a bug" not in told.text, words
    assert {name: bad for name, bad in found.items() if bad} == {}
    states = [line for line in inside.told("show", token).text.splitlines() if line.startswith("state ")]
    assert [line.split()[1] for line in states] == ["FAILED"]
    assert "owned" in inside.told("logs", token).text
