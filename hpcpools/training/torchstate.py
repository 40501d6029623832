"""The state of a torch training in one file: model, optimizer, schedule, batches, random numbers.

Owns ``state.pt`` and ``extra.json`` of a checkpoint. Refuses to unpickle: tensors and plain values only, and
no torch older than 2.10, whose ``weights_only`` can be fooled (CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcpools import atomic
from hpcpools.errors import HpcpoolsError, RefusedError, UsageError

STATE = "state.pt"
EXTRA = "extra.json"
OLDEST = (2, 10)


def check_version(version: str) -> None:
    """Raise RefusedError for a torch that must not load checkpoints."""
    major, minor, *_ = version.split(".")
    if (int(major), int(minor)) < OLDEST:
        raise RefusedError(
            f"torch {version} cannot load a checkpoint safely", hint="install torch 2.10 or newer"
        )


def capture(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What ``write`` stores, of the parts that are not None. Every rank of a training calls it."""
    torch = _torch()
    ranks = _gathered(_random_state())
    state = {name: _state_of(name, part) for name, part in parts.items() if part is not None}
    return {"format": 1, "torch": str(torch.__version__), "parts": state, "random": ranks}


def write(folder: Path, state: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Put ``state`` and ``extra`` (JSON) into ``folder``; what could not be read back is refused now."""
    torch = _torch()
    torch.save(dict(state), folder / STATE)
    if unsafe := torch.serialization.get_unsafe_globals_in_checkpoint(folder / STATE):
        raise UsageError(
            f"the state holds {', '.join(sorted(unsafe))}, which no resume would load",
            hint="state_dict() must give tensors, numbers, strings, lists and dicts",
        )
    atomic.write_json(folder / EXTRA, dict(extra))


def load(folder: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Put the state in ``folder`` back into ``parts``, the random numbers last; the extra values.

    Raises HpcpoolsError if ``write`` did not make the folder, RefusedError if loading would run code,
    UsageError if a part was not saved.
    """
    state = _read(folder)
    wanted = {name: part for name, part in parts.items() if part is not None}
    if missing := sorted(wanted.keys() - state["parts"].keys()):
        raise UsageError(
            f"{folder.name} holds no {', '.join(missing)}", hint="restore what was given to run.save()"
        )
    for name, part in wanted.items():
        _set_state(part, state["parts"][name])
    ranks = state["random"]
    if rank() < len(ranks):
        _set_random_state(ranks[rank()])
    extra: dict[str, Any] = atomic.read_json(folder / EXTRA) or {}
    return extra


def rank(default: int = 0) -> int:
    """This process's rank in the process group; ``default`` without one."""
    dist = _process_group()
    return default if dist is None else int(dist.get_rank())


def from_first(number: int) -> int:
    """Rank 0's ``number``, on every rank."""
    dist = _process_group()
    if dist is None:
        return number
    told = _torch().tensor(number, dtype=_torch().int64, device=_device(dist))
    dist.broadcast(told, src=0)
    return int(told)


def anywhere(flag: bool) -> bool:
    """True on every rank if ``flag`` is true on one of them."""
    dist = _process_group()
    if dist is None:
        return flag
    told = _torch().tensor(int(flag), device=_device(dist))
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return bool(told)


def _read(folder: Path) -> dict[str, Any]:
    torch = _torch()
    path = folder / STATE
    if not path.is_file():
        raise HpcpoolsError(
            f"{folder.name} holds no {STATE}: run.save() did not write it",
            hint="load what run.checkpoint() wrote yourself, from run.resume().path",
        )
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a crafted file provokes in the unpickler
        raise RefusedError(
            f"{path} was not loaded: {str(error).splitlines()[0][:200]}",
            hint="only tensors and plain values are ever loaded; nothing in the file was run",
        ) from error
    if not isinstance(state, dict) or state.get("format") != 1 or not {"parts", "random"} <= state.keys():
        raise HpcpoolsError(
            f"{path} is no state that run.save() wrote", hint="load it yourself with weights_only=True"
        )
    return state


def _state_of(name: str, part: Any) -> Any:
    part = _bare(part)
    if hasattr(part, "state_dict"):
        return part.state_dict()
    if hasattr(part, "set_epoch"):  # torch's DistributedSampler
        return {"epoch": part.epoch}
    raise UsageError(
        f"{name}={type(part).__name__} has no state_dict()",
        hint="as sampler give hpcpools.Shuffle, or one with set_epoch(), or a stateful loader",
    )


def _set_state(part: Any, state: Any) -> None:
    part = _bare(part)
    if hasattr(part, "load_state_dict"):
        part.load_state_dict(state)
    else:
        part.set_epoch(state["epoch"])


def _bare(part: Any) -> Any:
    """The module inside DistributedDataParallel and torch.compile, so that either may change on a resume."""
    from torch.nn.parallel import DistributedDataParallel

    while True:
        if isinstance(part, DistributedDataParallel):
            part = part.module
        elif hasattr(part, "_orig_mod"):
            part = part._orig_mod
        else:
            return part


def _random_state() -> dict[str, Any]:
    torch = _torch()
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if numpy := sys.modules.get("numpy"):  # not imported, not used
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = [str(kind), keys.tolist(), *rest]
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch = _torch()
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        import numpy as np

        np.random.set_state(tuple(state["numpy"]))
    if "cuda" in state and torch.cuda.is_available():
        for device, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(one, device)


def _gathered(mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Every rank's on rank 0, in order; elsewhere, and without a process group, only one's own."""
    dist = _process_group()
    if dist is None:
        return [mine]
    everyone: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(mine, everyone)
    return everyone or [mine]


def _process_group() -> Any | None:
    """``torch.distributed`` if a process group is there."""
    from torch import distributed

    return distributed if distributed.is_available() and distributed.is_initialized() else None


def _device(dist: Any) -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _torch() -> Any:
    """torch, imported when a training first needs it."""
    import torch

    check_version(torch.__version__)
    return torch
