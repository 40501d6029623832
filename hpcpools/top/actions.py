"""What keys change: the same steps as ``cancel``, ``retry`` and ``requeue`` of the command line take."""

from __future__ import annotations

from hpcpools.config import Config
from hpcpools.runs.directory import open_run
from hpcpools.runs.view import read_view
from hpcpools.textsafe import one_line
from hpcpools.training import cancel as cancelling
from hpcpools.training import retry as again


def cancel(config: Config, name: str) -> str:
    """Ask for the end of a run or short job; what is known right after. Raises HpcpoolsError."""
    if name.startswith("hp-"):
        (view,) = cancelling.cancel(config, [open_run(config.root, name)])
        told = view.state.value if view.state.is_final else f"asked to end, still {view.state.value}"
        return f"{name}: {told}"
    from hpcpools.short.enqueue import fetch

    job = fetch(config, name)
    job.cancel()
    return one_line(f"{name}: {job.refresh().state}")


def retry(config: Config, name: str) -> str:
    """Submit a run once more, or put a short job back into its queue. Raises HpcpoolsError."""
    if name.startswith("hp-"):
        done = again.retry(config, [read_view(open_run(config.root, name))])
        return f"{name}: tried again" if done else f"{name}: it is being tried already"
    from hpcpools.short import control

    control.requeue(config, name)
    return one_line(f"{name}: back in its queue")
