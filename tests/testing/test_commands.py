"""The fake's commands: their words, what they refuse, and how they fail when Slurm does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcpools.errors import SlurmUnavailableError, SubmissionUnknownError
from hpcpools.slurm import accounting, partition, queue, site, submit
from hpcpools.slurm.command import Runner
from hpcpools.testing import Cluster, FakeSlurm, Node, cluster, options, runner, world
from tests.testing.conftest import Call

Submit = Callable[..., str]


@pytest.mark.parametrize("command", ["sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo"])
def test_an_unknown_option_is_an_error(call: Call, command: str) -> None:
    """Never an answer that ignores it."""
    code, out, err = call(command, "--nonsense=1")
    assert code != 0
    assert out == ""
    assert "unrecognized option" in err
    assert "fake Slurm" in err


def test_an_unknown_field_is_an_error(call: Call) -> None:
    """Of each way to ask for one."""
    for words in (("squeue", "-O", "nonsense"), ("squeue", "-o", "%X"), ("sacct", "-o", "nonsense")):
        code, out, _ = call(*words)
        assert (code, out) == (1, "")


def test_options_of_the_script_and_the_line(fake_slurm: FakeSlurm, submit: Submit, call: Call) -> None:
    """The line wins; lines below the first command are none."""
    script = "#SBATCH --job-name=inside --comment='two words'  # why\n\ntrue\n#SBATCH --partition=nosuch"
    job = submit("--job-name=outside", script=script)
    assert call("squeue", "-h", "-o", "%j|%k|%P")[1] == "outside|two words|gpu\n"
    assert call("scontrol", "show", "job", job)[1].startswith(f"JobId={job} JobName=outside\n")


def test_what_sbatch_refuses(call: Call, tmp_path: Path) -> None:
    """Slurm's words, and nothing is queued."""
    script = tmp_path / "job.sh"
    for text in ("", "no script\n", "#!/bin/sh\r\ntrue\r\n"):
        script.write_bytes(text.encode())
        assert call("sbatch", str(script))[0] == 1
    script.write_text("#!/bin/sh\ntrue\n")
    for option, code in (("-pnosuch", 1), ("--gpus-per-node=9", 1), ("--array=0-2000", 1), ("--time=x", 255)):
        assert call("sbatch", option, str(script))[0] == code
    assert (
        call("sbatch", str(tmp_path / "nowhere"))[2]
        == f"sbatch: error: Unable to open file {tmp_path}/nowhere\n"
    )
    assert call("squeue", "-h")[1] == ""


def test_faults_of_the_controller(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    """As hpcpools reads them: refused, not queued, unknown; an answer that does not come."""
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    env = {**os.environ, **fake_slurm.env}
    ours = Runner(env, timeout=0.7)
    fake_slurm.refuse("Invalid qos specification")
    with pytest.raises(Exception, match="Invalid qos specification"):
        submit.sbatch(Runner(env), script, env=env)
    fake_slurm.accept_then_timeout()
    with pytest.raises(SubmissionUnknownError):
        submit.sbatch(Runner(env), script, env=env)
    assert [job.id for job in fake_slurm.jobs()] == ["1"]
    fake_slurm.down()
    with pytest.raises(SlurmUnavailableError, match="Unable to contact slurm controller"):
        queue.snapshot(Runner(env))
    fake_slurm.hang()
    with pytest.raises(SlurmUnavailableError, match="did not answer in time"):
        queue.snapshot(ours)
    fake_slurm.up()
    assert [job.job_id for job in queue.snapshot(Runner(env)).jobs] == ["1"]
    fake_slurm.accounting_down()
    with pytest.raises(SlurmUnavailableError):
        accounting.history(Runner(env), 0)


@pytest.mark.fake_slurm(cluster=Cluster(accounting=False, kill_wait=7, max_array_size=50))
def test_the_site_as_hpcpools_sees_it(fake_slurm: FakeSlurm) -> None:
    """Partitions, settings, and no accounting."""
    ours = Runner({**os.environ, **fake_slurm.env})
    assert ours.available()
    found = site.read_site(ours)
    gpu = found.partition("")
    assert gpu is not None
    assert (gpu.name, gpu.nodes, gpu.gpus_per_node, gpu.max_minutes) == ("gpu", 2, 4, 1440)
    assert (found.kill_wait_s, found.max_array_size, found.has_accounting) == (7, 50, False)
    assert not accounting.history(ours, 0).available
    standing = partition.standing(ours, "cpu")
    assert standing is not None
    assert [(nodes.state, nodes.names) for nodes in standing.nodes] == [("idle", "c[1-2]")]


def test_commands_are_programs(fake_slurm: FakeSlurm) -> None:
    """On PATH, for whoever is started in this environment."""
    done = subprocess.run(["squeue", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "slurm-wlm 22.05.8\n"
    outside = subprocess.run(["srun", "true"], capture_output=True, text=True, check=False)
    assert outside.returncode == 1
    assert "only works inside a batch job" in outside.stderr


def test_nobody_else_reads_the_environment(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """It is kept in a file, and may hold secrets."""
    submit()
    kept = fake_slurm.folder / "jobs" / "1" / "environment.json"
    assert kept.stat().st_mode & 0o077 == 0
    assert fake_slurm.folder.stat().st_mode & 0o077 == 0


# --- small grammars ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("5", 5),
        ("0:30", 1),
        ("90:00", 90),
        ("1:30:00", 90),
        ("2-0", 2880),
        ("1-12:30", 2190),
        ("UNLIMITED", None),
    ],
)
def test_time_limits(text: str, minutes: int | None) -> None:
    """sbatch(1), --time."""
    assert options.minutes(text) == minutes


def test_hostlists() -> None:
    """There and back."""
    names = ["n1", "n2", "n3", "n7", "login", "c1"]
    assert cluster.hostlist(names) == "n[1-3,7],login,c1"
    assert list(partition.expand(cluster.hostlist(names))) == names


def test_names_of_logs() -> None:
    """sbatch(1), filename pattern."""
    spec = world.Spec(name="x/y", partition="gpu", folder="/", output="", error="", nodes=2, tasks=2)
    job = world.Job(12, spec, 0.0, array=10, index=3, nodes=["g1", "g2"])
    assert runner.log_name("%j-%A_%a-%x-%N-%t-%%-%4j-%y", job, 1) == "12-10_3-x/y-g2-1-%-0012-%y"


def test_a_shape_has_to_fit() -> None:
    """A partition of nodes that are not there."""
    with pytest.raises(Exception, match="names nodes"):
        Cluster(nodes=(Node("a"),))
