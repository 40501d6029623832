"""Checkpoints under fire: kill -9 at every call of a writer, bit rot, symlinks, crafted manifests, copies."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcpools.errors import HpcpoolsError, NotFoundError, RefusedError, UsageError
from hpcpools.runs import checkpoints, export


def write(folder: Path, step: int, text: str = "x") -> Path:
    """A small checkpoint of two files, one in a folder."""
    with checkpoints.writing(folder, step, 1.0, {"loss": 1 / step}) as tmp:
        (tmp / "state.pt").write_text(text * 1000)
        (tmp / "shards").mkdir()
        (tmp / "shards" / "0.bin").write_text(text * 10)
    return folder / f"step-{step:09d}"


def newest(folder: Path) -> int:
    """The step a resume would take; 0 for none."""
    found = checkpoints.newest_valid(folder)
    return 0 if found is None else found.step


# Each life is an attempt: clear, resume, write the next checkpoint (or the same step again). It is killed
# before its n-th call into C (open, write, fsync, mkdir, rename, unlink, …), for every n, until one survives.
LIVES = """
import json, os, random, shutil, signal, sys
from pathlib import Path
from hpcpools.runs import checkpoints

folder, again = Path(sys.argv[1]), sys.argv[2] == "again"
random.seed(1)

def newest():
    found = checkpoints.newest_valid(folder)
    return found.step if found else 0

def write(step):
    with checkpoints.writing(folder, step, 1.0, {"loss": 1.0}) as tmp:
        for name in "ab":
            with (tmp / name).open("wb", buffering=0) as file:
                for _ in range(20):
                    file.write(random.randbytes(random.randint(1, 3000)))

def life(calls):
    left = calls
    def count(frame, event, argument):
        nonlocal left
        if event == "c_call":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(count)
    checkpoints.clear_unfinished(folder)
    write(max(1, newest() + (not again)))

if again:
    write(1), write(2)
