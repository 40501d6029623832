"""A piece of one log file, for a page that asks again and again: regular files, bounded (SEC-10)."""

from __future__ import annotations

from typing import Any

from hpcpools import atomic
from hpcpools.runs import attempts
from hpcpools.runs.attempts import Attempt
from hpcpools.textsafe import escape

PIECE = 128 << 10  # bytes
TAIL = 32 << 10  # bytes that a page begins with


def read(attempt: Attempt | None, stream: str, node: str, at: int | None) -> dict[str, Any]:
    """``text`` from byte ``at``, and ``next``, the byte to go on from; ``at`` None: the last lines.

    ``nodes`` are the names to choose from, where there are several.
    """
    if attempt is None:
        return {"text": "", "next": 0, "size": 0, "attempt": None, "nodes": []}
    folders = {attempts.node_name(folder): folder for folder in attempt.folders}
    folder = folders.get(node, attempt.path)
    facts = {"attempt": attempt.number, "nodes": sorted(folders) if len(folders) > 1 else []}
    file = atomic.open_regular(folder / f"log.{stream}")
    if file is None:
        return {"text": "", "next": 0, "size": 0, **facts}
    with file:
        size = file.seek(0, 2)
        begin = max(0, size - TAIL) if at is None else min(at, size)
        file.seek(begin)
        data = file.read(PIECE)
    if at is None and begin:
        data = data[data.find(b"\n") + 1 :]
        begin = size - len(data)
    whole = _whole(data)
    return {
        "text": escape(whole.decode("utf-8", "replace")),
        "next": begin + len(whole),
        "size": size,
        **facts,
    }


def _whole(data: bytes) -> bytes:
    """Without the beginning of a character that is not written in full yet."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data[:-back] if length > back else data
    return data
