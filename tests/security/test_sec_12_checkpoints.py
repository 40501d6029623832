"""SEC-12: a checkpoint is data: looking at one, choosing one and loading one runs nothing of it."""

from __future__ import annotations

import ast
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcpools.errors import HpcpoolsError, RefusedError
from hpcpools.runs import attempts, checkpoints, directory
from hpcpools.runs.attempts import Place
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import RunState
from hpcpools.runs.token import new_token
from hpcpools.training import torchstate
from tests.project import Project
from tests.security.inside import Inside

PACKAGE = Path(__file__).parents[2] / "hpcpools"


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self._marker).touch, ()


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What a checkpoint that was run leaves behind; shown to work."""
    path = tmp_path / "marker"
    pickle.loads(pickle.dumps(Evil(path)))  # noqa: S301 - our own
    assert path.exists()
    path.unlink()
    return path


def poisoned(root: Path, marker: Path) -> RunDirectory:
    """A run with three whole checkpoints: a bare pickle, torch's own format, a distributed one."""
    import torch

    now = time.time()
    run = directory.create(root, Request(new_token(now), now, "local", Resources(), command=("true",)))
    run.next_submission(now)
    attempt = attempts.claim(run, 0, Place("local", "7", 0, "here", 1, 1, "boot"), now)
    assert attempt is not None
    bare = pickle.dumps(Evil(marker))
    for step in (1, 2, 3):
        with checkpoints.writing(run.checkpoints, step, now, {"loss": 1.0}) as folder:
            if step == 1:
                (folder / "state.pt").write_bytes(bare)
            elif step == 2:
                torch.save({"format": 1, "parts": Evil(marker), "random": []}, folder / "state.pt")
            else:
                (folder / ".metadata").write_bytes(bare)
                (folder / "__0_0.distcp").write_bytes(bare)
                (folder / "extra.json").write_bytes(bare)
    attempts.end(attempt, "completed", now)
    run.record(RunState.COMPLETED, now)
    return run


def test_sec_12_nothing_in_a_checkpoint_is_run(laptop: Project, inside: Inside, marker: Path) -> None:
    """List, verify, show, doctor, resume-pick, export, prune, load: none makes the marker."""
    run = poisoned(laptop.root, marker)
    out = laptop.folder / "out"
    for words in (
        ["checkpoints", run.token], ["checkpoints", run.token, "--verify"], ["show", run.token], ["doctor"],
        ["explain", run.token], ["runs"], ["export", run.token, str(out)], ["pin", run.token, "1"],
        ["cleanup", "--dry-run"], ["cleanup"], ["gc", "--dry-run"],
    ):  # fmt: skip
        told = inside.told(*words)
        assert told.code != 70, (words, told.text)
        assert not marker.exists(), words
    newest = checkpoints.newest_valid(run.checkpoints)
    assert newest is not None and newest.step == 3
    for step, error in ((1, RefusedError), (2, RefusedError), (3, HpcpoolsError)):
        folder = checkpoints.at_step(run.checkpoints, step)
        if folder.exists():
            with pytest.raises(error):
                torchstate.load(folder, {})
    assert not marker.exists()
    assert (out / ".metadata").exists()


@pytest.mark.parametrize("version", ["2.5.1", "2.9.1+cu128", "1.13.0"])
def test_sec_12_an_old_torch_is_refused(version: str) -> None:
    """Before 2.10 ``weights_only`` can be fooled."""
    with pytest.raises(HpcpoolsError, match=r"2\.10"):
        torchstate.check_version(version)
    torchstate.check_version("2.10.0")


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Calls and imports that would run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (
                n for n in names if n.split(".")[0] in ("pickle", "cloudpickle", "dill", "marshal", "shelve")
            )
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name == "torch.load" and given.get("weights_only") != "True":
                yield name
            if given.get("weights_only") == "False" or given.get("allow_pickle") == "True":
                yield name
            if name in ("eval", "exec") or name.endswith((".Unpickler", "joblib.load", "checkpoint.load")):
                yield name


def test_sec_12_the_gate() -> None:
    """No module of ours unpickles, in whatever words."""
    found = {
        path.relative_to(PACKAGE).as_posix(): bad
        for path in PACKAGE.rglob("*.py")
        if (bad := list(unsafe(ast.parse(path.read_text()))))
    }
    assert found == {}
    assert list(unsafe(ast.parse("import pickle; torch.load(x); np.load(x, allow_pickle=True)"))) == [
        "pickle", "torch.load", "np.load",
    ]  # fmt: skip
