"""Which files belong to a snapshot, what its digest covers, what is mapped into it, what is hidden."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from msgspec.structs import replace

from hpcpools.config import Config, parse
from hpcpools.errors import RefusedError
from hpcpools.gpu import driver
from hpcpools.runs import code, directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.token import new_token
from hpcpools.training import environment, git, imports, snapshot, tree
from hpcpools.training.reproduce import request_again
from hpcpools.training.snapshot import Survey


def git_in(folder: Path, *words: str) -> None:
    """One git command with nobody's configuration."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", *who, "-C", str(folder), *words], env=env, check=True, capture_output=True)


def write(folder: Path, *names: str, text: str = "") -> Path:
    """Files with the same text."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def repository(folder: Path, *names: str, ignored: str = "") -> Path:
    """A committed repository."""
    write(folder, *names)
    (folder / ".gitignore").write_text(ignored)
    git_in(folder, "init", "-q")
    git_in(folder, "add", ".")
    git_in(folder, "commit", "-q", "-m", "first")
    return folder


def configured(folder: Path, **snapshot_section: object) -> Config:
    """A configuration in ``folder``."""
    data = {"project": {"modules": ["train"]}, "snapshot": snapshot_section}
    return parse(data, folder / "hpcpools.toml", {})


def command(folder: Path, *words: str) -> Request:
    """A request that runs a command in ``folder``."""
    return Request(new_token(1.0), 1.0, "local", Resources(), command=words, workdir=str(folder))


def surveyed(folder: Path, request: Request, wanted: bool | None = None) -> Survey:
    """The survey of a tree that has a snapshot."""
    found = snapshot.survey(configured(folder), request, wanted)
    assert found is not None
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a script and a package."""
    names = ("train.py", "pkg/__init__.py", "pkg/main.py")
    return repository(tmp_path / "project", *names, ignored="*.bin\n_version.py\nold/\n")


@pytest.fixture
def _same_process() -> Iterator[None]:
    """Import path and environment as they were."""
    path, variables = list(sys.path), dict(os.environ)
    yield
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(variables)


def test_files_of_a_work_tree(project: Path) -> None:
    """Tracked as they are now, new ones, generated modules of a package; no data, caches, environments."""
    write(project, "pkg/_version.py", "pkg/__pycache__/x", "venv/pyvenv.cfg", "venv/lib.py", ".venv/x.py")
    write(project, "new.py", "old/gone.py", "runs/something.py", "data.bin")
    (project / "train.py").unlink()
    found = tree.find(configured(project), project, modules=True, everything=False)
    assert found is not None
    assert found.files == (".gitignore", "new.py", "pkg/__init__.py", "pkg/_version.py", "pkg/main.py")
    assert found.untracked is True


def test_repositories_inside_are_followed(project: Path, tmp_path: Path) -> None:
    """A submodule and a clone that nobody tracks are code like the rest."""
    other = repository(tmp_path / "other", "lib.py", ignored="*.bin\n")
    git_in(project, "submodule", "add", "-q", str(other), "sub")
    git_in(project, "clone", "-q", str(other), "clone")
    (project / "clone/data.bin").write_text("")
    tracked, untracked = git.files(project)
    assert {"sub/lib.py", "clone/lib.py"} <= tracked | untracked
    assert "clone/data.bin" not in tracked | untracked


def test_a_folder_that_git_ignores_is_no_work_tree(project: Path) -> None:
    """A project in a folder that an outer repository ignores is not that repository's."""
    (project / "old").mkdir()
    assert git.work_tree(project / "old") is None
    assert git.work_tree(project / "pkg") is not None


def test_without_git_on_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No git, no work tree; nothing is raised."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert git.work_tree(project) is None


def test_links_stay_inside_or_are_left_out(project: Path) -> None:
    """An absolute link into the project becomes relative; one out of it, or through one, is not taken."""
    (project / "pkg/near.py").symlink_to(project / "train.py")
    (project / "far").symlink_to("/etc/passwd")
    (project / "back").symlink_to("../project/../../etc")
    (project / "hop").symlink_to("far")
    found = tree.find(configured(project), project, modules=True, everything=False)
    assert found is not None
    assert tree.link(project, "pkg/near.py") == "../train.py"
    assert not {"far", "back", "hop"} & set(found.files)
    assert len(found.notes) == 3


def test_the_cap_names_the_largest(project: Path) -> None:
    """Refused before anything is hashed or written."""
    (project / "weights.dat").write_bytes(b"\0" * (2 << 20))
    with pytest.raises(RefusedError, match=r"weights\.dat \(2\.0 MiB\)"):
        tree.find(configured(project, max_mb=1), project, modules=True, everything=False)
    assert snapshot.survey(configured(project, enabled=False), command(project, "x"), None) is None


