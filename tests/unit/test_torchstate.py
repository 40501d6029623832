"""A resumed torch training is the uninterrupted one, to the bit; a crafted checkpoint runs nothing."""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from hpcpools import Shuffle
from hpcpools.errors import HpcpoolsError, RefusedError, UsageError
from hpcpools.runs import checkpoints
from hpcpools.training import torchstate
from hpcpools.training.context import Run


def make_run(folder: Path) -> Run:
    """A run as the training sees it; one process."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "attempt").mkdir(exist_ok=True)
    return Run(folder, folder / "attempt")


def data(samples: int = 44) -> TensorDataset:
    """Something to learn; 44 samples are 11 batches of 4."""
    maker = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 6, generator=maker)
    return TensorDataset(x, x.sum(1, keepdim=True))


def train(run: Run, steps: int, *, workers: int = 0, every: int = 5) -> list[float]:
    """Losses up to ``steps``, with dropout, augmentation by all three random sources, a schedule."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(7)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.4), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=100)
    sampler = Shuffle(44, 4, seed=1)
    loader = DataLoader(data(), batch_sampler=sampler, num_workers=workers)
    parts: dict[str, Any] = {
        "model": model, "optimizer": optimizer, "scheduler": scheduler, "sampler": sampler,
    }  # fmt: skip
    step = run.restore(**parts)
    losses = []
    while step < steps:
        for x, y in sampler.follow(loader):
            step += 1
            noise = 0.1 * torch.randn_like(x) + random.random() + float(np.random.rand())
            loss = nn.functional.mse_loss(model(x + noise), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            losses.append(float(loss.detach()))
            if step % every == 0:
                run.save(step, **parts, extra={"seen": step * 4}, loss=losses[-1])
            if step == steps:
                break
    return losses


@pytest.mark.parametrize(("steps", "stop", "workers"), [(10, 5, 0), (30, 15, 0), (22, 11, 0), (12, 5, 2)])
def test_a_resume_repeats_the_uninterrupted_losses_to_the_bit(
    tmp_path: Path, steps: int, stop: int, workers: int
) -> None:
    """In the middle of an epoch, in a later one, right at its end, and with workers that fetch ahead."""
    straight = train(make_run(tmp_path / "a"), steps, workers=workers, every=stop)
    first = train(make_run(tmp_path / "b"), stop, workers=workers, every=stop)
    for use in (torch.randn, np.random.rand):
        use(5)  # a restart knows nothing of where the random numbers were
    again = make_run(tmp_path / "b")
    second = train(again, steps, workers=workers, every=stop)
    assert first + second == straight
    assert again.extra == {"seen": stop * 4}


def test_an_epoch_is_a_permutation_and_ranks_share_it(tmp_path: Path) -> None:
    """Each sample at most once per epoch over all ranks; another order in the next; few ranks may resume."""
    ranks = [Shuffle(43, 4, rank=rank, world_size=2) for rank in range(2)]
    seen = [index for sampler in ranks for batch in sampler for index in batch]
    assert len(seen) == len(set(seen)) == 40
    first = list(ranks[0])
    assert list(ranks[0].follow(first)) == first
    assert ranks[0].epoch == 1
    assert list(ranks[0]) != first
    ranks[1].done = 3
    alone = Shuffle(43, 4)
    alone.load_state_dict(ranks[1].state_dict())
    assert alone.done == 6
    assert sorted(i for batch in alone for i in batch).__len__() == 16
    with pytest.raises(UsageError, match="no batch"):
        Shuffle(7, 4, world_size=2)


class Draws:
    """A data set whose items are the random numbers of its worker."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> float:
        return float(torch.rand(()))


def test_workers_draw_other_numbers_in_each_epoch() -> None:
    """Augmentation in workers differs between epochs although the global random numbers stand still."""
    sampler = Shuffle(8, 4)
    loader: Any = DataLoader(Draws(), batch_sampler=sampler, num_workers=1)  # type: ignore[arg-type]
    before = torch.get_rng_state()
    epochs = [torch.cat(list(sampler.follow(loader))).tolist() for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert torch.equal(before, torch.get_rng_state())


def test_the_wrappers_come_off(tmp_path: Path) -> None:
    """DistributedSampler keeps its epoch; a compiled model's state fits the plain one."""
    run = make_run(tmp_path)
    sampler: Any = DistributedSampler(data(), num_replicas=1, rank=0)
    sampler.set_epoch(4)
    model = nn.Linear(2, 2)
    run.save(1, model=torch.compile(model), sampler=sampler)
    other = nn.Linear(2, 2)
    fresh: Any = DistributedSampler(data(), num_replicas=1, rank=0)
    assert make_run(tmp_path).restore(model=other, sampler=fresh) == 1
    assert torch.equal(model.weight, other.weight)
    assert fresh.epoch == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 2]),
        torch.optim.lr_scheduler.ReduceLROnPlateau,
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 1.0),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [3]
        ),
    ],
)
def test_torch_s_schedulers_survive(tmp_path: Path, make: Any) -> None:
    """Their states are plain values, which weights_only loads."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0, momentum=0.9)
    run = make_run(tmp_path)
    run.save(1, optimizer=optimizer, scheduler=make(optimizer))
    assert run.restore(optimizer=optimizer, scheduler=make(optimizer)) == 1


class Evil:
    """A pickle that runs a command when it is loaded; as a part, a state that holds it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)

    def state_dict(self) -> dict[str, Any]:
        """What a careless object might give."""
        return {"me": self}


