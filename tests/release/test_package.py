"""What is built is complete and works: wheel and sdist, and a project run from the installed wheel alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcpools import __version__
from tests.conftest import state_home
from tests.project import TASKS

REPOSITORY = Path(__file__).parent.parent.parent
PACKAGE = REPOSITORY / "hpcpools"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this tree, built without network."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    for target in ("sdist", "wheel"):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder],
            cwd=REPOSITORY,
            check=True,
        )
    return folder


def sources(folder: str, *suffixes: str) -> set[str]:
    """The files of a folder of the repository, as git would see them."""
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and (not suffixes or path.suffix in suffixes)
    }


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    """All of hpcpools/, the sbatch templates and the pages; no tests, caches or pictures."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(f"hpcpools-{__version__}.dist-info/METADATA").decode()
    ours = {name for name in names if ".dist-info/" not in name}
    moved = {f"hpcpools/{name}" for name in sources("sbatch_templates") | sources("docs", ".md")}
    assert ours == sources("hpcpools") | moved
    assert {
        "hpcpools/py.typed",
        "hpcpools/monitoring/alerts.yml",
        "hpcpools/deploy/templates/crontab",
    } <= ours
    assert f"hpcpools-{__version__}.dist-info/licenses/LICENSE" in names
    assert "License-Expression: Apache-2.0" in metadata and "Requires-Python: >=3.10" in metadata


def test_the_sdist_holds_what_builds_and_tests_it(built: Path) -> None:
    """Everything a packager needs, and no caches."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    needed = {
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "mkdocs.yml",
    }
    assert needed | sources("hpcpools") | sources("sbatch_templates") | sources("docs") <= names
    assert {"tests/conftest.py", "tests/release/test_package.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


class Installed:
    """A project of a user who installed the wheel: ``run()`` is their `hpcpools`."""

    def __init__(self, venv: Path, folder: Path, env: dict[str, str]) -> None:
        self.python = venv / "bin" / "python"
        self.folder = folder
        self._program = venv / "bin" / "hpcpools"
        self._env = env

    def run(self, *words: str, timeout: float = 120) -> str:
        """Its stdout; a failure shows everything."""
        return self.call(str(self._program), *words, timeout=timeout)

    def call(self, *argv: str, timeout: float = 120) -> str:
        """The stdout of any program in the project's folder."""
        done = subprocess.run(
            argv, cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def installed(built: Path, tmp_path: Path) -> Iterator[Installed]:
    """A new environment with the wheel; the dependencies are those of this one, hpcpools is not."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    # The .pth files of a folder that a .pth names are not read, so not the one that leads to this tree.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "-q", "--no-deps",
         "--no-index", "--no-compile", next(built.glob("*.whl"))],
        check=True,
    )  # fmt: skip
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sh", "env", "redis-server"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    with state_home() as state:
        env = {"PATH": str(programs), "HOME": str(tmp_path), "XDG_STATE_HOME": state}
        folder = tmp_path / "project"
        folder.mkdir()
        (folder / "usertasks.py").write_text(TASKS)
        project = Installed(venv, folder, env)
        try:
            yield project
        finally:
            if (folder / "hpcpools.toml").exists():
                project.run("down")


def test_the_wheel_runs_a_project(installed: Installed) -> None:
    """A new user's first minutes, on a machine without Slurm, with nothing of this tree on the path."""
    place = installed.call(str(installed.python), "-c", "import hpcpools; print(hpcpools.__file__)")
    assert place.startswith(str(installed.python.parent.parent))
    assert installed.run("--version") == f"hpcpools, version {__version__}\n"
    installed.run("init", "--module", "usertasks")
    names = {row["task"] for row in json.loads(installed.run("tasks", "--json"))}
    assert {"usertasks:evaluate", "usertasks:learn"} <= names
    installed.run("up", "redis", "short")
    assert json.loads(installed.run("enqueue", "usertasks:evaluate", "ckpt=x", "--wait")) == {"ckpt": "x"}
    assert installed.run("train", "usertasks:learn", "steps=2", "--wait").endswith("  COMPLETED\n")
    assert "training" in installed.run("template", "list")
    assert "Training that survives" in installed.run("help", "training")
    assert "groups:" in installed.run("exporter", "--print", "alerts")
    assert "redis" in installed.run("down")
