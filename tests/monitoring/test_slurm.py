"""On a real Slurm: three trainings and what they cost it, through the service that `hpcpools up` started."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.monitoring.lab import value
from tests.monitoring.test_access import through
from tests.project import Project


def test_trainings_and_calls(site: Project) -> None:
    """Counted as Slurm ran them, and the calls of all processes; killed, the service is back."""
    runtime = Path(site.env["XDG_STATE_HOME"]) / "rt"
    site.env.update(HPCPOOLS_SERVICES__RUNTIME_DIR=str(runtime), HPCPOOLS_EXPORTER__ENABLED="true")
    site.cli("up")
    done, broken = site.train("usertasks:learn", "steps=1"), site.train("usertasks:fail")
    running = site.train("usertasks:hold", f"until={site.folder / 'go'}")
    site.cli("wait", done, broken, check=False)
    site.until_state(running, "RUNNING")
    site.cli("upkeep", "update_job_metrics")
    text = scrape(runtime)
    for state in ("COMPLETED", "FAILED", "RUNNING"):
        assert value(text, "hpcpools_runs", state=state, engine="slurm") == 1, state
    assert value(text, "hpcpools_runs_ended", cause="user error") == 1
    assert value(text, "hpcpools_gpus_held") == 4
    assert value(text, "hpcpools_gpu_seconds", kind="held") > 0
    assert 0 < value(text, "hpcpools_run_pending_seconds", stat="max") < 120
    assert value(text, "hpcpools_slurm_call_seconds_count", command="sbatch") == 3
    assert value(text, "hpcpools_slurm_call_seconds_count", command="squeue") >= 1
    assert value(text, "hpcpools_slurm_jobs_listed") >= 1
    assert value(text, "hpcpools_slurm_answer_age_seconds") < 120
    os.kill(exporter(site)["pid"], signal.SIGKILL)
    site.until(lambda: exporter(site)["restarts"] == 1 and exporter(site)["state"] == "running", "it is back")
    assert value(scrape(runtime), "hpcpools_source_up", source="slurm") == 1
    (site.folder / "go").touch()


def exporter(site: Project) -> dict[str, Any]:
    """Its line in `ps`."""
    return next(row for row in site.json("ps") if row["name"] == "exporter")


def scrape(runtime: Path) -> bytes:
    """The page."""
    head, _, body = through(runtime / "exporter.sock").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200"), head
    return body
