"""A real Slurm cluster in one directory: `python tests/cluster/lab.py up|down|shell|status|env`.
Needs root and the packages of install.sh; installs nothing, and touches no system service or database."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # run by path: the package's root is not yet importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.cluster import files, layout, processes
from tests.cluster.files import LabError
from tests.cluster.layout import VARIANTS, Variant

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb-admin")


class LabUnavailableError(Exception):
    """This machine cannot host the lab: not root, or programs missing."""


class Lab:
    """One cluster, running or not; all knowledge about it is on disk and in /proc."""

    def __init__(self, variant: Variant, root: Path | None = None) -> None:
        self.root = (root or files.default_root(variant.name)).absolute()
        self.variant = layout.apart(variant, self.root) if variant.cgroup else variant
        self.conf = self.root / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """The whole environment of the lab's daemons and clients; nothing is inherited from the caller."""
        return {
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C.UTF-8",
            "SLURM_CONF": str(self.conf),
            "MYSQL_UNIX_PORT": str(self.root / "db" / "socket"),
        }

    # --- up and down ---------------------------------------------------------------------------

    def up(self) -> bool:
        """Bring the lab up and wait until every node is idle; False when it already ran healthily.

        Raises:
            LabUnavailableError: not root, or programs are missing.
            LabError: a daemon refused to start or a node did not become idle; names the log to read.
        """
        if self.healthy():  # needs no root: anyone may use a lab that is up
            return False
        self._check_machine()
        with files.lock(self.root):
            if self.healthy():
                return False
            self._end_all()
            try:
                files.lay_out(self.root, self.variant)
                self._start_all()
            except BaseException:
                self._end_all()
                raise
        return True

    def down(self) -> None:
        """Stop every process of the lab and remove its files except the logs."""
        if not self.root.exists() and not processes.members(self.conf):
            return
        with files.lock(self.root):
            self._end_all()
            files.clear(self.root, self.variant)

    def healthy(self) -> bool:
        """True when the controller answers and every node is in service.

        Any user may ask. Where no controller runs this costs nothing: sinfo would retry for seconds, and
        without a slurm.conf it would ask DNS for one.
        """
        try:
            pid = (self.root / "run" / "slurmctld.pid").read_text().strip()
        except OSError:
            return False
        if not Path("/proc", pid or "none").exists():
            return False
        states = self.node_states()
        bad = ("down", "unk", "inval", "fail", "*")
        return set(states) == set(self.variant.nodes) and not any(
            b in s for s in states.values() for b in bad
        )

    def node_states(self, timeout: float = 10) -> dict[str, str]:
        """Return Slurm's short state of every node; empty when the controller does not answer."""
        try:
            listing = self.run("sinfo", "-h", "-N", "-o", "%N %t", timeout=timeout).stdout
        except (LabError, subprocess.TimeoutExpired):
            return {}
        return dict(line.split() for line in listing.splitlines() if line.count(" ") == 1)

    def run(self, *argv: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run one program of the lab to its end.

        Raises:
            LabError: it exits non-zero or is not there; the message carries its own words.
        """
        try:
            return subprocess.run(
                argv, env=self.env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=timeout, check=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise LabError(f"{argv[0]}: not found on {SYSTEM_PATH}") from error
        except subprocess.CalledProcessError as error:
            raise LabError(f"{' '.join(argv)}: exit {error.returncode}: {error.stderr.strip()}") from error

    # --- single daemons --------------------------------------------------------------------------

    def controller(self) -> processes.Process | None:
        """Return the lab's slurmctld, or None when it does not run."""
        found = [p for p in processes.members(self.conf) if p.name == "slurmctld"]
        pids = {p.pid for p in found}
        return next((p for p in found if p.parent not in pids), None)

    def start_controller(self, *, forget: bool = False) -> None:
        """Start slurmctld and wait until it answers; `forget`: without the jobs that it has saved."""
        self._daemon("slurmctld", *(["-c"] if forget else []), "-f", str(self.conf))
        self.await_(lambda: bool(self.node_states(timeout=1)), 20, "slurmctld answers", "slurmctld")

    def stop_controller(self, signum: int = signal.SIGTERM) -> None:
        """Stop slurmctld and wait until it is gone."""
        if controller := self.controller():
            processes.send(controller, signum)
            processes.send(controller, signal.SIGCONT)
            self.await_(lambda: self.controller() is None, 20, "slurmctld stops", "slurmctld")

    def start_node(self, node: str) -> None:
        """Start one slurmd; does not wait for the controller to see it."""
        self._daemon("slurmd", "-N", node, "-f", str(self.conf))

    def kill_node(self, node: str) -> None:
        """SIGKILL a node's slurmd, steps and jobs, as a power cut would."""
        processes.end(lambda: processes.on_node(node, processes.members(self.conf)), grace=0)

    def await_(self, done: Callable[[], bool], timeout: float, what: str, log: str) -> None:
        """Poll until `done`, else raise LabError naming the log file."""
        deadline = time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                tail = _tail(self.root / "log" / f"{log}.log")
                raise LabError(f"not within {timeout:g} s: {what}; {self.root}/log/{log}.log ends:\n{tail}")
            time.sleep(0.1)

    # --- inside ------------------------------------------------------------------------------------

    def _check_machine(self) -> None:
        if os.geteuid() != 0:
            raise LabUnavailableError(
                "the Slurm lab needs root (device nodes, jobs of other users); run it with sudo"
            )
        wanted = PROGRAMS + (ACCOUNTING_PROGRAMS if self.variant.accounting else ())
        if missing := [name for name in wanted if not shutil.which(name, path=SYSTEM_PATH)]:
            raise LabUnavailableError(f"missing: {' '.join(missing)}; install with tests/cluster/install.sh")
        if self.variant.cgroup and (refused := files.refused_controllers()):
            raise LabUnavailableError(f"no cgroup v1 to write in: {'; '.join(refused)}")

    def _start_all(self) -> None:
        run, log = self.root / "run", self.root / "log"
        self._daemon(
            "munged", f"--key-file={self.root}/munge.key", f"--socket={run}/munge.socket", "--num-threads=4",
            f"--pid-file={run}/munged.pid", f"--seed-file={run}/munge.seed", f"--log-file={log}/munged.log",
        )  # fmt: skip
        if self.variant.accounting:
            self._start_database()
        self._daemon("slurmctld", "-f", str(self.conf))
        for node in self.variant.nodes:
            self.start_node(node)
        self.await_(self._all_idle, 40, "all nodes idle", "slurmctld")

    def _start_database(self) -> None:
        db, address = self.root / "db", self.env["MYSQL_UNIX_PORT"]
        common = ("--no-defaults", "--user=root", f"--datadir={db}", "--innodb-flush-log-at-trx-commit=0")
        self.run("mariadb-install-db", *common, "--skip-test-db", "--skip-name-resolve", timeout=60)
        # Without grant tables anyone who reaches the socket is in: it lies in a directory of mode 0700.
        self._background(
            "mariadbd", *common, f"--socket={address}", "--skip-networking", "--skip-grant-tables"
        )
        self.await_(
            lambda: self._ok("mariadb-admin", "--no-defaults", "ping"), 30, "mariadbd answers", "mariadbd"
        )
        self._daemon("slurmdbd")
        self.await_(lambda: self._ok("sacctmgr", "-n", "list", "cluster"), 30, "slurmdbd answers", "slurmdbd")

    def _all_idle(self) -> bool:
        states = self.node_states(
            timeout=1
        )  # a request that meets a starting slurmctld may never be answered
        return set(states) == set(self.variant.nodes) and set(states.values()) == {"idle"}

    def _ok(self, *argv: str) -> bool:
        try:
            self.run(*argv, timeout=10)
        except (LabError, subprocess.TimeoutExpired):
            return False
        return True

    def _daemon(self, *argv: str) -> None:
        """Start a program that goes into the background by itself; its exit code tells of a bad config."""
        log = self.root / "log" / "start.log"
        with log.open("a") as out:
            code = subprocess.run(
                argv, env=self.env, cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
            ).returncode
        if code:
            raise LabError(f"{' '.join(argv)}: exit {code}; {log} ends:\n{_tail(log)}")

    def _background(self, *argv: str) -> None:
        """Start a program that stays in the foreground, as a child of init so that it never is our zombie."""
        log = self.root / "log" / f"{argv[0]}.log"
        self.run("sh", "-c", 'log=$1; shift; setsid "$@" >"$log" 2>&1 </dev/null &', "sh", str(log), *argv)

    def _end_all(self) -> None:
        """End jobs and Slurm first, so that the database sees their last words, then what they stand on."""
        base = ("munged", "mariadbd", "mysqld")
        processes.end(lambda: [p for p in processes.members(self.conf) if p.name not in base], grace=3)
        processes.end(lambda: processes.members(self.conf), grace=10)


def _tail(log: Path, lines: int = 12) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no such file)"


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    parser = argparse.ArgumentParser(description="A real Slurm cluster with fake GPUs on this machine.")
    parser.add_argument("action", choices=("up", "down", "shell", "status", "env"))
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="accounting")
    parser.add_argument("--dir", type=Path, help="directory of the lab (default: below /var/tmp)")
    options = parser.parse_args(argv)
    lab = Lab(VARIANTS[options.variant], options.dir)
    try:
        return _act(lab, options.action)
    except (LabUnavailableError, LabError, TimeoutError) as error:
        print(f"lab {lab.variant.name}: {error}", file=sys.stderr)
        return 1


def _act(lab: Lab, action: str) -> int:
    began = time.monotonic()
    export = f"export SLURM_CONF={lab.conf}"
    if action == "up":
        fresh = lab.up()
        state = f"up in {time.monotonic() - began:.1f} s" if fresh else "already up"
        print(f"lab {lab.variant.name}: {state}; {export}")
    elif action == "down":
        lab.down()
        print(f"lab {lab.variant.name}: down")
    elif action == "env":
        print(export)
    elif action == "status":
        members, healthy = processes.members(lab.conf), lab.healthy()
        print(f"lab {lab.variant.name}: {'healthy' if healthy else 'ill' if members else 'not running'}")
        print("".join(f"{p.pid:>8} {p.name} {' '.join(p.argv)}".rstrip() + "\n" for p in members), end="")
        return 0 if healthy else 3
    else:
        lab.up()
        shell = os.environ.get("SHELL", "/bin/sh")
        print(f"{export}; exit leaves the cluster up", file=sys.stderr)
        os.execvpe(shell, [shell], os.environ | {"SLURM_CONF": str(lab.conf)})  # noqa: S606 - the user's own shell
    return 0


if __name__ == "__main__":
    sys.exit(main())