def test_a_state_that_no_resume_would_load_is_refused_at_once(tmp_path: Path) -> None:
    """Not ten hours later; the checkpoint is not there, and nothing ran."""
    run = make_run(tmp_path)
    with pytest.raises(UsageError, match=r"posix\.system, which no resume would load"):
        run.save(1, scheduler=Evil(tmp_path / "pwned"))
    with pytest.raises(UsageError, match="not plain JSON"):
        run.save(1, extra={"path": tmp_path})
    with pytest.raises(UsageError, match="has no state_dict"):
        run.save(1, sampler=[1, 2])
    assert list(run.checkpoints.iterdir()) == []
    assert not (tmp_path / "pwned").exists()


def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path) -> None:
    """A pickle with a command, and a DCP folder with one in .metadata, both with a true manifest: refused."""
    run = make_run(tmp_path)
    mark = tmp_path / "pwned"
    with run.checkpoint(1) as folder:
        torch.save({"format": 1, "parts": {}, "random": [], "x": Evil(mark)}, folder / "state.pt")
    with pytest.raises(RefusedError, match="was not loaded"):
        run.restore(model=nn.Linear(1, 1))
    with run.checkpoint(2) as folder:
        (folder / ".metadata").write_bytes(f"cos\nsystem\n(S'touch {mark}'\ntR.".encode())
        (folder / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(HpcpoolsError, match=r"holds no state\.pt"):
        run.restore(model=nn.Linear(1, 1))
    with run.checkpoint(3) as folder:
        torch.save([1, 2], folder / "state.pt")
    with pytest.raises(HpcpoolsError, match=r"no state that run\.save"):
        run.restore(model=nn.Linear(1, 1))
    assert not mark.exists()


def test_what_was_not_saved_is_named(tmp_path: Path) -> None:
    """And nothing is loaded by halves: the missing part is found first."""
    run = make_run(tmp_path)
    assert run.restore() == 0
    run.save(0, model=nn.Linear(1, 1))
    with pytest.raises(UsageError, match="holds no optimizer, sampler"):
        run.restore(optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters()), sampler=Shuffle(4, 2))


