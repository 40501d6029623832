"""SEC-14: a pool is driven by the user it belongs to, and tells everybody else so in one line."""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import hpcpools
from hpcpools.cli import COMMANDS
from hpcpools.config import load
from hpcpools.errors import PermissionsError
from tests.project import Project
from tests.security.inside import told
from tests.security.other import Other

RUN = "hp-01m8a2w0a7y7zq9v3m0c3d4e5f"
# Words of those that need other ones than none, or the name of a run.
SOME = {
    "train": [["usertasks:see"]],
    "sweep": [["usertasks:see", "x=1,2"]],
    "enqueue": [["usertasks:evaluate"]],
    "pipeline": [["status", RUN]],
    "deploy": [["cron"]],
    "export": [[RUN, "out"]],
    "pin": [[RUN, "1"]],
    "upkeep": [["scan_failed_jobs"]],
    "template": [["list"]],
}
WITHOUT_A_POOL = {"init", "completion", "redis-acl", "help"}  # they read no configuration


SKIPPED = ("hpcpools.__main__", "hpcpools.demo", "hpcpools.dashboard", "hpcpools.top")


def answers(other: Other, commands: list[list[str]]) -> list[Any]:
    """Words, exit code and output of each command, run by B."""
    for module in pkgutil.walk_packages(hpcpools.__path__, "hpcpools."):
        if not module.name.startswith(SKIPPED):
            importlib.import_module(module.name)

    def all_of_them() -> list[Any]:
        return [[words, answer.code, answer.text] for words in commands for answer in [told(*words)]]

    found: list[Any] = other.call(all_of_them)
    return found


@pytest.fixture
def opened(laptop: Project) -> Project:
    """A's project, which B may enter and read."""
    for folder in (laptop.folder, *laptop.folder.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
    laptop.folder.chmod(0o755)
    return laptop


def test_sec_14_every_command_of_another_user(opened: Project, other: Other) -> None:
    """B names A's configuration: exit code 77, one line on stderr, nothing on stdout, no traceback."""
    file = opened.folder / "hpcpools.toml"
    os.chown(file, 61999, -1)  # A is not root here: what root owns, a site gives to all
    os.chown(opened.folder, 61999, -1)
    names = [name for name in COMMANDS if name not in WITHOUT_A_POOL]
    asked = [[name, *words] for name in names for words in SOME.get(name, [[], [RUN]])]
    try:
        found = answers(other, [["--config", str(file), *words] for words in asked])
    finally:
        os.chown(file, 0, -1)
        os.chown(opened.folder, 0, -1)
    refused = {
        words[2]
        for words, code, said in found
        if code == 77 and said.count("\n") == 1 and "owner uid 61999" in said
    }
    assert refused == set(names)
    assert [(words, said) for words, code, said in found if code not in (77, 2)] == []


def test_sec_14_folders_of_another_user(opened: Project, other: Other, tmp_path: Path) -> None:
    """B's own configuration that names A's runs and runtime directory, or a file that B may not read."""
    opened.root.mkdir(mode=0o700)
    secret = opened.folder / "secret.toml"
    secret.write_text("")
    secret.chmod(0o600)
    mine = tmp_path / "b.toml"
    mine.write_text(
        f'[project]\nroot = "{opened.root}"\n[services]\nruntime_dir = "{opened.folder}/rt"\n'
        '[training]\nengine = "local"\n'
    )
    os.chown(mine, other.uid, other.uid)
    mine.chmod(0o600)
    (opened.folder / "rt").mkdir(mode=0o700)
    mine_too = [["--config", str(mine), *words] for words in (
        ["runs"], ["status"], ["ps"], ["up"], ["down"], ["queues"], ["show", RUN],
        ["train", "--gpus", "0", "--", "true"], ["upkeep", "scan_failed_jobs"],
        ["gc", "--older-than", "1d"], ["cleanup"],
    )]  # fmt: skip
    found = answers(other, [["--config", str(secret), "runs"], *mine_too])
    wrong = [(words[2:], code, said) for words, code, said in found if code != 77 or "Traceback" in said]
    assert "\n".join(map(str, wrong)) == ""


def test_sec_14_whose_configuration(laptop: Project) -> None:
    """Ours and root's are read; another user's, and one that anyone may write, are not."""
    file = laptop.folder / "hpcpools.toml"
    load(file)
    file.chmod(0o666)
    with pytest.raises(PermissionsError, match="mode 0666") as refused:
        load(file)
    assert refused.value.exit_code == 77
    file.chmod(0o644)
