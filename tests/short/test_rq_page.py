"""docs/rq.md claims only what a test shows."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "rq.md"
FAULTS = (*range(1, 8), 20, 21)  # of the fault model, those of the short pool


def test_every_row_that_holds_names_its_test() -> None:
    """Each test that the checklists name exists, and each row that holds names one; the others say why."""
    rows = [
        [cell.strip() for cell in line.strip("|\n").split(" | ")]
        for line in PAGE.read_text().splitlines()
        if re.match(r"\| .* \| (holds|differs|\(ours\)) \| ", line)
    ]
    assert len(rows) > 60
    defined = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    faults = re.findall(r"^\| REL-.*", PAGE.read_text(), re.M)
    assert [fault.split()[1] for fault in faults] == [f"REL-{number}" for number in FAULTS]
    assert set(re.findall(r"`(test_\w+)`", " ".join([row[2] for row in rows] + faults))) <= defined
    assert [row[0] for row in rows if row[1] != "differs" and "`test_" not in row[2]] == []
    assert [row[0] for row in rows if not row[2]] == []