def test_the_digest_covers_names_modes_and_bytes(tmp_path: Path) -> None:
    """Any of them changed is another snapshot; times and compiled caches are not."""
    seen = set()
    folder = write(tmp_path / "a", "one.py", "two.py")
    for change in (
        lambda: None,
        lambda: write(folder, "two.py", text="3"),
        lambda: (folder / "two.py").chmod(0o755),
        lambda: (folder / "two.py").rename(folder / "three.py"),
        lambda: (folder / "link").symlink_to("one.py"),
    ):
        change()
        seen.add(code.digest(code.scan(folder)))
    assert len(seen) == 5
    os.utime(folder / "one.py", (1, 1))
    write(folder, "__pycache__/one.pyc")
    assert code.digest(code.scan(folder)) in seen


def test_a_snapshot_is_stored_once_and_heals(project: Path) -> None:
    """Two submissions, one directory; a damaged one is set aside, not overwritten."""
    request = command(project, "python3", "train.py")
    config = configured(project)
    first, second = snapshot.freeze(config, [request, request])
    snapshot.freeze(config, [request])
    assert first.code is not None
    assert first.code == second.code
    place = code.folder(config.root, first.code.digest)
    assert [path.name for path in code.store(config.root).iterdir()] == [place.name]
    assert place.stat().st_mode & 0o777 == 0o500
    (place / "train.py").chmod(0o600)
    (place / "train.py").write_text("changed")
    assert not code.intact(config.root, first.code.digest)
    snapshot.freeze(config, [request])
    assert code.intact(config.root, first.code.digest)
    assert len(list(code.store(config.root).iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "frozen"),
    [
        (("python3", "train.py", "--data", "x"), ("python3", "CODE/train.py", "--data", "x")),
        (("torchrun", "--nproc", "2", "train.py"), ("torchrun", "--nproc", "2", "CODE/train.py")),
        (("python3", "-u", "-m", "pkg.main", "a"), ("python3", "-u", "BOOT", "CODE", "pkg.main", "a")),
        (("python3", "-m", "pytest", "train.py"), ("python3", "-m", "pytest", "CODE/train.py")),
        (("python3", "elsewhere.py"), None),
        (("bash", "train.sh", "train.py"), None),
        (("nice", "python3", "-m", "pkg.main"), ("nice", "python3", "BOOT", "CODE", "pkg.main")),
        (("./train.py", "x.py"), ("CODE/train.py", "x.py")),
        (("python3", "-c", "1"), None),
    ],
)
def test_commands(project: Path, words: tuple[str, ...], frozen: tuple[str, ...] | None) -> None:
    """The Python file or module that a command starts is the snapshot's; another command stays as it is."""
    found = snapshot.survey(configured(project), request := command(project, *words), None)
    if frozen is None:
        assert found is None
        return
    used = snapshot.use(request, found)
    assert used.code is not None
    assert used.workdir == str(project)
    shown = {str(code.folder(configured(project).root, used.code.digest)): "CODE"}
    shown[str(Path(snapshot.__file__).with_name("asmodule.py"))] = "BOOT"
    told = []
    for word in used.command:
        for long, short in shown.items():
            word = word.replace(long, short)
        told.append(word)
    assert tuple(told) == frozen


def test_a_shell_command_on_demand(project: Path) -> None:
    """`--snapshot` runs it in the snapshot's folder: there is no other way to hold its files."""
    request = command(project / "pkg", str(project / "train.py"))
    request = replace(request, command=(str(project / ".gitignore"),))
    used = snapshot.use(request, surveyed(project / "pkg", request, wanted=True))
    assert used.code is not None
    place = code.folder(configured(project / "pkg").root, used.code.digest)
    assert (used.workdir, used.command) == (str(place / "pkg"), (str(place / ".gitignore"),))


