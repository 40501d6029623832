"""Submitting a filled-in template: one sbatch, with a token in the job's comment to find it by.

Refuses to send anything a second time by itself: a site may rewrite comments, so absence is never certain.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, SubmissionUnknownError
from hpcpools.runs.token import new_job_token
from hpcpools.slurm import queue
from hpcpools.slurm import submit as slurm
from hpcpools.templates import Template
from hpcpools.training import engine, submit

Note = Callable[[str], None]


def text(template: Template, values: Mapping[str, str], token: str) -> str:
    """The script that sbatch is given. Raises UsageError."""
    return template.script.render({**values, "comment": token})


def send(config: Config, template: Template, values: Mapping[str, str], note: Note) -> str:
    """Submit it from the current folder; Slurm's job id. ``note`` hears what takes long.

    Raises what :func:`hpcpools.slurm.submit.sbatch` raises, SubmissionUnknownError only after the look-ups.
    """
    token = new_job_token(time.time())
    script = text(template, values, token)
    runner = engine.runner(config)
    with tempfile.TemporaryDirectory(prefix="hpcpools-template-") as folder:
        path = Path(folder) / f"{template.name}.sbatch"
        path.write_text(script)
        try:
            return slurm.sbatch(runner, path, env=submit.job_env(config))
        except SubmissionUnknownError as error:
            note(f"sbatch gave no clear answer ({error.message}); looking for the job")

    def look(_history: bool) -> submit.Found:
        try:
            found = queue.find_token(runner, token)
        except HpcpoolsError:
            return submit.Found()
        return submit.Found(found[0].job_id if found else "")

    try:
        return submit.settled(config, token, look, note)
    except SubmissionUnknownError as error:
        raise SubmissionUnknownError(
            f"nobody can say whether Slurm has the job with the comment {token}",
            hint="look for it in `squeue --me -O jobid,name,comment:40` before you submit it again",
        ) from error
