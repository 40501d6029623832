"""SEC-8: no name can end an ``#SBATCH`` line, a shell word or a log line."""

from __future__ import annotations

import os
import random
import re
import shlex
import time
from pathlib import Path

from hpcpools import textsafe
from hpcpools.config import Config, parse
from hpcpools.errors import HpcpoolsError
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.token import new_token
from hpcpools.slurm.command import Runner
from hpcpools.training.executors import NodeSlurmExecutor
from tests.cluster.cluster import Cluster
from tests.project import Project

FIELDS = ("partition", "account", "qos", "constraint")
# Ours first: each broke something somewhere.
KNOWN = [
    "gpu\n",
    "a\\'\"\n",
    "a\n#SBATCH --time=60",
    "$(touch {m})",
    "`touch {m}`",
    "a;touch {m}",
    "a' b",
    "-p",
]
ALPHABET = "ab1_-.:/=@,+*&|![]() \t\n\r\\'\"`$#;<>{}%~?\x0b\x1b\x00\x85\u2028\u202e\ud800é"


def names(count: int, marker: Path) -> list[str]:
    """Our own and random ones, most of them short enough to pass if their characters do."""
    source = random.Random(8)
    alphabet = ALPHABET + "abcdefgh" * 20
    found = [word.replace("{m}", str(marker)) for word in KNOWN]
    while len(found) < count:
        found.append("".join(source.choice(alphabet) for _ in range(source.choice((1, 2, 3, 5, 9, 40, 129)))))
    return found


def configured(field: str, value: str, tmp_path: Path) -> bool:
    """Whether the configuration takes ``value``, of a training and of the lane."""
    taken = []
    for section in ("training", "lane"):
        try:
            config: Config = parse({section: {field: value}}, tmp_path / "hpcpools.toml", {})
            assert getattr(getattr(config, section), field) == value
            taken.append(True)
        except HpcpoolsError:
            taken.append(False)
    assert taken[0] == taken[1]
    return taken[0]


def test_sec_8_ten_thousand_names(tmp_path: Path) -> None:
    """Refused, or the script is one line per option, with exactly the value that was asked for."""
    marker = tmp_path / "marker"
    executor = NodeSlurmExecutor(RunDirectory(tmp_path, new_token(time.time())), request(), Runner({}), {})
    passed = []
    for number, name in enumerate(names(10_000, marker)):
        field = FIELDS[number % 4]
        try:
            textsafe.slurm_field(field, name)
        except HpcpoolsError:
            assert not configured(field, name, tmp_path)
            continue
        assert configured(field, name, tmp_path)
        assert not re.search(r"[^!-~]|[\\'\"`$#;<>{}%~?]", name)
        passed.append((field, name))
    assert len(passed) > 1000
    plain = options(executor.script(0, "0" * 64))
    for field, name in passed[:: len(passed) // 300]:
        executor.update_parameters(**dict.fromkeys(FIELDS) | {field: name})
        assert options(executor.script(0, "0" * 64)) == plain | {f"--{field}={name}"}


def request(partition: str = "", account: str = "") -> Request:
    """A request for one small job."""
    return Request(
        token=new_token(time.time()),
        created=0.0,
        engine="slurm",
        resources=Resources(minutes=7, partition=partition, account=account),
        command=("true",),
    )


def options(script: str) -> set[str]:
    """The words that sbatch takes from the header; whatever it would take, quoted or not."""
    lines = [line for line in script.split("\n") if line.startswith("#SBATCH")]
    assert script.startswith("#!/bin/bash\n")
    found = [shlex.split(line.removeprefix("#SBATCH ")) for line in lines]
    assert all(len(words) == 1 for words in found)
    return {word for words in found for word in words if not word.startswith(("--error", "--output"))}


def test_sec_8_slurm_reads_what_was_asked(plain_cluster: Cluster, tmp_path: Path) -> None:
    """Names that passed, submitted: scontrol echoes them whole, and no option after them is lost.

    Without accounting, where Slurm takes any account.
    """
    cluster = plain_cluster
    marker = tmp_path / "marker"
    good = [name for name in names(4000, marker) if passes(name) and len(name) > 2]
    runner = Runner({**os.environ, **cluster.env})
    env = {"PATH": os.environ["PATH"], **cluster.env}
    with_brackets = [name for name in good if set(name) & set("&|*()[]!=+")][:12]
    cluster.run("scontrol", "update", f"partitionname={cluster.partition}", "state=down")
    try:
        for name in [*with_brackets, *good[:4]]:
            asked = request(partition=cluster.partition, account=name)
            run = RunDirectory(tmp_path, asked.token)
            run.submitit.mkdir(parents=True, mode=0o700)
            run.run_file.write_text("{}")
            for folder in (run.path, run.run_file):
                folder.chmod(0o700)
            job = NodeSlurmExecutor(run, asked, runner, env).send(0)
            shown = cluster.run("scontrol", "-o", "show", "job", job).stdout
            # Slurm keeps accounts in lower case.
            assert f" Account={name.lower()} " in shown
            assert f"JobName={asked.token} " in shown
            assert "TimeLimit=00:07:00 " in shown
            assert f"Comment={asked.token} " in shown
            cluster.run("scancel", job)
    finally:
        cluster.run("scontrol", "update", f"partitionname={cluster.partition}", "state=up")
    assert not marker.exists()


def passes(name: str) -> bool:
    """Whether it is a valid field."""
    try:
        textsafe.slurm_field("account", name)
    except HpcpoolsError:
        return False
    return True


def test_sec_8_the_command_line_refuses(site: Project, tmp_path: Path) -> None:
    """The same rule where a name is typed: exit code 2, and nothing is created."""
    options = ("--partition", "--account", "--qos", "--constraint", "--label")
    words = [f"{option}=a\\'\"\n; touch {tmp_path / 'marker'}" for option in options]
    assert [site.cli("train", "usertasks:see", word, check=False).returncode for word in words] == [2] * 5
    assert not site.root.exists()
    assert not (tmp_path / "marker").exists()
