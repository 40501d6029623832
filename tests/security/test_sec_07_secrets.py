"""SEC-7: what Slurm, ps and the support archive show to others holds no secret of ours."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.project import Project
from tests.security.other import Other, files

# One for each way in: environment, webhook's file, an argument of a training, one of a short task.
ENV, HOOK, TRAINED, SHORT = (f"canary-{word}-9f31" for word in ("env", "hook", "trained", "short"))
CANARIES = (ENV, HOOK, TRAINED, SHORT)

# An argument on a command line is in ps for as long as the command runs; a program's is not.
SUBMIT = """
import hpcpools, sys
hook, trained, short = sys.stdin.read().split()
job = hpcpools.enqueue("usertasks:evaluate", {"ckpt": short})
job.result(60)
run = hpcpools.train("usertasks:keep", {"until": sys.argv[1], "password": trained})
print(run.token)
"""

TASK = '''
@training(gpus=None, time="5m", launcher="single")
def keep(run, until, password):
    """Holds an argument."""
    wait_for(until)
'''


def test_sec_7_a_canary_is_seen_by_nobody_else(
    site: Project, cluster: Cluster, other: Other, tmp_path: Path
) -> None:
    """Secrets in config, environment and arguments: B asks Slurm and ps, we look at the rest."""
    (site.folder / "usertasks.py").write_text((site.folder / "usertasks.py").read_text() + TASK)
    hook = site.folder / "hook"
    hook.write_text(f"https://127.0.0.1:9/{HOOK}\n")
    hook.chmod(0o600)
    config = (site.folder / "hpcpools.toml").read_text()
    (site.folder / "hpcpools.toml").write_text(config + '\n[notify]\nwebhook_file = "hook"\n')
    site.env |= {"MY_API_KEY": ENV, "SERVICE_PASSWORD": ENV, "hf_token": ENV}
    site.cli("up")
    go = tmp_path / "go"
    words = [sys.executable, "-c", SUBMIT, str(go)]
    text = " ".join((HOOK, TRAINED, SHORT))
    done = subprocess.run(
        words, input=text, cwd=site.folder, env=site.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    token = done.stdout.strip()
    site.until_state(token, "RUNNING")
    job = site.json("show", token)["job_id"]

    asked = {
        "scontrol": other.sees("scontrol", "show", "job", "-dd", job, env=cluster.env),
        "squeue": other.sees("squeue", "-a", "-O", "ALL", env=cluster.env)
        + other.sees("squeue", "-a", "-o", "%all", env=cluster.env),
        "ps": other.sees("ps", "-eww", "-o", "args"),
        "proc": other.sees("sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>&1"),
        "script": other.sees("scontrol", "write", "batch_script", job, "-", env=cluster.env),
        "sacct": other.sees("sacct", "-a", "-P", "-o", "ALL", env=cluster.env),
    }
    assert token in asked["scontrol"] and token in asked["squeue"] and token in asked["ps"]
    assert "denied" in asked["script"] or "Invalid user id" in asked["script"]
    assert "#SBATCH" not in asked["script"]
    go.touch()
    site.cli("wait", token)
    archive = tmp_path / "bundle.tar.gz"
    site.cli("doctor", "--bundle", archive, check=False)
    with tarfile.open(archive) as packed:
        asked["bundle"] = "".join(
            file.read().decode() for member in packed if (file := packed.extractfile(member))
        )
    assert token in asked["bundle"]
    asked["explain"] = site.cli("explain", token).stdout
    asked["status"] = site.cli("status").stdout
    assert [(where, word) for where, shown in asked.items() for word in CANARIES if word in shown] == []

    # On disk: a run's arguments are in its own run.json, a short task's in Redis, both ours alone.
    state = Path(site.env["XDG_STATE_HOME"])
    kept = {word: holders(word, state, site.root) for word in CANARIES}
    assert kept[ENV] == kept[HOOK] == set()
    assert kept[TRAINED] == {"run.json"}
    assert kept[SHORT] and all(name.startswith(("appendonly", "dump")) for name in kept[SHORT])


def holders(word: str, *folders: Path) -> set[str]:
    """The names of the files that hold ``word``."""
    found = (path for folder in folders for path in files(folder) if path.is_file())
    return {path.name for path in found if word.encode() in path.read_bytes()}


def test_sec_7_a_secret_in_a_setup_line_is_pointed_out(laptop: Project) -> None:
    """It would stand in the script of every job: doctor warns, and does not repeat it."""
    laptop.configure('[training]\nsetup = ["export WANDB_API_KEY=canary-line-9f31"]\n')
    said = laptop.cli("doctor", check=False).stdout
    assert "training.setup holds what looks like a secret" in said
    assert "canary" not in said
