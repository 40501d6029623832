"""On the node: the code snapshot is checked, then found before the live tree by every Python of the run.

Folders of the live tree that are import folders here (PYTHONPATH, editable installs) get their twin in the
snapshot before them. What the snapshot does not hold is still found where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpcpools.runs import code
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.training import nodeenv


def refusal(directory: RunDirectory, request: Request) -> str:
    """Why the run's snapshot may not run: it is not what was submitted; "" if it may."""
    if request.code is None or code.intact(directory.root, request.code.digest):
        return ""
    return f"code snapshot was changed: {code.folder(directory.root, request.code.digest)}; submit again"


def hint(root: Path, request: Request, error: BaseException) -> str:
    """What to know if a training looked beside its code for a file that is no part of the snapshot."""
    if request.code is None or not isinstance(error, OSError) or not isinstance(error.filename, str):
        return ""
    if not Path(error.filename).is_relative_to(code.folder(root, request.code.digest)):
        return ""
    return (
        f"hpcpools: {error.filename} is in the code snapshot, which is read-only and has no file that git "
        f"ignores; use a path from the working directory, {request.workdir}, or submit with --no-snapshot"
    )


def publish(directory: RunDirectory, request: Request) -> None:
    """Put the snapshot before the live tree: in this process, and in the environment of its children."""
    if request.code is None:
        return
    snapshot = code.folder(directory.root, request.code.digest)
    live = request.code.source

    def twins(paths: list[str]) -> list[str]:
        found = [code.twin(path, live, snapshot) for path in paths if path]
        return [str(twin) for twin in found if twin is not None and twin.is_dir()]

    inherited = nodeenv.python_path()
    started_in = (
        0 if getattr(sys.flags, "safe_path", False) else 1
    )  # where `-m` was started is no import folder
    hidden = twins([*sys.path[started_in:], *_editable()])
    sys.path[:] = [path for entry in sys.path for path in [*twins([entry]), entry]]
    sys.path += [path for path in dict.fromkeys(hidden) if path not in sys.path]
    before = [path for entry in inherited for path in [*twins([entry]), entry]]
    nodeenv.publish_code(snapshot, [*before, *(path for path in hidden if not _shadows(Path(path)))])


def _shadows(folder: Path) -> bool:
    """True if a module in there would hide one of Python's own, were the folder on PYTHONPATH."""
    return any(path.stem in sys.stdlib_module_names for path in folder.glob("*.py"))


def _editable() -> list[str]:
    """Folders of packages that setuptools installed editable: it finds them by a hook, not on sys.path."""
    found = []
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):
            places = getattr(module, "MAPPING", {}).values()
            found += [str(Path(place).parent) for place in places if isinstance(place, str)]
    return found
