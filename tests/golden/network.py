"""The small network of the golden files, and how it is trained: seconds on the digits."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def network() -> nn.Sequential:
    """(B, 1, 8, 8) -> (B, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 16, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 digits of scikit-learn, in [0, 1]."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(np.asarray(images, np.float32) / 16)
    return pixels.reshape(-1, 1, 8, 8), torch.from_numpy(labels).long()


def stored_network() -> nn.Sequential:
    """The network as the golden files have it, trained."""
    stored = np.load(Path(__file__).with_name("digits.npz"))
    made = network()
    weights = {key.removeprefix("weight/"): stored[key] for key in stored if "weight/" in key}
    made.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return made.eval()


def trained(images: Tensor, labels: Tensor, steps: int = 400) -> nn.Sequential:
    """The network, trained on these images."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(images), (64,), generator=generator)
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
