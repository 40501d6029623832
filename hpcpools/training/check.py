"""``train --check``: everything that can be known before a job waits in a queue for hours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.runs.request import Request
from hpcpools.slurm import submit as slurm
from hpcpools.training import engine, submit


def check(config: Config, request: Request) -> Iterator[str]:
    """One line per check that passed. Raises the error of the first that fails.

    The callable was imported and its arguments were bound when the request was planned.
    """
    yield f"{request.what} is runnable"
    yield _writable(config.root)
    if request.engine == "local":
        yield f"the local slot serves it ({request.resources.gpus} GPUs here)"
        return
    runner = engine.runner(config)
    with tempfile.TemporaryDirectory(prefix="hpcpools-check-") as folder:
        script = Path(folder) / "check.sbatch"
        script.write_text(submit.script(config, request))
        yield slurm.test_only(runner, script, env=submit.job_env(config))


def _writable(root: Path) -> str:
    parent = root
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".hpcpools-check-") as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        raise HpcpoolsError(
            f"{root} is not writable: {error.strerror}", hint="set project.root in hpcpools.toml"
        ) from None
    return f"{root} is writable"
