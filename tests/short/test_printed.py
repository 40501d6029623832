"""What tasks print is in the pool's log with the id of their job, one event per line, hostile or not."""

from __future__ import annotations

import re

from tests.short.lab import Lab, wait_for


def test_printed_lines_carry_their_job(lab: Lab) -> None:
    """Two jobs one after the other in the same child; half lines, progress bars, escapes, tracebacks."""
    first = lab.enqueue("shout", words=["one\n", "tw", "o\n50%\r100%\r", "\x1b[2Jclear\n", "no end"])
    second = lab.enqueue("shout", words=["other\n"])
    lab.start_pool("burst", workers=1)
    wait_for(lambda: second.refresh().state == "finished", "both ran")
    lines = wait_for(lambda: [line for line in lab.events().splitlines() if "action=print" in line], "lines")
    said = [re.search(r'job=(\S+) stream=(\S+) text="?(.*?)"?$', line).groups() for line in lines]  # type: ignore[union-attr]
    assert [text for job, stream, text in said if job == first.id and stream == "stdout"] == [
        "one", "two", "50%", "100%", "\\x1b[2Jclear", "no end"
    ]  # fmt: skip
    assert [(job, text) for job, stream, text in said if stream == "stderr"] == [
        (first.id, "to stderr"),
        (second.id, "to stderr"),
    ]
    assert [text for job, stream, text in said if job == second.id and stream == "stdout"] == ["other"]


def test_a_task_may_replace_the_streams(lab: Lab) -> None:
    """Or close them: the next task prints as before."""
    for words in (["first\n"], ["close"], ["last\n"]):
        job = lab.enqueue("shout", words=words)
    lab.start_pool("burst", workers=1)
    wait_for(lambda: job.refresh().state == "finished", "all ran")
    wait_for(lambda: "text=last" in lab.events(), "the last one prints")
