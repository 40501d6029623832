"""What the documents show is true: README's first training runs, commands and keys are all described."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from hpcpools.cli import COMMANDS
from hpcpools.config import Config
from tests.docs import blocks
from tests.project import Project

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()


def test_readme_s_first_training_runs(laptop: Project) -> None:
    """The module and the commands of README, as a new user would type them."""
    printed = blocks.run(laptop, REPOSITORY / "README.md")
    assert '"loss"' in printed
    assert '"norm"' in printed


def test_every_command_is_described() -> None:
    """docs/commands.md names each command, and README only commands that exist."""
    text = (REPOSITORY / "docs" / "commands.md").read_text()
    assert [name for name in COMMANDS if f"`{name}" not in text and f" {name}`" not in text] == []
    named = set(re.findall(r"^\$ hpcpools ([a-z-]+)", README, re.M))
    assert named <= set(COMMANDS)


def test_every_section_of_the_configuration_is_described() -> None:
    """docs/configuration.md has each section; its keys stand there or on the page it links to."""
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    pages = "".join(page.read_text() for page in (REPOSITORY / "docs").glob("*.md"))
    missing = []
    for section in msgspec.structs.fields(Config):
        kind = section.type
        if section.name == "file":
            continue
        if f"[{section.name}" not in text:
            missing.append(section.name)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            missing += [
                f"{section.name}.{key.name}"
                for key in msgspec.structs.fields(kind)
                if not re.search(rf"`{key.name}\b|{key.name}\.NAME", pages)
            ]
    assert missing == []


def test_links_lead_somewhere() -> None:
    """Relative links of README, in both languages, and docs."""
    for page in (*REPOSITORY.glob("README*.md"), *(REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
