"""A supervisor with a table of small real children; run as a script by the tests.

``redis`` is the real one; ``steady`` needs it and only waits; ``crasher`` writes hostile text and exits 3;
``stubborn`` ignores SIGTERM; ``parent`` leaves a grandchild in its group; ``chatty`` floods its output.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hpcpools.config import Config
from hpcpools.services import daemon, table
from hpcpools.services.table import Service

WAIT = "import signal; signal.pause()"
CRASH = r"print('cannot \x1b]0;owned\x07 go\u202eon', flush=True); raise SystemExit(3)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
STUBBORN += "while True: signal.pause()"
PARENT = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']).wait()"
)
CHATTY = "import signal\nfor n in range(20000): print('line', n)\nprint('said', flush=True); signal.pause()"


def _python(name: str, code: str, *, requires: tuple[str, ...] = (), grace: float = 5.0) -> Service:
    return Service(
        name,
        lambda: (sys.executable, "-c", code),
        requires=requires,
        settle=0.1,
        grace=grace,
        env={"CREW": name},
    )


def crew(config: Config) -> Sequence[Service]:
    """The real redis of the config, and the children above."""
    redis = [service for service in table.services(config) if service.name == "redis"]
    return [
        *redis,
        _python("steady", WAIT, requires=tuple(service.name for service in redis)),
        _python("crasher", CRASH),
        _python("stubborn", STUBBORN, grace=0.3),
        _python("parent", PARENT),
        _python("chatty", CHATTY),
    ]


if __name__ == "__main__":
    sys.exit(daemon.main(services=crew))
