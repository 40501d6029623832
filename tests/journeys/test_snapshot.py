"""What runs is what was there at submission: snapshots of code, and repeating a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import Project

MODEL = """
from hpcpools import training

@training(time="5m", launcher="single")
def answer(run):
    import os, part
    return [VERSION, part.VERSION, os.getcwd()]

VERSION = "old"
"""


def git(folder: Path, *words: str) -> str:
    """One git command in a folder, with nobody's configuration."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    argv = ["git", *who, "-C", str(folder), *words]
    return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout.strip()


def edit(project: Project, to: str = "new") -> None:
    """What a user does while the run waits."""
    for path in project.folder.glob("*.py"):
        path.write_text(path.read_text().replace('"old"', f'"{to}"'))


def write_model(project: Project) -> None:
    """A training and a module beside it that is not declared."""
    (project.folder / "model.py").write_text(MODEL)
    (project.folder / "part.py").write_text('VERSION = "old"\n')
    text = (project.folder / "hpcpools.toml").read_text()
    (project.folder / "hpcpools.toml").write_text(text.replace('["usertasks"]', '["usertasks", "model"]'))


def commit(project: Project) -> str:
    """The project as a git repository; its commit."""
    (project.folder / ".gitignore").write_text("runs/\nignored*\n")
    git(project.folder, "init", "-q")
    git(project.folder, "add", ".")
    git(project.folder, "commit", "-q", "-m", "first")
    return git(project.folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(laptop: Project) -> Project:
    """A committed project on a laptop, with a remote whose URL holds a password."""
    write_model(laptop)
    commit(laptop)
    git(laptop.folder, "remote", "add", "origin", "https://me:xyzzy-canary@example.org/me/work.git")
    return laptop


def occupied(project: Project) -> Path:
    """The slot is taken until this file is there."""
    go = project.folder / "ignored-go"
    project.until_state(project.train("usertasks:hold", f"until={go}"), "RUNNING")
    return go


def test_edits_after_submit_do_not_change_what_runs(repository: Project) -> None:
    """The waiting runs keep the code of their submission; `--no-snapshot` runs the edited files."""
    script = repository.folder / "script.py"
    script.write_text('import part\nprint("old", part.VERSION, open("ignored.txt").read())\n')
    (repository.folder / "ignored.txt").write_text("data")
    go = occupied(repository)
    frozen = repository.train("model:answer")
    live = repository.train("model:answer", "--no-snapshot")
    command = repository.train("--time", "5m", "--", sys.executable, "script.py")
    module = repository.train("--time", "5m", "--", sys.executable, "-u", "-m", "script")
    elastic = repository.train("model:answer", "--launcher", "elastic")
    edit(repository)
    go.write_text("")
    repository.cli("wait", frozen, live, command, module, elastic)
    here = str(repository.folder)
    assert repository.json("result", frozen) == ["old", "old", here]
    assert repository.json("result", live) == ["new", "new", here]
    assert repository.json("result", elastic) == ["old", "old", here]
    assert "old old data" in repository.cli("logs", command).stdout
    assert "old old data" in repository.cli("logs", module).stdout
    assert "live files, no snapshot" in repository.cli("show", live).stdout
    assert repository.json("show", live)["code"] is None


def test_the_snapshot_and_the_environment_are_recorded(repository: Project) -> None:
    """Untracked files are in, ignored ones and links out of the project are not; no secret is kept."""
    (repository.folder / "usertasks.py").write_text((repository.folder / "usertasks.py").read_text() + "\n")
    (repository.folder / "fresh.py").write_text("")
    (repository.folder / "ignored.bin").write_text("x")
    (repository.folder / "inside").symlink_to("part.py")
    (repository.folder / "outside").symlink_to("/etc/passwd")
    repository.configure('[training]\nsetup = ["export WANDB_API_KEY=xyzzy-canary"]\n')
    write_model(repository)
    done = repository.cli("train", "model:answer")
    token = done.stdout.strip()
    assert "outside is a link out of" in done.stderr
    repository.cli("wait", token)
    code = repository.json("show", token)["code"]
    place = Path(code["path"])
    names = {str(path.relative_to(place)) for path in place.rglob("*") if "__pycache__" not in path.parts}
    assert names == {
        ".gitignore", "fresh.py", "hpcpools.toml", "inside", "model.py", "part.py", "usertasks.py"
    }  # fmt: skip
    assert (place / "inside").readlink() == Path("part.py")
    assert {path.stat().st_mode & 0o777 for path in place.glob("*.py")} == {0o400}
    commit = git(repository.folder, "rev-parse", "HEAD")
    assert (code["commit"], code["branch"], code["dirty"]) == (commit, "main", True)
    assert f"commit {commit[:12]}+changes (main), snapshot of 7 files" in repository.cli("show", token).stdout
    assert list(place.parent.glob("*.patch"))
    facts = json.loads((repository.root / token / "environment.json").read_text())
    assert facts["git"]["remote"] == "https://example.org/me/work.git"
    assert facts["packages"]["click"]
    assert facts["config"]["values"]["training"]["setup"] == ["export WANDB_API_KEY=[hidden]"]
    assert "xyzzy-canary" not in json.dumps(facts)
    node = json.loads((repository.root / token / "attempts" / "0.0" / "environment.json").read_text())
    assert node["cpus"] == os.cpu_count()


def test_a_changed_snapshot_is_refused(repository: Project) -> None:
    """One byte, or one more module, and the run fails before any of it runs; it is no run to retry."""
    go = occupied(repository)
    first = repository.train("model:answer")
    place = Path(repository.json("show", first)["code"]["path"])
    place.chmod(0o700)
    (place / "json.py").write_text("")
    go.write_text("")
    assert repository.cli("wait", first, check=False).returncode == 5
    shown = repository.json("show", first)
    assert (shown["state"], shown["cause"], shown["exit_code"]) == ("FAILED", "user error", 77)
    assert "code snapshot was changed" in shown["reason"]
    assert repository.cli("reproduce", first, check=False).returncode == 3
    again = repository.train("model:answer")  # the damaged one is set aside, a whole one takes its place
    repository.cli("wait", again)
    assert Path(repository.json("show", again)["code"]["path"]) == place


def test_a_run_is_reproduced_after_the_project_changed(repository: Project) -> None:
    """Same arguments, same code, same result, as a new run that names the old one."""
    first = repository.train("model:answer", "--label", "mine")
    repository.cli("wait", first)
    edit(repository)
    assert "would submit model:answer" in repository.cli("reproduce", first, "--dry-run").stdout
    done = repository.json("reproduce", first)
    assert (done["reproduces"], done["differences"]) == (first, [])
    repository.cli("wait", done["run"])
    assert repository.json("result", done["run"]) == repository.json("result", first)
    old, new = (repository.json("show", token) for token in (first, done["run"]))
    assert new["reproduces"] == first
    assert (new["code"], new["label"]) == (old["code"], "mine")
    assert len(list((repository.root / ".code").glob("[0-9a-f]*"))) == 1
    facts = repository.root / first / "environment.json"
    facts.write_text(facts.read_text().replace(f'"python":"{sys.version.split()[0]}"', '"python":"2.7"'))
    told = repository.cli("reproduce", first, "--dry-run").stderr
    assert f"differs: python: 2.7 then, {sys.version.split()[0]} now" in told


def test_too_much_code_is_refused(repository: Project) -> None:
    """Over the cap: nothing is submitted, the largest file is named, and so is the way out."""
    repository.configure("[snapshot]\nmax_mb = 1\n")
    (repository.folder / "weights.bin").write_bytes(b"\0" * 2**21)
    done = repository.cli("train", "usertasks:learn", check=False)
    assert done.returncode == 4
    assert "weights.bin (2.0 MiB)" in done.stderr
    assert "--no-snapshot" in done.stderr
    assert repository.json("runs")["runs"] == []
    token = repository.train("usertasks:learn", "--no-snapshot")
    repository.cli("wait", token)


def test_without_git_the_declared_modules_are_kept(laptop: Project) -> None:
    """Their files and the modules beside them; a command runs the live files unless asked."""
    write_model(laptop)
    (laptop.folder / "script.py").write_text('print("old")\n')
    (laptop.folder / "data.txt").write_text("x")
    go = occupied(laptop)
    frozen = laptop.train("model:answer")
    command = laptop.train("--time", "5m", "--", sys.executable, "script.py")
    asked = laptop.train("--snapshot", "--time", "5m", "--", sys.executable, "script.py")
    shell = laptop.train("--snapshot", "--time", "5m", "--", "cat", "script.py")
    edit(laptop)
    go.write_text("")
    laptop.cli("wait", frozen, command, asked, shell)
    assert laptop.json("result", frozen)[:2] == ["old", "old"]
    assert "new" in laptop.cli("logs", command).stdout
    assert "old" in laptop.cli("logs", asked).stdout
    assert "old" in laptop.cli("logs", shell).stdout
    kept = Path(laptop.json("show", frozen)["code"]["path"])
    assert {path.name for path in kept.glob("*.*")} == {"model.py", "part.py", "script.py", "usertasks.py"}
    assert (Path(laptop.json("show", shell)["code"]["path"]) / "data.txt").is_file()


def test_a_snapshot_on_the_cluster(site: Project, tmp_path: Path) -> None:
    """The node runs the code of the submission, and says what machine it is."""
    write_model(site)
    sha = commit(site)
    busy = [site.train("usertasks:hold", f"until={tmp_path / 'go'}") for _ in range(2)]
    token = site.train("model:answer")
    edit(site)
    (tmp_path / "go").write_text("")
    site.cli("wait", *busy, token)
    assert site.json("result", token) == ["old", "old", str(site.folder)]
    shown = site.json("show", token)
    assert (shown["code"]["commit"], shown["code"]["dirty"]) == (sha, False)
    node = json.loads((site.root / token / "attempts" / "0.0" / "environment.json").read_text())
    assert node["kernel"] == os.uname().release
    again = site.json("reproduce", token)["run"]
    site.cli("wait", again)
    assert site.json("result", again) == site.json("result", token)
