"""The hash that RQ keeps of a job, as we judge it: what is signed, and why a record is refused.

Pure functions of a record and the key. Refuses, with the reason, whatever we did not sign as it stands.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

from hpcpools.short import signing

MAX_PAYLOAD = 64 * 1024  # bytes of JSON: function name and arguments
SIGNATURE = "hpcpools_signature"

# Everything in the job's hash that can change what runs, for how long, or what follows it. What is left out
# are facts of its life (status, times, worker, meta, retries_left), which workers and rq's tools rewrite.
SIGNED = (
    *("origin", "data", "description", "timeout", "ttl", "result_ttl", "failure_ttl"),
    *("retry_intervals", "enqueue_at_front_on_retry", "repeat_intervals"),
    *("dependency_id", "dependency_ids", "allow_dependency_failures", "group_id"),
    *("rate_limit_key", "rate_limit_concurrency", "webhooks"),
    *("success_callback_name", "failure_callback_name", "stopped_callback_name"),
    *("success_callback_timeout", "failure_callback_timeout", "stopped_callback_timeout"),
)
LIFE = {"status", "started_at", "ended_at", "enqueued_at", "last_heartbeat", "worker_name"}

# What is not signed, and rq would stumble over.
_DATES = ("created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat")
_COUNTS = ("retries_left", "number_of_retries", "repeats_left", "enqueue_at_front")
_DATE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z)?")
_COUNT = re.compile(rb"\d{0,9}")


def judge(key: bytes, job_id: str, fields: Mapping[str, Any]) -> tuple[str, bytes]:
    """Why the job must not run, or an empty text; and its call, decompressed."""
    signature = fields.get(SIGNATURE)
    if not signature:
        return "it is not signed, so it was not enqueued through hpcpools", b""
    try:
        data = inflate(fields.get("data") or b"")
        genuine = signing.verify(key, _signed(job_id, fields, data), signature)
    except (zlib.error, ValueError, TypeError):
        genuine = False
    if not genuine:
        return "its signature does not match: it is forged, or was changed after it was enqueued", b""
    if not _sound(fields):
        return "its record in Redis is damaged", b""
    return "", data


def sign(key: bytes, job_id: str, fields: Mapping[str, Any], data: bytes) -> str:
    """The signature of a record with the call ``data``."""
    return signing.sign(key, _signed(job_id, fields, data))


def _signed(job_id: str, fields: Mapping[str, Any], data: bytes) -> dict[str, bytes]:
    """The signed fields as Redis holds them; a missing one is like an empty one."""
    values: dict[str, bytes] = {}
    for name in SIGNED:
        value = fields.get(name, b"")
        values[name] = value if isinstance(value, bytes) else str(value).encode()
    values["id"], values["data"] = job_id.encode(), data
    return values


def _sound(fields: Mapping[str, Any]) -> bool:
    return all(_DATE.fullmatch(fields.get(name, b"")) for name in _DATES) and all(
        _COUNT.fullmatch(fields.get(name, b"")) for name in _COUNTS
    )


def foreign(fields: Mapping[str, Any]) -> bool:
    """Whether it uses features of rq that we do not."""
    names = ("success_callback_name", "failure_callback_name", "stopped_callback_name", "webhooks")
    return any(fields.get(name) for name in (*names, "group_id", "repeats_left", "rate_limit_key"))


def inflate(data: bytes) -> bytes:
    """Decompressed, but no more than we would ever have stored (a forged job may be a zip bomb)."""
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, MAX_PAYLOAD + 1)
    if not inflater.eof:
        raise ValueError("too large")
    return text


def named(raw: Mapping[Any, Any]) -> dict[str, Any]:
    """The record with names as text."""
    return {
        name.decode("utf-8", "replace") if isinstance(name, bytes) else name: value
        for name, value in raw.items()
    }


def text(value: object) -> str:
    """A value as text, whatever it holds; empty for a missing one."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