def test_a_damaged_newest_gives_the_one_before(tmp_path: Path) -> None:
    """One flipped bit: restore walks back a checkpoint."""
    run = make_run(tmp_path)
    for step in (1, 2):
        run.save(step, model=nn.Linear(1, 1))
    newest = run.checkpoints / "step-000000002" / "state.pt"
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    newest.write_bytes(raw)
    assert run.restore(model=nn.Linear(1, 1)) == 1


def test_an_old_torch_is_refused() -> None:
    """weights_only can be fooled before 2.10."""
    for old in ("2.9.1", "2.5.0+cu124", "1.13.0"):
        with pytest.raises(RefusedError, match="cannot load a checkpoint safely"):
            torchstate.check_version(old)
    for good in ("2.10.0", "2.13.0+cpu", "3.0.0a0+git1234"):
        torchstate.check_version(good)


def test_every_load_of_the_package_is_weights_only() -> None:
    """No torch.load without weights_only=True, no fallback, no pickle."""
    package = Path(torchstate.__file__).parents[1]
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path
        assert "weights_only=False" not in path.read_text()


RANK = """
import json, os, sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from hpcpools import Shuffle, current_run

steps, told = int(sys.argv[1]), int(sys.argv[2])
run = current_run()
dist.init_process_group("gloo")
torch.set_num_threads(1)
torch.manual_seed(100 + run.rank)  # each rank its own dropout
x = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
model = DistributedDataParallel(nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.4), nn.Linear(16, 1)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
sampler = Shuffle(40, 4, seed=1, rank=run.rank, world_size=run.world_size)
loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_sampler=sampler)
first = step = run.restore(model=model, optimizer=optimizer, sampler=sampler)
losses = []
stop = False
while step < steps and not stop:
    for a, b in sampler.follow(loader):
        step += 1
        loss = nn.functional.mse_loss(model(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if step == told and run.rank == 1:
            open(os.environ["HPCPOOLS_ATTEMPT_DIR"] + "/stop", "w").close()
            run._next_look = 0.0
        stop = run.stop_together()
        if step == steps or stop:
            run.save(step, model=model, optimizer=optimizer, sampler=sampler, loss=losses[-1])
            break
print(json.dumps([run.rank, first, losses]), flush=True)
dist.destroy_process_group()
os._exit(0)  # gloo's threads may abort a process at its very end (pytorch/pytorch#179291)
"""


def two_ranks(folder: Path, steps: int, told: int = 0) -> list[Any]:
    """[rank, first step, losses] of both, through our elastic launcher."""
    make_run(folder)
    (folder / "attempt" / "stop").unlink(missing_ok=True)
    (folder / "rank.py").write_text(RANK)
    flags = ["--nnodes=1", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    script = [str(folder / "rank.py"), str(steps), str(told)]
    done = subprocess.run(
        [sys.executable, "-m", "hpcpools.training.elastic", *flags, *script],
        env={**os.environ, "HPCPOOLS_RUN_DIR": str(folder), "HPCPOOLS_ATTEMPT_DIR": str(folder / "attempt"),
             "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return sorted(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


def test_two_ranks_resume_to_the_bit(tmp_path: Path) -> None:
    """One rank is told to stop, both do at the same step; both go on, each with its own dropout."""
    straight = two_ranks(tmp_path / "a", 10)
    first = two_ranks(tmp_path / "b", 10, told=5)
    assert [len(losses) for _, _, losses in first] == [5, 5]
    second = two_ranks(tmp_path / "b", 10)
    assert [start for _, start, _ in second] == [5, 5]
    for one in range(2):
        assert first[one][2] + second[one][2] == straight[one][2]
    assert straight[0][2] != straight[1][2]
    kept = checkpoints.complete(tmp_path / "b" / "checkpoints")
    assert [found.step for found in kept] == [5, 10]
    assert set(kept[0].files) == {"state.pt", "extra.json"}
    state = torch.load(kept[0].path / "state.pt", weights_only=True)
    assert list(state["parts"]["model"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(state["random"]) == 2
