"""What docs/monitoring.md shows of a terminal was recorded, whole, and has nothing of the machine in it."""

from __future__ import annotations

import re
import socket

from tests.monitoring.recording import BLOCK, PAGE

SHOWN = ("logs", "failures", "retry", "report", "plot", "doctor", "exporter")


def test_each_command_is_recorded() -> None:
    """Every command that this page is about, and in each block what its marker says."""
    blocks = list(BLOCK.finditer(PAGE.read_text()))
    commands = [line.strip() for found in blocks for line in found["commands"].split(";;")]
    assert set(SHOWN) <= {line.split()[1] for line in commands}
    for found in blocks:
        asked = re.findall(r"^\$ (.+)$", found["text"], re.M)
        assert [line.split()[:2] for line in asked] == [
            line.split()[:2] for line in found["commands"].split(";;")
        ]


def test_nothing_of_the_machine_is_in_it() -> None:
    """No folder, no name of a host or of a lab."""
    text = "".join(found["text"] for found in BLOCK.finditer(PAGE.read_text()))
    assert re.findall(r"/(?:tmp|var|root|home|work)/\S*", text) == []
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert "this is a bug" not in text
