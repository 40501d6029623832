"""torch's elastic launcher, deaf to the warnings: the ranks hear them, save, and end by themselves.

Without this torchrun would end its ranks at the first TERM and die of USR2.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """``python -m hpcpools.training.elastic`` takes torchrun's own arguments."""
    # An ignored signal stays ignored in the ranks until they install a handler; a handled one goes back
    # to its default there: a user's script still ends at TERM, and USR2 kills nobody.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    try:
        from torch.distributed import run
    except ImportError:
        sys.exit(
            "hpcpools: one process per GPU needs torch: "
            "pip install 'hpcpools[torch]', or use --launcher single"
        )
    run.main()


if __name__ == "__main__":
    main()
