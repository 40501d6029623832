"""What the documents quote exists: messages in the source, commands and options in the command line."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from hpcpools.cli import group
from tests.docs import blocks

PAGES = sorted([*blocks.DOCS.glob("*.md"), *blocks.REPOSITORY.glob("README*.md")], key=lambda page: page.name)
_CALL = re.compile(r"(?:^|\$ |\$\(|&& )hpcpools ([a-z][a-z-]*)((?: [^`\n#|;&()\\]+)?)", re.M)


def test_troubleshooting_quotes_the_program() -> None:
    """Each message in the first column, piece by piece between its ``…``, is a text of the source."""
    texts = "\n".join(_texts())
    page = (blocks.DOCS / "troubleshooting.md").read_text()
    symptoms = re.findall(r"^\| (?!symptom|---)(.*?) \| ", page, re.M)
    quoted = [quote for symptom in symptoms for quote in re.findall(r"`([^`]+)`", symptom)]
    pieces = [piece.strip() for quote in quoted for piece in quote.split("…")]
    assert [piece for piece in pieces if piece and piece not in texts] == []
    assert len(symptoms) >= 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_exist(page: Path) -> None:
    """Every ``hpcpools COMMAND --option`` in code is one that the program takes."""
    text = page.read_text()
    shells = [found["text"] for found in blocks.BLOCK.finditer(text) if found["kind"] in blocks.SHELLS]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    code = [*shells, *re.findall(r"^    (.+)$|`([^`\n]+)`", prose, re.M)]
    wrong = [
        f"hpcpools {name}{rest}"
        for piece in code
        for name, rest in _CALL.findall(piece if isinstance(piece, str) else "".join(piece))
        if not _takes(name, _words(rest))
    ]
    assert wrong == []


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # prose, with an apostrophe
        return text.split()


def _takes(name: str, words: list[str]) -> bool:
    context = click.Context(group)
    command = group.get_command(context, name)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if re.fullmatch(r"[a-z-]+", words[0]) is None:
            return True  # a placeholder
        command, words = command.get_command(context, words[0]), words[1:]
    if command is None:
        return False
    ours = words[: words.index("--")] if "--" in words else words
    known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    asked = {word.partition("=")[0] for word in ours if word.startswith("--")}
    return asked <= known | {"--help"}


def _texts() -> list[str]:
    found = []
    for file in (blocks.REPOSITORY / "hpcpools").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found
