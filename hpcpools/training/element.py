"""The entry of an array's element on the node: from its index to its run, then the run's own entry.

``python -m hpcpools.training.element MANIFEST SHA256_OF_MANIFEST``, started by srun.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hpcpools.errors import HpcpoolsError, UsageError
from hpcpools.runs import sweeps
from hpcpools.training import node, nodeenv


def main(argv: list[str] | None = None) -> int:
    """Exit code: the run's entry's."""
    path, wanted = argv or sys.argv[1:]
    os.umask(0o077)
    manifest = Path(path)
    try:
        array = sweeps.read_manifest(manifest, wanted)
        index = nodeenv.variable("SLURM_ARRAY_TASK_ID") or ""
        if not index.isdecimal() or int(index) >= len(array.elements):
            raise UsageError(
                f"array index {index!r} has no run", hint="this entry is started by the sweep's own array"
            )
    except HpcpoolsError as error:
        print(f"hpcpools: {error}", file=sys.stderr)
        return error.exit_code
    element = array.elements[int(index)]
    root = manifest.parents[2]  # <root>/.sweeps/<id>/N.json
    return node.main([str(root / element.token), str(element.submission), element.digest])


if __name__ == "__main__":
    sys.exit(main())
