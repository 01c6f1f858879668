"""A small network of the 8 x 8 digits, trained once in a second or two."""

import copy
import functools

import torch
from torch import Tensor, nn


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    return images, torch.as_tensor(bunch.target, dtype=torch.int64)


@functools.cache
def _trained() -> nn.Module:
    images, labels = (part[:1397] for part in _digits())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(200):
            rows = torch.randint(len(images), (64,))
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def digits_network() -> nn.Module:
    """The network, a copy that a test may change."""
    return copy.deepcopy(_trained())


def digits(rows: int, start: int = 1397) -> tuple[Tensor, Tensor]:
    """Images (rows, 1, 8, 8) and labels that the network was not trained on."""
    images, labels = _digits()
    return images[start : start + rows], labels[start : start + rows]
