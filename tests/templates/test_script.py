"""Filling in a template: three lines to edit, every field's value whole or refused, no line more (SEC-8)."""

from __future__ import annotations

import random
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from hpcpools import templates
from hpcpools.config import Config, parse
from hpcpools.errors import ConfigError, NotFoundError, UsageError
from hpcpools.templates.script import ADDABLE, Script

OURS = ["multinode", "preprocessing", "services", "sweep", "training", "worker"]
ALPHABET = "ab1_-.:/=@,% \t\n\r\\'\"`$#;&|<>(){}[]!*\x1b\x00\x85\u2028\u202eé"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without templates."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def config(home: Path) -> Config:
    """A project without templates of its own."""
    return parse({}, home / "hpcpools.toml", {})


def options(text: str) -> list[str]:
    """The words that sbatch would take from the header, read apart from the code under test."""
    found = []
    for line in text.split("\n"):
        if line.strip() and not line.startswith("#"):
            break
        if line.startswith("#SBATCH"):
            found += shlex.split(line.removeprefix("#SBATCH"), comments=True)
    return found


def test_ours_are_there_each_with_three_lines_to_edit(config: Config) -> None:
    """Plain bash, described, and what must be edited is what `template list` names."""
    assert templates.names(config) == OURS
    for name in OURS:
        found = templates.find(config, name)
        assert sum(1 for line in found.script.lines if "# EDIT" in line) == 3
        assert found.script.about
        assert "command" in found.script.edits
        subprocess.run(["bash", "-n", str(found.path)], check=True)
        assert found.script.render({}) == found.path.read_text()


def test_the_nearer_folder_wins(home: Path) -> None:
    """Project, then user, then ours; names cannot leave the folder."""
    user, project = home / ".config" / "hpcpools" / "templates", home / "mine"
    for folder in (user, project):
        folder.mkdir(parents=True)
    (user / "training.sbatch").write_text("#!/bin/bash\n# user\n")
    (user / "extra.sbatch").write_text("#!/bin/bash\n# extra\n")
    (user / "bad name.sbatch").write_text("#!/bin/bash\n")
    plain = parse({}, home / "hpcpools.toml", {})
    both = parse({"project": {"templates": "mine"}}, home / "hpcpools.toml", {})
    assert templates.find(both, "training").script.about == "user"
    (project / "training.sbatch").write_text("#!/bin/bash\n# project\n")
    assert templates.find(both, "training").script.about == "project"
    assert templates.find(plain, "training").script.about == "user"
    assert templates.names(plain) == sorted([*OURS, "extra"])
    for name in ("../training", "nothing", "", "training.sbatch", "a\n"):
        with pytest.raises(NotFoundError):
            templates.find(both, name)
    project.rename(home / "gone")
    with pytest.raises(ConfigError):
        templates.names(both)


def test_values_go_where_they_belong(config: Config) -> None:
    """Options in their lines, words in the array, a few options added; all else is unknown."""
    script = templates.find(config, "multinode").script
    text = script.render(
        {"nodes": "4", "gpus_per_node": "8", "account": "me", "command": "train.py --lr '1 2'"}
    )
    words = options(text)
    assert [word for word in options(script.render({})) if word not in words] == [
        "--nodes=2",
        "--gpus-per-node=4",
    ]
    assert {"--nodes=4", "--gpus-per-node=8", "--partition=gpu", "--account=me"} <= set(words)
    assert "command=(train.py --lr '1 2') " in text
    for bad in ({"srun": "x"}, {"array": "0-1"}, {"command": ""}, {"command": "a 'b"}, {"wrap": "x"}):
        with pytest.raises(UsageError):
            script.render(bad)


def test_ten_thousand_values_are_refused_or_echoed(config: Config) -> None:
    """SEC-8: as many lines as before (one more for an added option), and exactly the asked words."""
    source = random.Random(8)
    script = templates.find(config, "sweep").script
    fields = [*script.options, *script.variables, *ADDABLE]
    before, lines = options(script.render({})), len(script.lines)
    accepted, told = 0, []
    for _ in range(10_000):
        name = source.choice(fields)
        value = "".join(source.choice(ALPHABET) for _ in range(source.randint(0, 9)))
        value = source.choice(["", "", "a", "1"]) + value
        try:
            text = script.render({name: value})
        except UsageError:
            continue
        accepted += 1
        added = name in ADDABLE and name not in script.options
        assert text.count("\n") + 1 == lines + added
        if name in script.variables:
            assert options(text) == before
            (line,) = [line for line in text.split("\n") if line.startswith(f"{name}=")]
            told.append((line, shlex.split(value)))
        else:
            gone = [word for word in before if not word.startswith(f"--{name}=")]
            assert sorted(options(text)) == sorted([*gone, f"--{name}={value}"])
    assert accepted > 500
    assert len(told) > 100
    shell = "".join(f"{line}\nprintf '%s\\0' \"${{command[@]}}\"; printf '\\n\\0'\n" for line, _ in told)
    said = subprocess.run(["bash", "-u"], input=shell.encode(), capture_output=True, check=True)
    assert said.stderr == b""
    assert said.stdout.decode() == "".join("\0".join([*words, "\n", ""]) for _, words in told)


@pytest.mark.parametrize("value", ["x\n#SBATCH --uid=0", "x # y", "x --wrap=id", "$(id)", "x\x85y", "-x", ""])
def test_an_option_s_value_is_one_word(config: Config, value: str) -> None:
    """In every option of every template."""
    for name in OURS:
        script = templates.find(config, name).script
        for option in (*script.options, *ADDABLE):
            with pytest.raises(UsageError):
                script.render({option: value})


def test_what_is_no_script_is_refused() -> None:
    """A template begins with #!."""
    with pytest.raises(UsageError, match="#!"):
        Script("hello\n")
    with pytest.raises(UsageError, match="cannot be seen"):
        Script("#!/bin/bash\necho \x1b[2J\n")


def test_a_wheel_has_them_too(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the package if they lie there, as pyproject puts them; else in the repository."""
    import hpcpools

    folder = tmp_path / "site-packages" / "hpcpools"
    (folder / "sbatch_templates").mkdir(parents=True)
    (folder / "sbatch_templates" / "training.sbatch").write_text("#!/bin/bash\n# wheel\n")
    monkeypatch.setattr(hpcpools, "__file__", str(folder / "__init__.py"))
    assert templates.names(config) == ["training"]
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r'^sbatch_templates = "hpcpools/sbatch_templates"$', project, re.M)
