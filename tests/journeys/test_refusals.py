"""Bad input: one clear line, a documented exit code, and nothing left behind."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster
from tests.project import Project


def nothing_left(project: Project) -> bool:
    """No run directory, no live mark."""
    return not list(project.root.glob("hp-*")) and not list(project.root.glob(".live/*"))


def refused(project: Project, code: int, *words: str) -> str:
    """Run a command that must fail with ``code`` and one clear line; what it said."""
    done = project.cli(*words, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("hpcpools: ") or done.stderr.startswith("Usage:"), done.stderr
    return done.stderr


def test_slurm_refuses_and_nothing_stays(site: Project, cluster: Cluster) -> None:
    """A partition that does not exist, a node feature that no node has."""
    assert "nosuch" in refused(site, 4, "train", "usertasks:see", "--partition", "nosuch", "--gpus", "1")
    assert "feature" in refused(site, 4, "train", "usertasks:see", "--constraint", "nosuch")
    assert nothing_left(site)
    assert cluster.jobs() == {}


def test_what_can_be_known_before_sbatch_is_refused_before_it(site: Project) -> None:
    """More GPUs than a node has, more time than allowed, a partition not described, header injection."""
    assert "limit" in refused(site, 2, "train", "usertasks:see", "--time", "9-00:00:00")
    assert "has 4" in refused(site, 2, "train", "usertasks:see", "--gpus", "8")
    assert "--gpus N" in refused(site, 2, "train", "usertasks:see", "--partition", "cpu")
    hostile = "gpu\n#SBATCH --time=60"
    assert "Slurm value" in refused(site, 2, "train", "usertasks:see", "--partition", hostile)
    assert nothing_left(site)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("train", "usertasks:nosuch"), 4, "no declared task"),
        (("train", "os:system", "command=true"), 4, "no declared task"),
        (("train", "usertasks:evaluate"), 4, "hpcpools enqueue"),
        (("train", "usertasks:learn", "rate=1"), 2, "signature"),
        (("train", "usertasks:learn", "lr"), 2, "NAME=VALUE"),
        (("train", "usertasks:learn", "--time", "soon"), 2, "not a length of time"),
        (("train", "--", "no-such-program-here"), 2, "no program"),
        (("train", "usertasks:learn", "--on", "slurm"), 69, "not on PATH"),
        (("enqueue", "usertasks:learn"), 4, "hpcpools train"),
        (("enqueue", "os:system", "command=true"), 4, "no declared task"),
        (("enqueue", "usertasks:evaluate", "ckpt=1", "x=2"), 2, "signature"),
        (("show", "hp-nosuch"), 3, "no run"),
        (("show", "../../etc/passwd"), 3, "no"),
        (("nosuch",), 2, "No such command"),
    ],
)
def test_a_laptop_refuses_clearly(laptop: Project, words: tuple[str, ...], code: int, said: str) -> None:
    """Each with its own exit code, and without starting anything that stays half-made."""
    laptop.env["HPCPOOLS_SERVICES__AUTOSTART"] = "true"
    text = refused(laptop, code, *words)
    assert said in text
    assert nothing_left(laptop)


def test_an_unserialisable_argument(laptop: Project) -> None:
    """From Python, where it can happen: named, and nothing is written."""
    import subprocess
    import sys

    code = "import hpcpools; hpcpools.train('usertasks:learn', lr=object())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=laptop.folder,
        env=laptop.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "argument lr=" in done.stderr
    assert nothing_left(laptop)


def test_an_unwritable_root(laptop: Project) -> None:
    """A root that is a file."""
    laptop.root.write_text("")
    assert "runs" in refused(laptop, 1, "train", "usertasks:learn")
    assert laptop.root.read_text() == ""


def test_a_bad_configuration(laptop: Project) -> None:
    """File, key, value, what is allowed; exit 78."""
    laptop.configure("[short]\nworkers = 0\n")
    text = refused(laptop, 78, "status")
    for part in ("hpcpools.toml", "short.workers", "0", ">= 1"):
        assert part in text
    laptop.configure("[short\n")
    assert "not valid TOML" in refused(laptop, 78, "status")


def test_debug_shows_the_traceback(laptop: Project) -> None:
    """Only with --debug."""
    done = laptop.cli("--debug", "show", "hp-nosuch", check=False)
    assert "Traceback" in done.stderr