@pytest.mark.usefixtures("_same_process")
def test_import_folders_get_their_twin(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH and editable installs: the snapshot first, in place; nothing hides a module of Python."""
    write(project, "src/lib.py", "flat/random.py", "lib/inner/part.py")
    finder = ModuleType("__editable___lib_finder")
    finder.MAPPING = {"inner": str(project / "lib/inner")}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    config = configured(project)
    (request,) = snapshot.freeze(config, [command(project, "python3", "train.py")])
    assert request.code is not None
    place = code.folder(config.root, request.code.digest)
    os.environ["PYTHONPATH"] = f"{project}/src:/elsewhere"
    sys.path[:] = [str(project / "src"), "/stdlib", str(project / "flat"), str(project / "pkg")]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, "/started/here")
    imports.publish(RunDirectory(config.root, request.token), request)
    told = os.environ["PYTHONPATH"].split(":")
    assert told == [f"{place}/src", f"{project}/src", "/elsewhere", f"{place}/pkg", f"{place}/lib"]
    inside = [path for path in sys.path if path.startswith((str(place), "/stdlib"))]
    assert inside[:3] == [f"{place}/src", "/stdlib", f"{place}/flat"]
    assert os.environ["HPCPOOLS_CODE"] == str(place)


def test_a_run_is_reproduced_where_the_runs_have_moved(project: Path) -> None:
    """The snapshot is found in the root of now; what belongs to one run alone is new."""
    config = configured(write(project, "hpcpools.toml"))
    (request,) = snapshot.freeze(config, [command(project, "python3", "train.py")])
    assert request.code is not None
    old = directory.create(config.root, request)
    environment.record([old], environment.gather(config, str(project)))
    config.root.rename(project / "moved")
    there = parse({"project": {"root": "moved"}}, project / "hpcpools.toml", {})
    again, told = request_again(there, RunDirectory(there.root, request.token))
    place = code.folder(there.root, request.code.digest)
    assert again.command == ("python3", f"{place}/train.py")
    assert (again.reproduces, again.workdir) == (request.token, str(project))
    assert again.token != request.token
    assert told == []


def test_a_module_runs_as_if_started_in_the_snapshot(tmp_path: Path) -> None:
    """``asmodule``: its folder first, then the working directory; the rest of the command line is its own."""
    frozen, live = tmp_path / "frozen", tmp_path / "live"
    write(frozen, "pkg/__init__.py")
    write(frozen, "pkg/main.py", text="import sys, only; print(sys.argv[1:], only.X)")
    write(live, "pkg/__init__.py", "pkg/main.py", text="print('live')")
    write(live, "only.py", text="X = 1")
    argv = [sys.executable, str(Path(snapshot.__file__).with_name("asmodule.py"))]
    done = subprocess.run(
        [*argv, str(frozen), "pkg.main", "-m", "x"],
        cwd=live,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['-m', 'x'] 1\n"


def test_a_file_beside_the_code_is_explained(project: Path) -> None:
    """What git ignores is not in the snapshot: the log says where to look instead."""
    config = configured(project)
    (request,) = snapshot.freeze(config, [command(project, "python3", "train.py")])
    assert request.code is not None
    missing = code.folder(config.root, request.code.digest) / "data.bin"
    told = imports.hint(config.root, request, FileNotFoundError(2, "no", str(missing)))
    assert str(project) in told
    assert imports.hint(config.root, request, FileNotFoundError(2, "no", "/elsewhere")) == ""
    assert imports.hint(config.root, request, ValueError()) == ""


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://u:p@host/x.git?t=1", "https://host/[hidden]"),
        ("rediss://:pw@host:1/0", "rediss://host:1/0"),
        ("export A_TOKEN='x y' B=1", "export A_TOKEN=[hidden] B=1"),
        ({"webhook": "x"}, {"webhook": "[hidden]"}),
        (["https://h.example.org/T/B"], ["https://h.example.org/[hidden]"]),
        ({"keep_env": ["WANDB_API_KEY"]}, {"keep_env": ["WANDB_API_KEY"]}),
        ({"password_file": "f", "password": "x"}, {"password_file": "f", "password": "[hidden]"}),
    ],
)
def test_secrets_are_hidden(given: object, kept: object) -> None:
    """By name and by shape; what only names a secret stays."""
    assert environment.without_secrets(given) == kept


def test_remotes_lose_their_credentials() -> None:
    """User, password and query go, the rest stays."""
    assert git.without_credentials("https://u:p@host/me/x.git?token=1") == "https://host/me/x.git"
    assert git.without_credentials("git@host:me/x.git") == "git@host:me/x.git"


def test_differences() -> None:
    """Only what is not as it was, one line each."""
    then = {"python": "3.10.1", "host": "a", "packages": {"x": "1", "y": "1"}, "config": {"sha256": "1"}}
    now = {"python": "3.11.2", "host": "a", "packages": {"x": "2", "z": "1"}, "config": {"sha256": "1"}}
    assert list(environment.differences(then, now)) == [
        "python: 3.10.1 then, 3.11.2 now",
        "packages changed: x 1 → 2",
        "packages gone: y 1",
        "packages new: z 1",
    ]


def test_the_driver_s_version(tmp_path: Path) -> None:
    """Both forms of the kernel module's line; nothing where there is none."""
    file = tmp_path / "version"
    assert driver.version(file) == ""
    for line in (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 02:02:11 UTC 2025",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (root@h)",
    ):
        file.write_text(line)
        assert driver.version(file) == "570.124.06"
