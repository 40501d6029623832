"""The same work for very many runs: by several processes where there are enough of them.

Most of that work waits for the file system, so even a machine of one core gains.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from hpcpools.config import Config
from hpcpools.short.process import die_with_parent

PROCESSES = 4  # a login node is shared
T = TypeVar("T")
R = TypeVar("R")


def mapped(
    work: Callable[[Config, Sequence[T]], R], config: Config, items: Sequence[T], chunk: int
) -> Iterator[R]:
    """``work(config, some of items)`` for each ``chunk`` of them, in order; one chunk starts no process.

    Only for callers without threads: the processes are forked, so that what is imported stays shared.
    """
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    if len(chunks) < 2:
        yield from (work(config, each) for each in chunks)
        return
    context = multiprocessing.get_context("fork")
    number = min(PROCESSES, len(chunks))
    with ProcessPoolExecutor(number, context, initializer=_attend, initargs=(os.getpid(),)) as pool:
        yield from pool.map(work, [config] * len(chunks), chunks)


def _attend(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear; what has begun ends
    die_with_parent(parent)
