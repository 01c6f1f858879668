"""Several looks at an image, each from slightly elsewhere."""

from torch import nn

from deitsec.models import EOT
from deitsec.models.transforms import Shift


def glimpses(model: nn.Module, *, pixels: int = 2, number: int = 4, seed: int = 0) -> EOT:
    """Average the answers of a network to randomly shifted copies of an image.

    As a defense it draws `number` shifts; with many more it is what an attacker who knows of it
    follows (`deitsec.models.EOT`).

    Args:
        model: (B, C, H, W) images in [0, 1] -> (B, K) logits.
        pixels: by how many a copy is moved each way, at most; at least 1.
        number: copies of each image, at least 1.
        seed: of the draws outside an engine.

    Raises:
        ValueError: a number out of range.
    """
    return EOT(model, Shift(pixels=pixels), num_samples=number, seed=seed)
