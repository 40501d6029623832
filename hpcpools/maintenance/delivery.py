"""Handing one notification to the user's command, or to a webhook (JSON as Slack and its kin read it).

Owns the time limits and the secrecy of the webhook's address: it is read from a private file at the last
moment and stands in no argument, log or error. Refuses shells, redirects, and plain HTTP to another host.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shlex
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hpcpools.config import Config, environment
from hpcpools.errors import ConfigError, HpcpoolsError, UnavailableError
from hpcpools.maintenance import notify
from hpcpools.redisdb.runtime import private_text
from hpcpools.textsafe import one_line


def deliver(config: Config, event: str, facts: Mapping[str, Any], receiver: str) -> str:
    """Deliver once; what the receiver said, in one line.

    Raises UnavailableError (worth another try) or ConfigError. The caller retries.
    """
    if receiver not in notify.receivers(config, event):
        return "not configured any more"
    return _hook(config, event, facts) if receiver == "hook" else _webhook(config, event, facts)


def _hook(config: Config, event: str, facts: Mapping[str, Any]) -> str:
    argv = shlex.split(config.notify.hook)
    message = {"event": event, "text": notify.text(event, facts), **facts}
    named = {
        f"HPCPOOLS_EVENT_{name.upper()}": str(value)
        for name, value in facts.items()
        if value is not None and re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
    }
    env = {**environment(), **named, "HPCPOOLS_EVENT": event, "HPCPOOLS_EVENT_TEXT": message["text"]}
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=config.folder,
            start_new_session=True,  # its own process group: what it started ends with it
        )
    except OSError as error:
        raise UnavailableError(
            f"notify.hook: {one_line(argv[0])} cannot be run: {error.strerror}",
            hint="give an executable file, with its path",
        ) from None
    try:
        output, _ = process.communicate(json.dumps(message).encode() + b"\n", float(config.notify.timeout))
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"notify.hook did not end within {config.notify.timeout:g} s", hint="raise notify.timeout"
        ) from None
    finally:
        _end(process)
    lines = output.decode("utf-8", "replace").strip().splitlines()
    said = one_line(lines[-1]) if lines else ""
    if process.returncode != 0:
        raise UnavailableError(
            f"notify.hook ended with {process.returncode}" + (f": {said}" if said else ""),
            hint="run it by hand with the JSON on its stdin",
        )
    return said


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of the hook stays behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the message to an address nobody configured."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """None: the redirect's own status is the error."""


def _webhook(config: Config, event: str, facts: Mapping[str, Any]) -> str:
    url, local = _address(config)
    plain = notify.text(event, facts)
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # Slack's rule: no mention, no link
        plain = plain.replace(sign, entity)
    body = json.dumps({"text": plain}).encode()
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if local:
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        url, data=body, headers={"Content-Type": "application/json", "User-Agent": "hpcpools"}, method="POST"
    )
    why = ""
    try:
        with urllib.request.build_opener(*handlers).open(
            request, timeout=float(config.notify.timeout)
        ) as answer:
            return f"HTTP {answer.status}"
    except urllib.error.HTTPError as error:
        error.close()
        why = f"answered HTTP {error.code}"
    except (OSError, HTTPException, ValueError) as error:  # their text may quote the address
        reason = getattr(error, "reason", error)
        why = f"does not answer ({type(reason).__name__})"
    raise UnavailableError(f"the webhook {why}", hint="check the address in notify.webhook_file")


def _address(config: Config) -> tuple[str, bool]:
    """The address in the private file, and whether it is this machine's. Raises ConfigError."""
    path = config.folder / Path(config.notify.webhook_file).expanduser()
    url = private_text(path)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _wrong(path, "it is no address") from None
    if not url.isascii() or not url.isprintable() or " " in url or not host:
        raise _wrong(path, "it is no address")
    local = _is_loopback(host)
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise _wrong(path, "it is not https")
    return url, local


def _wrong(path: Path, why: str) -> HpcpoolsError:
    return ConfigError(
        f"the address in {path} is refused: {why}", hint="one line: https://… (http:// only to this machine)"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
