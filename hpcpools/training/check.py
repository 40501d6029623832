"""``train --check``: everything that can be known before a job waits in a queue for hours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.runs.request import Request
from hpcpools.slurm import submit as slurm
from hpcpools.training import engine, saving, submit
from hpcpools.training.saving import Finding


def check(config: Config, request: Request) -> Iterator[Finding]:
    """One line per check that passed, or that warns. Raises the error of the first that fails.

    The callable was imported and its arguments were bound when the request was planned.
    """
    yield Finding(f"{request.what} is runnable")
    yield Finding(_writable(config.root))
    if request.code is not None:
        size = f"{request.code.size / 2**20:.2f} MiB in {request.code.files} files"
        yield Finding(f"its code is kept as it is now ({size})")
    if request.engine == "local":
        yield Finding(f"the local slot serves it ({request.resources.gpus} GPUs here)")
        return
    runner = engine.runner(config)
    with tempfile.TemporaryDirectory(prefix="hpcpools-check-") as folder:
        script = Path(folder) / "check.sbatch"
        script.write_text(submit.script(config, request))
        yield Finding(slurm.test_only(runner, script, env=submit.job_env(config)))
    notice = saving.read_notice(config, runner, request.resources.partition)
    yield from saving.compare(request, notice, saving.measured(config, request))


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
