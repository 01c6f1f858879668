"""Gaussian noise on the input at test time."""

from torch import nn

from deitsec.models import EOT
from deitsec.models.transforms import GaussianNoise


def noisy(model: nn.Module, *, std: float, number: int = 1, seed: int = 0) -> EOT:
    """A network that is shown an image with noise, and answers by the mean of `number` looks.

    As a defense it draws once; with many draws it is what an attacker who knows of it follows.

    Raises:
        ValueError: std not > 0, or number below 1.
    """
    return EOT(model, GaussianNoise(std=std), num_samples=number, seed=seed)
