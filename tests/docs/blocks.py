"""What a page shows, as one shell script: the files it names are written, the blocks tagged runnable are run.

A Python or TOML block whose first line is a comment with a file's name is that file. A shell block after
``<!-- run -->`` is run; ``<!-- run: exit 5 -->`` says how it ends if not with 0. In a ``console`` block only
lines after ``$`` are run, the rest is what they print. All blocks of a page share one shell, so a variable of
one is known to the next.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.project import Project

REPOSITORY = Path(__file__).parent.parent.parent
DOCS = REPOSITORY / "docs"
BLOCK = re.compile(
    r"(?:^<!-- run(?:: exit (?P<code>\d+))? -->\n+)?^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```", re.M | re.S
)
SHELLS = ("", "bash", "console", "sh")
_FILE = re.compile(r"# ([\w./-]+\.(?:py|toml|yml|txt))\n")


def script(page: str, name: str = "page") -> str:
    """The page's files and runnable blocks in their order, for ``bash``."""
    parts = ["set -euo pipefail"]
    for found in BLOCK.finditer(page):
        kind, text = found["kind"], found["text"]
        line = page.count("\n", 0, found.start()) + 1
        file = _FILE.match(text)
        if found[0].startswith("<!-- run"):
            parts += _run(commands(kind, text), int(found["code"] or 0), f"{name}:{line}")
        elif file:
            parts.append(f"cat > {file[1]} <<'END_OF_FILE'\n{text}END_OF_FILE")
    return "\n".join(parts) + "\n"


def commands(kind: str, text: str) -> str:
    """What is typed in a shell block."""
    if kind != "console":
        return text
    return "".join(f"{line[2:]}\n" for line in text.splitlines() if line.startswith("$ "))


def shown(page: str) -> list[str]:
    """The blocks of a page without comments: equal in a page and its translation."""
    blocks = (found["text"] for found in BLOCK.finditer(page))
    return [re.sub(r" *# .*", "", text) for text in blocks]


def run(project: Project, page: Path) -> str:
    """Run a page in a project's folder, with hpcpools, python and pytest on PATH. What it printed."""
    (project.folder / "hpcpools.toml").unlink()
    programs = project.folder.parent / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("hpcpools", "python", "pytest"):
        (programs / name).symlink_to(Path(sys.executable).parent / name)
    done = subprocess.run(
        ["bash", "-c", script(page.read_text(), page.name)],
        cwd=project.folder,
        env={**project.env, "PATH": f"{programs}{os.pathsep}{project.env['PATH']}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def _run(words: str, code: int, where: str) -> list[str]:
    told = f"echo '== {where}' >&2"
    if code == 0:
        return [told, words]
    ended = f'code=$?; set -e; [ $code -eq {code} ] || {{ echo "ended with $code, not {code}" >&2; exit 1; }}'
    return [told, "set +e", f"( set -e\n{words})", ended]
