"""Shuffled batches that go on where a checkpoint left off, in the middle of an epoch too.

Owns the order: a pure function of seed and epoch, dealt out over the ranks. Refuses to draw on torch's
global random numbers, so that a resumed training sees the same ones as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from hpcpools.errors import UsageError

T = TypeVar("T")


class Shuffle:
    """A ``batch_sampler`` for torch's DataLoader, whose place ``run.save(sampler=…)`` keeps.

    Args:
        length: the samples of the data set.
        batch: samples per batch and rank. Samples that fill no batch on every rank are left out of that
            epoch, others in each.
        seed: the same on all ranks.
        rank, world_size: of the run.
    """

    def __init__(self, length: int, batch: int, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if batch < 1 or length < batch * world_size or not 0 <= rank < world_size:
            raise UsageError(
                f"{length} samples make no batch of {batch} on {world_size} ranks (rank {rank})",
                hint="take a smaller batch, or more data",
            )
        self.length, self.batch, self.seed, self.rank, self.world_size = length, batch, seed, rank, world_size
        self.epoch = 0
        self.done = 0  # batches of this epoch that the training has had

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.length // (self.batch * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's indices of each batch that is left of the epoch."""
        import torch

        order = torch.randperm(self.length, generator=torch.Generator().manual_seed(self._number()))
        for number in range(self.done, len(self)):
            first = (number * self.world_size + self.rank) * self.batch
            yield order[first : first + self.batch].tolist()

    def follow(self, loader: Iterable[T]) -> Iterator[T]:
        """What is left of this epoch, from ``loader``, counted batch by batch; then the next epoch is due.

        Loop over this and not over the loader: a loader with workers fetches ahead of the training.
        """
        if self.done < len(self):
            for item in self._started(loader):
                self.done += 1
                yield item
        self.epoch += 1
        self.done = 0

    def state_dict(self) -> dict[str, int]:
        """Place and seed; in samples, so that the number of ranks may change."""
        samples = self.done * self.batch * self.world_size
        return {"seed": self.seed, "epoch": self.epoch, "samples": samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved place."""
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])
        self.done = min(int(state["samples"]) // (self.batch * self.world_size), len(self))

    def _started(self, loader: Iterable[T]) -> Iterator[T]:
        """``iter(loader)``, which draws a number for its workers: from our seed, and not torch's.

        A resume starts the loader once more; an epoch's augmentation must not repeat the one before.
        """
        import torch

        state = torch.get_rng_state()
        torch.default_generator.manual_seed(self._number(1 + self.rank))
        try:
            return iter(loader)
        finally:
            torch.set_rng_state(state)

    def _number(self, use: int = 0) -> int:
        """A seed for this epoch: use 0 orders the samples, 1 + rank are that rank's workers."""
        return (self.seed * 2**40 + self.epoch * 2**16 + use) % 2**63
