"""A support archive: what somebody else needs to help, without what they must not see (SEC-7).

Owns what goes in: findings, versions, the configuration and the newest lines of the services' logs, all with
secrets taken out; of the runs their names, states and sizes, never arguments, code, results or logs.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpcpools.config import Config
from hpcpools.doctor.finding import Finding
from hpcpools.errors import RefusedError
from hpcpools.runs import directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.view import read_view
from hpcpools.services import logs, table
from hpcpools.training import environment

LOG_LINES, RUNS = 500, 100


def write(config: Config, findings: list[Finding], path: Path) -> list[str]:
    """Make the archive, mode 0600; the names inside. Raises RefusedError if ``path`` is there."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise RefusedError(f"{path} is there already", hint="name another file") from None
    names = []
    with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in contents(config, findings):
            data = text.encode()
            member = tarfile.TarInfo(f"hpcpools-doctor/{name}")
            member.size, member.mtime, member.mode = len(data), int(time.time()), 0o600
            archive.addfile(member, io.BytesIO(data))
            names.append(name)
    return names


def contents(config: Config, findings: list[Finding]) -> Iterator[tuple[str, str]]:
    """Name and text of each file."""
    yield "findings.json", _json([asdict(each) for each in findings])
    yield "environment.json", _json(environment.here(config, str(config.folder)))
    yield "runs.json", _json(list(_runs(config)))
    for name in ("supervisor", *(service.name for service in table.services(config))):
        if lines := logs.tail(logs.log_path(config, name), LOG_LINES):
            yield f"logs/{name}.log", "".join(f"{environment.without_secrets(line)}\n" for line in lines)


def _runs(config: Config) -> Iterator[dict[str, Any]]:
    for token in directory.tokens(config.root)[:RUNS]:
        view = read_view(RunDirectory(config.root, token))
        asked = view.request.resources
        yield {
            "run": token,
            "state": view.state.value,
            "cause": view.cause.value,
            "engine": view.request.engine,
            "gpus": asked.gpus,
            "minutes": asked.minutes,
            "attempts": len(view.attempts),
            "created": view.request.created,
            "since": view.since,
        }


def _json(value: Any) -> str:
    return json.dumps(environment.without_secrets(value), indent=2, default=str) + "\n"