kills, lost = 0, []
while True:
    before = newest()
    child = os.fork()
    if child == 0:
        life(kills + 1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if again:
        checkpoints.clear_unfinished(folder)
        fine = newest() == before == 2
    else:
        fine = before <= newest() <= before + 1
    if not fine:
        lost.append([kills + 1, before, newest()])
    if os.WIFEXITED(status):
        break
    kills += 1
    for old in sorted(folder.glob("step-*"))[:-3]:
        shutil.rmtree(old)
checkpoints.clear_unfinished(folder)
print(json.dumps({"kills": kills, "lost": lost, "left": [p.name for p in folder.glob(".*")], "at": newest()}))
"""


@pytest.mark.parametrize("which", ["next", "again"])
def test_a_kill_before_any_call_loses_at_most_the_checkpoint_being_written(
    tmp_path: Path, which: str
) -> None:
    """SIGKILL at ≥200 places of clearing, resuming, writing: always resumes, a replaced step is kept."""
    done = subprocess.run(
        [sys.executable, "-c", LIVES, str(tmp_path), which], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] >= 200
    assert told["lost"] == []
    assert told["left"] == []
    assert told["at"] > 0


WRITER = """
import os, sys
from pathlib import Path
from hpcpools.runs import checkpoints
folder = Path(sys.argv[1])
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        checkpoints.clear_unfinished(folder)
        found = checkpoints.newest_valid(folder)
        step = found.step if found else 0
        while True:
            step += 1
            with checkpoints.writing(folder, step, 1.0, {}) as tmp:
                (tmp / "state").write_bytes(bytes([step % 256]) * 1_500_000)
            os.write(1, f"{step}\\n".encode())
    os.write(1, f"{child}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


def test_a_kill_at_a_random_instant(tmp_path: Path) -> None:
    """SIGKILL inside large writes, 60 times: the last one reported, or one newer, is there and whole."""
    chance = random.Random(5)
    reported = 0
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as writer:  # fmt: skip
        assert writer.stdin is not None
        assert writer.stdout is not None
        for number in range(60):
            writer.stdin.write("\n")
            child = int(writer.stdout.readline())
            if number == 0:  # however slow the disk is
                reported = int(writer.stdout.readline())
            time.sleep(chance.random() * 0.02)  # the random instant
            os.kill(child, 9)
            while (line := writer.stdout.readline()) != "dead\n":
                reported = max(reported, int(line))
            assert reported <= newest(tmp_path) <= reported + 1
            reported = newest(tmp_path)
            for old in sorted(tmp_path.glob("step-*"))[:-2]:
                for path in old.iterdir():
                    path.unlink()
                old.rmdir()
        writer.stdin.close()
    assert reported > 0


def flip(path: Path) -> None:
    """One bit of the state."""
    raw = bytearray((path / "state.pt").read_bytes())
    raw[500] ^= 4
    (path / "state.pt").write_bytes(raw)


def truncate(path: Path) -> None:
    """The last byte is missing."""
    os.truncate(path / "state.pt", 999)


def lose(path: Path) -> None:
    """A file is missing."""
    (path / "shards" / "0.bin").unlink()


def link(path: Path) -> None:
    """A file is a symlink to one with the right bytes."""
    real = path.parent.parent / "elsewhere"
    (path / "state.pt").rename(real)
    (path / "state.pt").symlink_to(real)


def link_folder(path: Path) -> None:
    """A folder is a symlink to one with the right files."""
    real = path.parent.parent / "elsewhere"
    (path / "shards").rename(real)
    (path / "shards").symlink_to(real)


def add_link(path: Path) -> None:
    """A symlink that the manifest does not name."""
    (path / "extra").symlink_to("/etc/passwd")


def pipe(path: Path) -> None:
    """A pipe, which would block its reader for ever."""
    (path / "state.pt").unlink()
    os.mkfifo(path / "state.pt")


def cut_manifest(path: Path) -> None:
    """Half a manifest."""
    os.truncate(path / "manifest.json", 30)


def link_manifest(path: Path) -> None:
    """The manifest is a symlink."""
    (path / "manifest.json").rename(path / "real.json")
    (path / "manifest.json").symlink_to("real.json")


def other_step(path: Path) -> None:
    """A manifest that speaks of another step."""
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"step":2', '"step":9'))


def outside(path: Path) -> None:
    """A manifest that names a file outside."""
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace("state.pt", "../../state.pt"))


def open_to_all(path: Path) -> None:
    """Anyone may write in it."""
    path.chmod(0o777)


@pytest.mark.parametrize(
    "damage",
    [flip, truncate, lose, link, link_folder, add_link, pipe,
     cut_manifest, link_manifest, other_step, outside, open_to_all],
)  # fmt: skip
def test_a_damaged_newest_is_passed_over(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """The one before is resumed from and exported; the damaged one is named and refused."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    write(folder, 1)
    path = write(folder, 2)
    damage(path)
    assert newest(folder) == 1
    assert export.choose(folder, None).step == 1
    listed = {found.step: found.fault() for found in checkpoints.complete(folder)}
    assert listed.get(2, "unreadable")
    assert checkpoints.unreadable(folder) == ([] if 2 in listed else [path])
    with pytest.raises(RefusedError if 2 in listed else NotFoundError, match="step 2"):
        export.choose(folder, 2)


def test_what_may_not_be_written(tmp_path: Path) -> None:
    """Symlinks, pipes, our own names, an empty folder, a negative step: refused, and nothing is left."""
    forbidden: list[Callable[[Path], object]] = [
        lambda tmp: (tmp / "x").symlink_to("/etc/passwd"),
        lambda tmp: os.mkfifo(tmp / "x"),
        lambda tmp: (tmp / "manifest.json").write_text("{}"),
        lambda tmp: (tmp / ".pinned").write_text(""),
        lambda tmp: None,
    ]
    for make in forbidden:
        with pytest.raises(UsageError), checkpoints.writing(tmp_path, 1, 1.0, {}) as tmp:
            make(tmp)
    with pytest.raises(UsageError, match="no step"):
        write(tmp_path, -1)
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_writing_is_kept(tmp_path: Path) -> None:
    """The manifest says how long each took; one without that field (an older one) still reads."""
    write(tmp_path, 1)
    old = write(tmp_path, 2)
    manifest = json.loads((old / "manifest.json").read_text())
    took = manifest.pop("seconds")
    assert 0 <= took < 10
    (old / "manifest.json").write_text(json.dumps(manifest))
    assert [found.seconds is None for found in checkpoints.complete(tmp_path)] == [False, True]
    assert len(checkpoints.write_seconds(tmp_path)) == 1
    assert checkpoints.write_seconds(tmp_path / "none") == []
    assert newest(tmp_path) == 2


def test_a_pin_outlives_the_same_step_written_again(tmp_path: Path) -> None:
    """And a folder that is no checkpoint of ours cannot be pinned."""
    write(tmp_path, 1)
    checkpoints.pin(tmp_path, 1, True)
    write(tmp_path, 1, "y")
    assert [found.pinned for found in checkpoints.complete(tmp_path)] == [True]
    checkpoints.pin(tmp_path, 1, False)
    assert [found.pinned for found in checkpoints.complete(tmp_path)] == [False]
    (tmp_path / "step-000000002").symlink_to(tmp_path / "step-000000001")
    with pytest.raises(HpcpoolsError, match="no checkpoint of step 2"):
        checkpoints.pin(tmp_path, 2, True)


def test_an_export_is_the_same_checkpoint(tmp_path: Path) -> None:
    """All files and the manifest, private, without the pin; it verifies where it lies now."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    source = write(folder, 3)
    checkpoints.pin(folder, 3, True)
    heard: list[int] = []
    export.copy(export.choose(folder, 3), tmp_path / "step-000000003", heard.append)
    assert [found.fault() for found in checkpoints.complete(tmp_path)] == [""]
    copied = sorted(str(path.relative_to(tmp_path / "step-000000003"))
                    for path in (tmp_path / "step-000000003").rglob("*"))  # fmt: skip
    assert copied == ["manifest.json", "shards", "shards/0.bin", "state.pt"]
    assert (tmp_path / "step-000000003").stat().st_mode & 0o777 == 0o700
    assert sum(heard) == 1010 + (source / "manifest.json").stat().st_size


def test_an_export_overwrites_nothing(tmp_path: Path) -> None:
    """A file, a folder, a symlink, even a dangling one, at the destination: refused; no rest anywhere."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    write(folder, 1)
    found = export.choose(folder, None)
    target = tmp_path / "out"
    target.mkdir()
    (target / "file").write_text("mine")
    (target / "folder").mkdir()
    (target / "link").symlink_to(tmp_path)
    (target / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "folder", "link", "dangling"):
        with pytest.raises(UsageError, match="exists"):
            export.copy(found, target / name)
    with pytest.raises(UsageError, match="no directory"):
        export.copy(found, target / "file" / "x")
    flip(found.path)
    with pytest.raises(RefusedError, match="changed while it was copied"):
        export.copy(found, target / "new")
    lose(found.path)
    with pytest.raises(HpcpoolsError):
        export.copy(found, target / "new")
    assert sorted(path.name for path in target.iterdir()) == ["dangling", "file", "folder", "link"]
    assert (target / "file").read_text() == "mine"
