"""The files for whoever keeps the services up: accepted by the programs that read them, hostile to nobody."""

from __future__ import annotations

import configparser
import os
import shutil
import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from hpcpools import deploy
from hpcpools.config import Config, parse
from hpcpools.errors import UsageError
from hpcpools.services import place


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A project whose folders have plain names."""
    data = {"services": {"runtime_dir": "rt"}, "lane": {"partition": "cpu"}}
    (tmp_path / "hpcpools.toml").touch()
    return parse(data, tmp_path / "hpcpools.toml", {})


@pytest.mark.parametrize("kind", ["user", "system"])
def test_systemd_accepts_the_units(config: Config, tmp_path: Path, kind: str) -> None:
    """`systemd-analyze verify` has no word to say against them."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not on this machine")
    unit = tmp_path / f"{deploy.name(config)}.service"
    unit.write_text(deploy.render(config, f"{kind}.service", account="root" if kind == "system" else ""))
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    words = [program, "verify", *(["--user"] if kind == "user" else []), str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=60, check=False)
    said = [line for line in done.stderr.splitlines() if deploy.name(config) in line]
    assert (done.returncode, said) == (0, [])
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=sometimes"))
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert "sometimes" in done.stderr  # it would have been told


def test_crontab_scrontab_and_supervisord(config: Config) -> None:
    """One command line each, with everything that cron and Slurm need around it."""
    (reboot,) = [line for line in deploy.render(config, "crontab").splitlines() if not line.startswith("#")]
    assert reboot.startswith("@reboot /")
    assert f"--config {config.file} up >/dev/null" in reboot
    lines = deploy.render(config, "scrontab", node="n1").splitlines()
    assert "#SCRON --nodelist=n1" in lines
    assert [line for line in lines if line.startswith("#SCRON --partition=cpu --time=1-00:00:00")]
    assert lines[-1].startswith("*/10 * * * * /")
    assert lines[-1].endswith("up --foreground")
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(deploy.render(config, "supervisord.conf"))
    (section,) = parser.sections()
    assert section == f"program:{deploy.name(config)}"
    assert parser[section]["autorestart"] == "unexpected"


def test_a_recurring_job_comes_back_to_the_pool_s_node(config: Config) -> None:
    """It is named, or where the pool lives; with a Redis that all share any node will do."""
    assert deploy.home_node(config, "n3") == "n3"
    with pytest.raises(UsageError, match="on any node") as refused:
        deploy.home_node(config, "")
    assert "--node" in refused.value.hint
    assert place.claim(config) == 0
    assert deploy.home_node(config, "") == socket.gethostname().partition(".")[0]
    redis = msgspec.structs.replace(config.redis, url="rediss://elsewhere")
    assert deploy.home_node(msgspec.structs.replace(config, redis=redis), "") == ""
    assert "--nodelist" not in deploy.render(config, "scrontab")


@pytest.mark.parametrize(
    "values",
    [
        {"memory": "4G\nExecStartPre=/bin/evil"},
        {"memory": "0G"},
        {"time": "1 day"},
        {"account": "root\nExecStartPre=x"},
        {"account": "-x"},
        {"node": "n1,n2"},
        {"node": "n1\n* * * * * evil"},
    ],
)
def test_values_that_would_end_a_line_are_refused(config: Config, values: dict[str, str]) -> None:
    """Nothing but sizes, times and user names."""
    with pytest.raises(UsageError):
        deploy.render(config, "system.service", **values)


@pytest.mark.parametrize("folder", ["with space", "per%cent", "dollar$HOME", "quo'te", "semi;colon"])
def test_folders_that_unit_files_read_otherwise_are_refused(tmp_path: Path, folder: str) -> None:
    """A specifier, a variable, a second command."""
    config = parse({"services": {"runtime_dir": "/tmp/rt"}}, tmp_path / "x.toml", {})
    config = msgspec.structs.replace(config, file=str(tmp_path / folder / "hpcpools.toml"))
    with pytest.raises(UsageError, match="special"):
        deploy.render(config, "user.service")


def test_a_system_unit_needs_a_place_of_its_own(tmp_path: Path) -> None:
    """The default runtime directory is in the home of whoever asks, not of the account."""
    config = parse({}, tmp_path / "hpcpools.toml", {})
    with pytest.raises(UsageError, match="runtime_dir"):
        deploy.render(config, "system.service", account="pool")
