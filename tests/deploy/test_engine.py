"""docker-compose.yml on a real container engine, where there is one: its image is this machine.

Only our services, and no published port: the network is a loopback that all of them share.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcpools import config as configuration
from hpcpools.deploy import compose
from tests.deploy.test_compose import COMPOSE, OURS, USER
from tests.project import TASKS

REPOSITORY = Path(__file__).parents[2]
IMAGE = "hpcpools-test-machine:local"


class Stack:
    """The composed services of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, check: bool = True) -> str:
        """What a command of docker compose prints."""
        assert COMPOSE is not None
        done = subprocess.run(
            [COMPOSE, "--file", "docker-compose.yml", "--file", "here.yml", *words],
            cwd=self.folder, capture_output=True, text=True, timeout=90, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def hpcpools(self, *words: str, at: str = "short") -> str:
        """What an hpcpools command prints in one of the containers."""
        return self("exec", "--no-TTY", at, "hpcpools", *words)

    def containers(self) -> dict[str, dict[str, Any]]:
        """Service → its container, of those that run."""
        return {one["Service"]: one for one in map(json.loads, self("ps", "--format", "json").splitlines())}

    def started(self) -> dict[str, str]:
        """Service → when its container's main process started."""
        ids = [one["ID"] for one in self.containers().values()]
        form = '{{index .Config.Labels "com.docker.compose.service"}} {{.State.StartedAt}}'
        done = subprocess.run(
            ["docker", "inspect", "--format", form, *ids], capture_output=True, text=True, check=True
        )
        return dict(line.split() for line in done.stdout.splitlines())


def until(found: Callable[[], Any], what: str, timeout: float = 120) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout
    while not found():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.3)


def image() -> None:
    """An image of folders only, into which the programs of this machine are mounted."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for place in sorted(Path("/").iterdir()):
            entry = tarfile.TarInfo(place.name)
            entry.mode, entry.type = 0o755, tarfile.DIRTYPE
            if place.is_symlink() and place.name != "sbin":  # where the engine puts its init
                entry.type, entry.linkname = tarfile.SYMTYPE, str(place.readlink())
            if place.is_symlink() or place.is_dir():
                tar.addfile(entry)
    subprocess.run(["docker", "import", "-", IMAGE], input=data.getvalue(), check=True, capture_output=True)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """The files as written, and beside them one that puts this machine in the place of the image."""
    engine = shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False)
    if COMPOSE is None or not engine or engine.returncode or os.getuid() != 0:
        pytest.skip("no container engine answers here (`docker info`), or not root: NOT started on one")
    project = tmp_path / "project"
    project.mkdir()
    (project / "usertasks.py").write_text(TASKS)
    (project / "hpcpools.toml").write_text('[project]\nmodules = ["usertasks"]\n')
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o011)
    folder = project / "compose"
    compose.write(configuration.load(project / "hpcpools.toml"), folder, USER)
    image()
    places = [Path(f"/{name}") for name in ("usr", "opt", "lib", "lib64", "bin", "sbin", "etc")]
    places = [p for p in places if p.is_dir() and not p.is_symlink()] + [REPOSITORY, Path(sys.base_prefix)]
    volumes = [f"{place}:{place}:ro" for place in places]
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/usr/sbin:/bin", "LC_ALL": "C.UTF-8"}
    here: dict[str, Any] = {
        name: {"image": IMAGE, "volumes": volumes, "environment": env, "healthcheck": {"interval": "2s"}}
        for name in ("pod", *OURS)
    }
    text = json.dumps({"services": here})  # which is YAML
    text = text.replace(
        '"pod": {', '"pod": {"network_mode": "none", "ports": !reset [], "build": !reset null, ', 1
    )
    (folder / "here.yml").write_text(text)
    made = Stack(folder)
    try:
        yield made
    finally:
        made("down", "--timeout", "5", check=False)


def test_on_an_engine(stack: Stack) -> None:
    """All healthy; a task and a training; who is killed is restarted by the engine, alone; a stop saves."""
    stack("up", "--detach", "--wait", "--no-build", "pod", *OURS)
    assert set(stack.containers()) == {"pod", *OURS}
    token = stack.hpcpools("train", "usertasks:slow", "steps=1000", "pace=0.2", at="slot").strip()
    assert '"a"' in stack.hpcpools("enqueue", "usertasks:evaluate", "ckpt=a", "--wait")
    run = stack.folder.parent / "runs" / token
    until(lambda: list(run.glob("checkpoints/step-*")), "it saves")
    for name in ("scheduler", "redis"):
        before = stack.started()
        pids = stack("exec", "--no-TTY", "pod", "pgrep", "-f", f"deploy.container {name}").split()
        stack("exec", "--no-TTY", "pod", "kill", "-9", *pids)
        until(lambda: stack.started().get(name, before[name]) != before[name], "it is started again")  # noqa: B023
        after = stack.started()
        assert {one for one in after if after[one] != before[one]} == {name}
    until(
        lambda: '"b"' in stack.hpcpools("enqueue", "usertasks:evaluate", "ckpt=b", "--wait"), "another task"
    )
    assert not list(run.glob("attempts/*/end.json"))
    stack("stop")
    (end,) = run.glob("attempts/*/end.json")
    assert json.loads(end.read_text())["outcome"] == "stopped"
