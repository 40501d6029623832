"""Another user of the same machine: a uid that nobody has, and what it can do."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Other:
    """Uid B. ``group``: a gid that B shares with A, for threats from the same Unix group."""

    uid: int
    group: int

    def run(
        self,
        *words: object,
        env: Mapping[str, str] | None = None,
        in_group: bool = False,
        timeout: float = 30,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as B, in ``/`` and with a bare environment."""
        gid = self.group if in_group else self.uid
        argv = ["setpriv", "--reuid", str(self.uid), "--regid", str(gid), "--clear-groups", "--", *words]
        return subprocess.run(
            [str(word) for word in argv],
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(env or {})},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def call(self, function: Callable[[], Any]) -> Any:
        """What ``function`` returns, as JSON, in a fork of this process that has become B.

        For our own code: the checkout and its Python may lie where B cannot read them, so what it needs must
        be imported.
        """
        with tempfile.TemporaryFile("w+") as answer:
            pid = os.fork()
            if pid == 0:
                try:
                    os.setgroups([])
                    os.setresgid(self.uid, self.uid, self.uid)
                    os.setresuid(self.uid, self.uid, self.uid)
                    os.chdir("/")
                    os.environ.update(HOME="/nonexistent", USER="b")
                    json.dump(function(), answer)
                    answer.flush()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            answer.seek(0)
            return json.load(answer)

    def sees(self, *words: object, env: Mapping[str, str] | None = None) -> str:
        """All that a command tells B."""
        done = self.run(*words, env=env)
        return done.stdout + done.stderr


def unused() -> Other:
    """The first uid above 61000 that no account has; its processes are B."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    uid = next(number for number in range(61000, 65000) if number not in taken)
    return Other(uid, uid + 1)


def files(folder: Path) -> list[Path]:
    """Everything below ``folder``, links not followed."""
    return [Path(top) / name for top, dirs, names in os.walk(folder) for name in (*dirs, *names)]
