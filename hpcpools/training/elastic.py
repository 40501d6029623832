"""torch's elastic launcher, deaf to the warnings: the ranks hear them, save, and end by themselves.

Without this torchrun would end its ranks at the first TERM and die of USR2. Of several nodes the first one
serves the rendezvous, on a socket that was bound before its port was told to the others: a free port stays
free, and only the address that they use is listened on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from hpcpools.training import nodeenv
from hpcpools.training.group import Group

NOT_MET = 69  # EX_UNAVAILABLE: exit code if the rendezvous failed, or was lost


def main() -> None:
    """``python -m hpcpools.training.elastic [--serve=FD]`` takes torchrun's own arguments."""
    # An ignored signal stays ignored in the ranks until they install a handler; a handled one goes back
    # to its default there: a user's script still ends at TERM, and USR2 kills nobody.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    try:
        from torch.distributed import run
        from torch.distributed.elastic.rendezvous import RendezvousError
    except ImportError:
        sys.exit(
            "hpcpools: one process per GPU needs torch: "
            "pip install 'hpcpools[torch]', or use --launcher single"
        )
    store = None
    if sys.argv[1:2] and sys.argv[1].startswith("--serve="):
        store = _serve(int(sys.argv.pop(1).removeprefix("--serve=")))
    try:
        run.main()
        if store is not None:
            _group().wait_for_others()  # their agents need the store for as long as they live
    except RendezvousError as error:
        print(f"hpcpools: rendezvous: {error}", file=sys.stderr)
        sys.exit(NOT_MET)
    finally:
        del store  # lives until here


def _group() -> Group:
    attempt, nodes = nodeenv.variable(nodeenv.ATTEMPT_DIR), nodeenv.variable("SLURM_NNODES")
    return Group(Path(attempt or ""), nodeenv.place(), int(nodes or 1))


def _serve(listener: int) -> Any:
    """torch's key-value store on an open socket; it takes the socket over."""
    from torch import distributed

    torch: Any = distributed
    with socket.socket(fileno=os.dup(listener)) as known:
        host, port = known.getsockname()[:2]
    return torch.TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener)


if __name__ == "__main__":
    main()
