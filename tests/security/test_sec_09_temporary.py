"""SEC-9: nothing of ours in a shared place has a name that somebody else can take first."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hpcpools.runs.directory import tokens
from hpcpools.training import nodeenv
from tests.project import Project
from tests.security.inside import Inside

CREATES = (
    "?open,?openat,?openat2,?creat,?mkdir,?mkdirat,?mknod,?mknodat,?symlink,?symlinkat,?link,?linkat,"
    "?rename,?renameat,?renameat2,?bind"
)
IN_TMP = re.compile(r'"/(?:var/tmp|dev/shm|tmp)/([^"/]+)')

# (what it is, the command that makes it); {} is the planted name.
FIXED = [
    ("hpcpools.toml", ["init"]),
    ("hpcpools.toml", ["init", "--force"]),
    ("runs", ["train", "usertasks:see"]),
    ("rt", ["up"]),
    ("bundle.tgz", ["doctor", "--bundle", "{}"]),
    ("acl", ["redis-acl", "{}"]),
    ("metrics.prom", ["exporter", "--textfile", "{}"]),
    ("unit.service", ["deploy", "systemd", "--output", "{}"]),
]


@pytest.mark.parametrize("kind", ["folder", "file", "nothing"])
def test_sec_9_a_planted_symlink_leads_nowhere(
    laptop: Project, inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """In place of each fixed name: what the link points to is as it was, and no error is a bug."""
    laptop.configure('[services]\nruntime_dir = "rt"\n')
    monkeypatch.chdir(laptop.folder)
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir(mode=0o700)
    elif kind == "file":
        target.write_text("precious")
    for name, words in FIXED:
        planted = laptop.folder / name
        planted.unlink(missing_ok=True)
        planted.symlink_to(target)
        told = inside.told(*(word.replace("{}", str(planted)) for word in words))
        assert "this is a bug" not in told.text, words
        if kind == "folder":
            assert list(target.iterdir()) == [], words
        elif kind == "file":
            assert target.read_text() == "precious", words
        else:
            assert not target.exists(), words
        assert told.code != 0 or not planted.is_symlink() or words[0] == "doctor", words
        planted.unlink()
        laptop.configure('[services]\nruntime_dir = "rt"\n')


def test_sec_9_no_fixed_name_in_tmp(laptop: Project, tmp_path: Path) -> None:
    """Two whole rounds under strace: no name in /tmp, /var/tmp or /dev/shm comes twice. The job's TMPDIR and
    compiler caches: 0700, of a name that nobody can guess, gone with the job."""
    if not shutil.which("strace"):
        pytest.skip("strace is not on this machine")
    laptop.env["TRITON_CACHE_DIR"] = "/home/of/mine"
    laptop.env.pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch, imported by an earlier test, sets it
    rounds = [made_in_tmp(laptop, tmp_path / f"trace-{number}") for number in range(2)]
    assert rounds[0] & rounds[1] == set()
    assert rounds[0] - {name for name in rounds[0] if re.search(r"[A-Za-z0-9_]{8}$", name)} == set()
    for token, made in zip(tokens(laptop.root), reversed(rounds), strict=True):
        (log,) = (laptop.root / token / "attempts").glob("*/log.out")
        folder, mode, triton, inductor, temporary = log.read_text().split()
        assert re.fullmatch(r"hpcpools-[a-z0-9_]{8}", Path(folder).name)
        assert Path(folder).name in made
        assert mode == "0o700"
        assert triton == "/home/of/mine"  # the user's own choice
        assert inductor.startswith(f"{folder}/")
        assert temporary == folder
        assert not Path(folder).exists()


SHOW = "import os, tempfile; e = os.environ; print(e['TMPDIR'], oct(os.stat(e['TMPDIR']).st_mode & 0o777), "
SHOW += "e['TRITON_CACHE_DIR'], e['TORCHINDUCTOR_CACHE_DIR'], tempfile.gettempdir())"


def made_in_tmp(project: Project, trace: Path) -> set[str]:
    """The names right in a shared folder that a round of services, short task and training created."""
    train = f'train --wait --gpus 0 --launcher single -- "$0" -c {shlex.quote(SHOW)}'
    words = ("up", "enqueue usertasks:evaluate --wait", train, "down")
    script = "set -e; " + "; ".join(f'"$0" -m hpcpools {each}' for each in words)
    known = {path.parts[2] for path in (project.folder, Path(project.env["XDG_STATE_HOME"]))}
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "200", "-e", f"trace={CREATES}", "-o", str(trace)]
    done = subprocess.run(
        [shutil.which(strace[0]) or "", *strace[1:], "bash", "-c", script, sys.executable],
        cwd=project.folder,
        env=project.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in trace.read_text(errors="replace").splitlines() if " = -1 " not in line]
    made = [line for line in lines if "open" not in line.partition("(")[0] or "O_CREAT" in line]
    found = {name for line in made for name in IN_TMP.findall(line)} - known
    assert len(lines) > 1000
    return found


def test_sec_9_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs after the job in the same process finds the old folder; files inside are removed."""
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with nodeenv.private_temp():
        inside = Path(os.environ["TMPDIR"])
        assert Path(tempfile.mkstemp()[1]).parent == inside
        assert stat.S_IMODE(inside.stat().st_mode) == 0o700
        assert os.environ["TRITON_CACHE_DIR"] == f"{inside}/triton"
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == "/tmp"
    assert "TRITON_CACHE_DIR" not in os.environ
    assert not inside.exists()
