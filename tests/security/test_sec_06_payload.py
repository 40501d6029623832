"""SEC-6: who may write to the shared folder cannot change what a job runs, and reads nothing of it."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcpools import account
from hpcpools.errors import PermissionsError
from hpcpools.runs import directory
from tests.cluster.cluster import Cluster
from tests.project import Project
from tests.security.other import Other, files

SWAP = """
mv "$1/runs" "$1/aside" && mkdir -p "$1/runs/$2/submitit" "$1/runs/$2/attempts" "$1/runs/$2/submissions" &&
cp "$3" "$1/runs/$2/run.json" && chmod -R 777 "$1/runs"
"""


@contextlib.contextmanager
def queued(cluster: Cluster) -> Iterator[None]:
    """What is submitted inside the block starts when it ends."""
    cluster.run("scontrol", "update", f"partitionname={cluster.partition}", "state=down")
    try:
        yield
    finally:
        cluster.run("scontrol", "update", f"partitionname={cluster.partition}", "state=up")


def slurm_log(run: Path) -> str:
    """What the launcher and our entry said before a log of an attempt was there."""
    return "".join(path.read_text() for path in (run / "submitit").glob("*_log.*"))


def test_sec_6_a_changed_payload_is_not_run(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """run.json is changed between sbatch and start: "payload hash mismatch", the marker is absent."""
    marker = tmp_path / "marker"
    with queued(cluster):
        token = site.train("usertasks:hold", "until=/", f"mark={tmp_path / 'harmless'}")
        run = site.root / token
        evil = (run / "run.json").read_text().replace(str(tmp_path / "harmless"), str(marker))
        (run / "run.json").write_text(evil)
    site.until(lambda: "payload hash mismatch" in slurm_log(run), "the entry's refusal")
    assert site.until_state(token, "FAILED", timeout=12)
    assert not marker.exists()
    assert not (tmp_path / "harmless").exists()


def test_sec_6_b_puts_its_own_folder_in_place(
    site: Project, cluster: Cluster, other: Other, tmp_path: Path
) -> None:
    """B, of A's group, replaces the folder of the runs by its own before the start: refused by its owner."""
    marker = tmp_path / "marker"
    for folder in (site.folder, *site.folder.parents):
        if folder.stat().st_uid == os.geteuid() and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o711)
    evil = tmp_path / "evil.json"
    with queued(cluster):
        token = site.train("usertasks:hold", "until=/", f"mark={marker}")
        job = site.json("show", token)["job_id"]
        os.chown(site.folder, -1, other.group)
        site.folder.chmod(0o770)  # only now: nothing is submitted below such a folder
        refused = site.cli("train", "usertasks:hold", "until=/", check=False)
        assert (refused.returncode, f"lets group {other.group} replace" in refused.stderr) == (77, True)
        evil.write_bytes((site.root / token / "run.json").read_bytes())
        evil.chmod(0o644)
        done = other.run("sh", "-ec", SWAP, "sh", site.folder, token, evil, in_group=True)
        assert done.returncode == 0, done.stderr
    try:
        cluster.wait(lambda: job not in cluster.jobs(), 30, "the job has ended")
        assert f"is owned by uid {other.uid}" in slurm_log(site.root / token)
        assert not marker.exists()
    finally:
        site.root.rename(site.folder / "of-b")
        (site.folder / "aside").rename(site.root)
        site.folder.chmod(0o700)


def test_sec_6_files_are_ours_alone_under_umask_000(site: Project) -> None:
    """Nothing that a whole run leaves, Slurm's own log included, gives group or others a bit."""
    old = os.umask(0)
    try:
        token = site.train("usertasks:learn", "steps=1")
        site.cli("wait", token)
    finally:
        os.umask(old)
    found = files(site.root / token)
    assert {"run.json", "start.json", "result.json", "manifest.json"} <= {path.name for path in found}
    assert any(path.name.endswith("_log.out") for path in found)
    assert [path for path in (site.root, *found) if path.lstat().st_mode & 0o077] == []


def test_sec_6_a_group_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named like us, without other members; a uid without a name has a group of its number."""
    me = pwd.struct_passwd(("me", "x", 1000, 1000, "", "/", "/bin/sh"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: me)
    for name, members, alone in (
        ("me", [], True),
        ("me", ["root", "me"], True),
        ("me", ["b"], False),
        ("users", [], False),  # whose first group it is nobody tells
    ):
        found = grp.struct_group((name, "x", 1000, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _gid, found=found: found)
        assert account.alone_in(1000) is alone
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 61234)
    assert (account.alone_in(61234), account.alone_in(54321)) == (True, False)


def test_sec_6_a_folder_that_anyone_may_replace_is_refused(tmp_path: Path) -> None:
    """Mode 0777 without the sticky bit above the runs; with the bit it is fine."""
    root = tmp_path / "open" / "runs"
    root.parent.mkdir()
    root.parent.chmod(0o777)
    with pytest.raises(PermissionsError, match="lets anyone replace") as refused:
        directory.secure_root(root)
    assert refused.value.exit_code == 77
    root.parent.chmod(0o1777)
    directory.secure_root(root)
    for group, fine in ((0, True), (os.getgid(), os.getgid() == 0), (54321, False)):
        os.chown(root.parent, -1, group)
        for mode in (0o770, 0o1770):  # the sticky bit lets nobody rename what is another's
            root.parent.chmod(mode)
            if fine or mode & 0o1000:
                directory.secure_root(root)
            else:
                with pytest.raises(PermissionsError, match=f"lets group {group} replace"):
                    directory.secure_root(root)
    root.chmod(0o720)
    with pytest.raises(PermissionsError, match="writable by you alone"):
        directory.secure_root(root)
