"""The train and eval mode of a model, changed for a while and put back module by module."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def mode_kept(module: nn.Module) -> Generator[None, None, None]:
    """Put every submodule's mode back at the end, whatever happens."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def eval_mode(module: nn.Module) -> Generator[None, None, None]:
    """Run in eval mode, and put every submodule's mode back at the end."""
    with mode_kept(module):
        module.eval()
        yield


def place_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter; the CPU if it has none."""
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def weights_frozen(module: nn.Module) -> Generator[None, None, None]:
    """Run with no trainable weight, and put requires_grad back at the end."""
    trainable = [weight for weight in module.parameters() if weight.requires_grad]
    try:
        for weight in trainable:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in trainable:
            weight.requires_grad_(True)


@contextmanager
def frozen(module: nn.Module) -> Generator[None, None, None]:
    """Run in eval mode and with no trainable weight, and put both back at the end.

    What an attack within a training step wants: no gradient of a weight is computed, and the
    running statistics of batch norms stay as they are.
    """
    with eval_mode(module), weights_frozen(module):
        yield
