"""The three tasks of the demo, and a pattern for your own: preprocess, train, evaluate.

The data are scikit-learn's bundled handwritten digits: 1797 real images of 8×8 pixels.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hpcpools import Run, task, training


@task(queue="preprocessing", timeout="5m")
def preprocess_dataset(folder: str) -> dict[str, Any]:
    """Scale the images, split them 80/20 with a fixed seed, write ``digits.npz``."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16.0).astype("float32")[:, None]
    order = np.random.default_rng(0).permutation(len(images))
    held_out = len(images) // 5
    test, train = order[:held_out], order[held_out:]
    path = Path(folder) / "digits.npz"
    np.savez(path, x=images[train], y=digits.target[train], x_test=images[test], y_test=digits.target[test])
    return {"path": str(path), "train": len(train), "held_out": len(test)}


@training(gpus=0, time="10m", launcher="single")
def train_model(run: Run, data: str, seconds: float = 60.0, lr: float = 1e-3) -> dict[str, Any]:
    """Train a small CNN for about ``seconds`` s; resumes from the newest checkpoint."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y = _load(data, "x", "y")
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    first = 1
    if found := run.resume():
        state = torch.load(found.path / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = found.step + 1
    began = time.monotonic()
    epochs = None
    epoch = first
    while epochs is None or epoch <= epochs:
        loss = _epoch(model, optimizer, x, y)
        if epoch == first:
            began = time.monotonic()  # the first epoch also warms torch up
        elif epoch == first + 5:  # the machine's speed decides how many epochs fit
            epochs = epoch + max(10, int(seconds * 5 / (time.monotonic() - began)))
        run.log(step=epoch, total=epochs, loss=loss)
        last = epoch == epochs or run.should_stop
        if last or (epochs is not None and epoch % max(1, epochs // 8) == 0):
            with run.checkpoint(epoch, loss=loss) as folder:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, folder / "state.pt")
        if last:
            break
        epoch += 1
    return {"epochs": epoch, "loss": loss}


@task(queue="evaluation", timeout="5m")
def run_evaluation(checkpoint: str, data: str) -> dict[str, Any]:
    """Accuracy of a checkpoint on the held-out images."""
    import torch

    torch.set_num_threads(1)
    x, y = _load(data, "x_test", "y_test")
    model = network()
    state = torch.load(Path(checkpoint) / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    model.eval()
    with torch.no_grad():
        right = int((model(x).argmax(1) == y).sum())
    return {"accuracy": right / len(y), "right": right, "held_out": len(y)}


def network() -> Any:
    """A CNN for 8×8 images in ten classes."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 16, 10),
    )


def _epoch(model: Any, optimizer: Any, x: Any, y: Any) -> float:
    import torch
    from torch.nn.functional import cross_entropy

    model.train()
    total = 0.0
    for batch in torch.randperm(len(x)).split(64):  # type: ignore[no-untyped-call]
        optimizer.zero_grad()
        loss = cross_entropy(model(x[batch]), y[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach()) * len(batch)
    return total / len(x)


def _load(data: str, *names: str) -> tuple[Any, ...]:
    import numpy as np
    import torch

    with np.load(data, allow_pickle=False) as arrays:
        return tuple(torch.from_numpy(arrays[name]) for name in names)
