"""A stand-in for the container engine, made of the kernel's own namespaces: no Docker runs where tests do.

It starts the services of a resolved docker-compose.yml as the file says: user, no capability, no new
privilege, a read-only root, mounts, secrets, environment, processes of their own or shared with the first,
one loopback and host name for all; the end of a main process is the end of its container's others. The image
is this machine's. Not stood in for: building, the engine's own defaults, restarts, published ports.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
# SIOCSIFFLAGS (netdevice(7)): the loopback is up
LOOPBACK = (
    "import fcntl, socket, struct as s; fcntl.ioctl(socket.socket(), 0x8914, s.pack('16sH14x', b'lo', 65))"
)
# $1: a folder for the new root; then source, target, ro|rw …; then -- and the command
ROOT = r"""
new=$1; shift
mount --make-rprivate /
mount -t tmpfs -o mode=755 root "$new"
mkdir "$new/proc" "$new/tmp" "$new/run"
for place in /*; do
  case $place in /proc|/tmp|/run|/var|/root|/home|/project|/runs) continue ;; esac
  [ -L "$place" ] && { cp -d "$place" "$new$place"; continue; }
  [ -d "$place" ] && { mkdir "$new$place"; mount --rbind "$place" "$new$place"; }
done
bind() {
  if [ -d "$1" ]; then mkdir -p "$new$2"; else mkdir -p "$new$(dirname "$2")"; : >"$new$2"; fi
  mount --bind "$1" "$new$2"
  [ "$3" = rw ] || mount -o remount,bind,ro "$new$2"
}
mount -t tmpfs tmp "$new/tmp"
chmod 1777 "$new/tmp"
while [ "$1" != -- ]; do bind "$1" "$2" "$3"; shift 3; done
shift
mount -t proc proc "$new/proc"
mount -o remount,ro "$new"
exec chroot "$new" "$@"
"""


class Container:
    """One service of the file. ``first``: whose network it joins, and whose processes if it says so;
    ``entrypoint``: that of its image."""

    def __init__(
        self,
        folder: Path,
        service: dict[str, Any],
        secrets: dict[str, Any],
        first: Container | None = None,
        entrypoint: Sequence[str] = (),
    ) -> None:
        folder.mkdir()
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/usr/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            **service.get("environment", {}),
        }
        mounts = [(place, place, "ro") for place in (REPOSITORY, sys.base_prefix)]  # the image
        for one in service.get("volumes", []):
            mounts.append((one["source"], one["target"], "ro" if one.get("read_only") else "rw"))
        for one in service.get("secrets", []):
            mounts.append((secrets[one["source"]]["file"], f"/run/secrets/{one['source']}", "ro"))
        self._user = service["user"].split(":")
        self._shares_pids = first is not None and "pid" in service
        words = ["unshare", "--mount"]
        if not self._shares_pids:
            words += ["--pid", "--fork", "--kill-child"]
        if first is None:
            words += ["--net", "--uts"]
        else:
            pids = ["--pid"] if self._shares_pids else []
            words = ["nsenter", "--target", str(first.pid), "--net", "--uts", *pids, *words]
        before = (
            f'hostname {service["hostname"]}; {sys.executable} -c "{LOOPBACK}"\n' if first is None else ""
        )
        words += ["sh", "-euc", before + ROOT, "sh", str(folder)]
        words += [str(word) for mount in mounts for word in mount]
        self.log = folder.with_suffix(".log")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*words, "--", *self._as_user([*entrypoint, *service["command"]])],
                env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _as_user(self, command: list[str]) -> list[str]:
        uid, gid = self._user
        return ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs",
                "--inh-caps=-all", "--bounding-set=-all", "--", *command]  # fmt: skip

    @property
    def pid(self) -> int:
        """The main process, as seen from here; 0 before it is there."""
        own = self._process.pid
        words = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return int(words[0]) if words else 0

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command in the container, as `docker compose exec` runs it."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--uts", "--root", "--wd"]
        return subprocess.run(
            [*enter, *self._as_user(list(command))],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def json(self, *words: str) -> Any:
        """What an hpcpools command prints."""
        done = self.run("hpcpools", *words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def until(self, found: Callable[[], Any], what: str, timeout: float = 60) -> Any:
        """Wait for a condition, as long as the container lives."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._process.poll() is None:
            if value := self.pid and found():
                return value
            time.sleep(0.2)
        raise AssertionError(f"never: {what}\n{self.log.read_text()}")

    def get(self, url: str) -> str:
        """What a client in the container's network is answered; empty if nothing."""
        ask = f"from urllib.request import urlopen; print(urlopen('{url}', timeout=5).read().decode())"
        return self.run("python", "-c", ask).stdout

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        """SIGTERM to the main process, as `docker compose stop`; its exit code."""
        mounts = self._mounts()
        os.kill(self.pid, number)
        code = self._process.wait(timeout)
        if self._shares_pids:  # else the kernel has done it
            self._end_others(mounts)
        return code

    def close(self) -> None:
        """Kill the main process, and with it all others.

        ``--kill-child`` alone does not: a change of user clears that wish (prctl(2), PR_SET_PDEATHSIG).
        """
        if self._process.poll() is None and self.pid:
            self.stop(signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()

    def _mounts(self) -> Path:
        return Path(f"/proc/{self.pid}/ns/mnt").readlink()

    @staticmethod
    def _end_others(mounts: Path) -> None:
        """What runs in the container still, known by its mounts, as the engine knows it by its cgroup."""
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (place / "ns" / "mnt").readlink() == mounts:
                    os.kill(int(place.name), signal.SIGKILL)
