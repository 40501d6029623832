"""A site's own script under `train --template`: what is taken, what is refused and where, what wins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcpools.errors import UsageError
from hpcpools.runs.request import Request, Resources
from hpcpools.templates import foreign
from hpcpools.training.executors import sbatch_parameters
from hpcpools.training.plan import Options

SITE = """#!/bin/bash -l
# our cluster
#SBATCH -p a100 -J mine   # the big nodes
#SBATCH --account=physics --qos=long
#SBATCH --gres=gpu:4 -t 1-12:00:00
#SBATCH --nodes=1 --ntasks=1 --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --mem=0 --requeue
#SBATCH --mail-type=END --mail-user "me@example.org"
#SBATCH --output=logs/%j.out
##SBATCH --array=0-9

module purge
if command -v nvidia-smi; then
    export READY=1   # python is not a command here
fi

# the work
srun --cpu-bind=none \\
    python train.py --lr 1e-3
"""


def test_everything_has_its_place() -> None:
    """Options become the run's, harmless ones go along, shell lines but the last are set-up."""
    found = foreign.read("site.sh", SITE)
    asked = found.options
    assert (asked.partition, asked.account, asked.qos, asked.label) == ("a100", "physics", "long", "mine")
    assert (asked.gpus, asked.minutes, asked.nodes) == (4, 36 * 60, 1)
    assert dict(asked.sbatch) == {"mail-type": "END", "mail-user": "me@example.org"}
    assert asked.setup[:3] == ("source /etc/profile", "module purge", "if command -v nvidia-smi; then")
    assert not any("train.py" in line for line in asked.setup)
    assert [note.partition(" is ")[0] for note in found.notes] == [
        "site.sh:6: --cpus-per-task=16",
        "site.sh:10: --output=logs/%j.out",
    ]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30", 30), ("90:00", 90), ("2:00:00", 120), ("1-0", 1440), ("1-2:30", 1590), ("5:01", 6)],
)
def test_time_is_read_as_sbatch_reads_it(text: str, minutes: int) -> None:
    """A bare number is minutes: sbatch(1)."""
    assert foreign.read("s", f"#!/bin/bash\n#SBATCH --time={text}\nsrun x\n").options.minutes == minutes


def test_the_command_line_wins() -> None:
    """Where it is silent the script speaks."""
    both = foreign.read("site.sh", SITE).under(Options(partition="other", gpus=2, qos=""))
    assert (both.partition, both.gpus, both.qos, both.minutes) == ("other", 2, "long", 36 * 60)


@pytest.mark.parametrize(
    ("line", "kind", "gpus"),
    [
        ("--gres=gpu:a100:4", "a100", 4),
        ("--gres=gpu:a100", "a100", 1),
        ("--gres=gpu", "", 1),
        ("--gpus-per-node=h100-80gb:8", "h100-80gb", 8),
        ("-G a100:2", "a100", 2),
    ],
)
def test_a_type_of_gpu_goes_along(line: str, kind: str, gpus: int) -> None:
    """It stands in our script as it stood in the site's; the command line's number wins all the same."""
    asked = foreign.read("s", f"#!/bin/bash\n#SBATCH {line}\nsrun x\n").options
    assert (asked.gpu_type, asked.gpus) == (kind, gpus)
    resources = Resources(gpus=3, gpu_type=kind)
    written = sbatch_parameters(Request("t", 0.0, "slurm", resources))["gpus_per_node"]
    assert str(written) == (f"{kind}:3" if kind else "3")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--ntasks=8", "one process per GPU"),
        ("-n 2", "one process per GPU"),
        ("--ntasks-per-node=4", "one process per GPU"),
        ("--array=0-9", "sweep"),
        ("-a0-9", "sweep"),
        ("--oversubscribe", "for itself"),
        ("--exclusive=user", "--exclusive"),
        ("--nodes=2", "--nodes 2 on the command line"),
        ("-N 1-4", "--nodes=1"),
        ("--mem=16G", "--mem=0"),
        ("--mem-per-cpu=2G", "all memory"),
        ("--no-requeue", "requeued"),
        ("--gres=gpu:a100:4(S:0)", "a100:4"),
        ("--gres=gpu:2,shard:1", "a100:4"),
        ("--gpus-per-node=a100", "a100:4"),
        ("--gpus=a:2,b:2", "a100:4"),
        ("--gpus=x", "--gpus-per-node"),
        ("--time=soon", "HH:MM:SS"),
        ("--chdir=/tmp", "cd there"),
        ("--export=NONE", "keep_env"),
        ("--wrap=id", "command"),
        ("--uid=0", "taken along"),
        ("--part=gpu", "taken along"),
        ("hetjob", ""),
        ("--reservation='a b'", "Slurm value|letters"),
        ("--partition=$(id)", "letters|value"),
        ("--mail-user='x", "quote"),
    ],
)
def test_contradictions_are_refused_with_their_line(line: str, hint: str) -> None:
    """The message says where, the hint what to do."""
    with pytest.raises(UsageError, match=r"^site\.sh:3: ") as caught:
        foreign.read("site.sh", f"#!/bin/bash\n#SBATCH --time=10\n#SBATCH {line}\npython x.py\n")
    assert re.search(hint, caught.value.hint)


def test_several_nodes_must_be_said_twice() -> None:
    """What depends on their number is checked against the command line's."""
    text = "#!/bin/bash\n#SBATCH --nodes=2 --ntasks=2 --gpus=8\nsrun x\n"
    assert foreign.read("s", text, nodes=2).options.gpus == 4
    with pytest.raises(UsageError, match="--ntasks=2"):
        foreign.read("s", text, nodes=3)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("srun python train.py\necho done\n", ":2: srun would run"),
        ("X=1 python train.py\necho done\n", ":2: python would run"),
        ("cd x\nexec torchrun t.py\necho\n", ":3: exec would"),
        ("if true; then\npython train.py\nfi\n", ":3: python would run"),
        ("if true; then\necho train\nfi\n", "not whole"),
        ("echo \x1b[2J\npython x\n", ":2: control"),
    ],
)
def test_what_would_run_instead_of_the_training_is_refused(body: str, words: str) -> None:
    """Only the last command makes room; the rest must be whole."""
    with pytest.raises(UsageError, match=re.escape(words)):
        foreign.read("s", "#!/bin/bash\n" + body)


def test_other_shells_are_refused() -> None:
    """Set-up lines are bash."""
    with pytest.raises(UsageError, match="starts no bash"):
        foreign.read("s", "#!/usr/bin/python3\n")
    assert foreign.read("s", "#!/usr/bin/env bash\n#SBATCH -t5\n").options.setup == ()


def test_our_own_template_is_taken(tmp_path: Path) -> None:
    """training.sbatch contradicts nothing."""
    text = (Path(__file__).parents[2] / "sbatch_templates" / "training.sbatch").read_text()
    asked = foreign.read("training.sbatch", text).options
    assert (asked.gpus, asked.minutes, asked.partition) == (4, 720, "gpu")
