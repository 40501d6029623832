"""The documentation builds as a site: strictly, offline, and with every page in its navigation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import hpcpools
from docs import hooks
from hpcpools.cli import COMMANDS
from hpcpools.config import Config
from tests.docs import blocks

FETCHED = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)", re.I
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does; a warning fails it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=blocks.REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    """No font, script, style or picture of another host; a canonical link is only a name."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert {url for page in pages for url in FETCHED.findall(page.read_text())} == set()
    assert (site / "search" / "search_index.json").exists()


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """A page that mkdocs.yml does not list would be found by nobody."""
    nav = (blocks.REPOSITORY / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = set(re.findall(r"(\S+\.md)\b", nav))
    assert {page.name for page in blocks.DOCS.glob("*.md")} - listed == set(), "add them to nav in mkdocs.yml"
    assert all((site / page).with_suffix(".html").exists() for page in listed)


def test_reference_has_every_command_key_and_name(site: Path) -> None:
    """What is written from the code is complete."""
    commands = hooks.cli_reference()
    assert [name for name in COMMANDS if f"## hpcpools {name}\n" not in commands] == []
    assert "### hpcpools schedule add\n" in commands
    keys = hooks.configuration_reference()
    sections = [field.name for field in msgspec.structs.fields(Config) if field.name != "file"]
    assert [name for name in sections if f"[{name}" not in keys] == []
    assert "| `workers` | whole number; ≥ 1, ≤ 256 | `4` |" in keys
    python = (site / "reference" / "python.html").read_text()
    assert all(f'id="{home}.{name}"' in python for name, home in hpcpools._HOMES.items())
