"""The command: a file for the textfile collector, what it prints, what it refuses."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hpcpools import config as configuration
from hpcpools import monitoring
from hpcpools.config import Config
from hpcpools.errors import ConfigError, HpcpoolsError
from hpcpools.monitoring import service
from tests.monitoring.conftest import Pool
from tests.monitoring.lab import families, promtool
from tests.short.lab import wait_for


def test_a_textfile_once(pool: Pool, tmp_path: Path) -> None:
    """Readable by the collector's user whatever the umask, whole, valid, and nothing left beside it."""
    file = tmp_path / "hpcpools.prom"
    old = os.umask(0o077)
    try:
        pool.project.cli("exporter", "--textfile", file)
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert "hpcpools_workers_alive" in families(file.read_bytes())
    assert promtool("check", "metrics", stdin=file.read_bytes()) == ""
    refused = pool.project.cli("exporter", "--textfile", tmp_path / "x.txt", check=False)
    assert (refused.returncode, "does not end in .prom" in refused.stderr) == (2, True)
    refused = pool.project.cli("exporter", "--textfile", tmp_path / "none" / "x.prom", check=False)
    assert refused.returncode == 1
    assert "cannot write" in refused.stderr


def test_a_textfile_again_and_again(pool: Pool, tmp_path: Path) -> None:
    """Renewed until SIGTERM; a reader at any moment sees a whole file."""
    file = tmp_path / "hpcpools.prom"
    process = pool.project.start("exporter", "--textfile", file, "--every", "1s")
    try:
        wait_for(file.exists, "the file")
        first = file.stat().st_ino
        seen = set()

        def renewed() -> bool:
            text = file.read_bytes()
            assert text.endswith(b"\n")
            assert b"hpcpools_collect_seconds" in text
            seen.add(file.stat().st_ino)
            return len(seen - {first}) >= 1

        wait_for(renewed, "another file")
    finally:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_write_never_shows_a_part(tmp_path: Path) -> None:
    """A reader in a tight loop against a hundred writes of a large file."""
    file = tmp_path / "x.prom"

    class Large:
        def text(self) -> bytes:
            return b"x" * 500_000 + b"\n"

    service.write(Large(), file)  # type: ignore[arg-type]
    sizes, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            sizes.add(len(file.read_bytes()))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        service.write(Large(), file)  # type: ignore[arg-type]
    done.set()
    reader.join()
    assert sizes == {500_001}


def test_print(pool: Pool, tmp_path: Path) -> None:
    """The metrics, the rules and the dashboard on stdout; the last two without any configuration."""
    assert "hpcpools_runs{" in pool.project.cli("exporter", "--print", "metrics").stdout
    env = {name: value for name, value in os.environ.items() if not name.startswith("HPCPOOLS_")}
    for name in monitoring.SHIPPED:
        argv = [sys.executable, "-m", "hpcpools", "exporter", "--print", name]
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == monitoring.shipped(name)
    assert json.loads(monitoring.shipped("grafana"))["title"] == "hpcpools"


def test_options_that_exclude_each_other(pool: Pool) -> None:
    """Exit code 2, and another address is refused by command and configuration alike."""
    for words in (
        ("--listen", "127.0.0.1:0", "--print", "alerts"),
        ("--every", "5s"),
        ("--listen", "0.0.0.0:9123"),
    ):
        assert pool.project.cli("exporter", *words, check=False).returncode == 2, words
    path = pool.project.folder / "other.toml"
    for text in ('listen = "0.0.0.0:1"', 'listen = "127.0.0.1:1"\ntextfile = "x.prom"', 'every = "0s"'):
        with pytest.raises(ConfigError):
            configuration.parse_text(f"[exporter]\n{text}\n", path)
    parsed = configuration.parse_text('[exporter]\nlisten = "[::1]:9123"\n', path)
    assert parsed.exporter.listen == "[::1]:9123"


def test_without_the_library(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "hpcpools.monitoring.collector")
    with pytest.raises(HpcpoolsError, match="needs prometheus_client") as caught:
        service.collector(pool.config)
    assert "hpcpools[exporter]" in caught.value.hint


def test_it_is_a_service_only_where_it_is_wanted(pool: Pool) -> None:
    """`ps` lists it for this config, and not for one that does not enable it."""
    assert "exporter" in {row["name"] for row in pool.project.json("ps")}
    from hpcpools.services import table

    plain: Config = configuration.parse_text("", pool.project.folder / "plain.toml")
    assert "exporter" not in {one.name for one in table.services(plain)}
