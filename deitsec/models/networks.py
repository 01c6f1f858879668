"""The small networks of the papers: plain modules from normalised images (B, C, S, S) to logits."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def papernot_mnist(
    *, num_classes: int = 10, in_chans: int = 1, image_size: int = 28, dropout: float = 0.5
) -> nn.Module:
    """Build the MNIST network of defensive distillation (Papernot et al., arXiv:1511.04508).

    Two 3x3 convolutions of 32, pool, two of 64, pool, two dense layers of 200; without padding.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        image_size: side of the square images, >= 16.
        dropout: rate between the dense layers, in [0, 1).

    Raises:
        ValueError: if image_size < 16.
    """
    return _papernot(num_classes, in_chans, image_size, dropout, widths=(32, 64), dense=200)


def papernot_cifar10(
    *, num_classes: int = 10, in_chans: int = 3, image_size: int = 32, dropout: float = 0.5
) -> nn.Module:
    """Build the CIFAR-10 network of defensive distillation (Papernot, arXiv:1511.04508).

    Two 3x3 convolutions of 64, pool, two of 128, pool, two dense layers of 256; without padding.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        image_size: side of the square images, >= 16.
        dropout: rate between the dense layers, in [0, 1).

    Raises:
        ValueError: if image_size < 16.
    """
    return _papernot(num_classes, in_chans, image_size, dropout, widths=(64, 128), dense=256)


def mnist_dense(
    *,
    num_classes: int = 10,
    in_chans: int = 1,
    image_size: int = 28,
    width: int = 256,
    depth: int = 2,
    batch_norm: bool = False,
) -> nn.Module:
    """Build the dense network of the MNIST study: `depth` ReLU layers of `width` on the flat image.

    As `mnist_dense_bn` it has batch norm (arXiv:1502.03167) in every layer; that of the logits
    keeps one class from winning everywhere, which virtual adversarial training may come to.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        image_size: side of the square images, >= 1.
        width: units of a hidden layer.
        depth: number of hidden layers, >= 1.
        batch_norm: whether each of them is normalised before its ReLU, and the logits are.

    Raises:
        ValueError: if depth < 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be >= 1, got {depth}")
    widths = [in_chans * image_size**2, *(width for _ in range(depth)), num_classes]
    return _dense(widths, batch_norm=batch_norm)


def _dense(widths: Sequence[int], *, batch_norm: bool, noise: float = 0.0) -> nn.Module:
    """Dense layers from the first of `widths` to the last, with ReLU and noise between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for place, (before, after) in enumerate(pairwise(widths), start=2):
        layers.append(nn.Linear(before, after))
        if batch_norm:
            layers.append(nn.BatchNorm1d(after))
        if place < len(widths):
            layers.append(nn.ReLU())
            if noise:
                layers.append(HiddenNoise(noise))
    return nn.Sequential(*layers)


class HiddenNoise(nn.Module):
    """Gaussian noise on what passes, in train mode only.

    Args:
        std: its standard deviation, >= 0.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, hidden: Tensor) -> Tensor:
        """The values, each with noise of its own."""
        return hidden + self.std * torch.randn_like(hidden) if self.training else hidden


def vat_dense(
    *, num_classes: int = 10, in_chans: int = 1, image_size: int = 28, noise: float = 0.5
) -> nn.Module:
    """Build the dense network of virtual adversarial training on MNIST (arXiv:1704.03976).

    ReLU layers of 1,200, 600, 300 and 150 on the flat image, each with batch norm before it and
    noise after it, and batch norm on the logits, as in the authors' code (github.com/takerum/vat).
    The deviation of their noise was not at hand; 0.5 was chosen here.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        image_size: side of the square images, >= 1.
        noise: standard deviation of the noise on each hidden layer in training, >= 0.

    Raises:
        ValueError: if noise < 0.
    """
    if noise < 0:
        raise ValueError(f"noise must be >= 0, got {noise}")
    widths = [in_chans * image_size**2, 1200, 600, 300, 150, num_classes]
    return _dense(widths, batch_norm=True, noise=noise)


def logistic_regression(
    *, num_classes: int = 10, in_chans: int = 1, image_size: int = 28
) -> nn.Module:
    """Build a linear classifier on the flat image, on which attacks have closed-form answers.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        image_size: side of the square images, >= 1.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * image_size**2, num_classes))


def small_cnn(
    *, num_classes: int = 10, in_chans: int = 3, image_size: int = 32, width: int | None = None
) -> nn.Module:
    """Build a quick network with batch norm (arXiv:1502.03167), a teacher on 28 to 32 pixels.

    Two blocks of two 3x3 convolutions and a pool (`width`, then 2 `width` channels), a block of 4
    `width` channels, the mean over positions, one dense layer.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        image_size: side of the square images, >= 4; the weights do not depend on it.
        width: channels of the first block; None takes 16 for grey images and 32 for colour.

    Raises:
        ValueError: if image_size < 4.
    """
    _check_size("small_cnn", image_size, at_least=4)
    if width is None:
        width = 16 if in_chans == 1 else 32
    layers: list[nn.Module] = []
    channels = in_chans
    for block in ((width, width), (2 * width, 2 * width)):
        for out in block:
            layers += _conv_norm(channels, out)
            channels = out
        layers.append(nn.MaxPool2d(2))
    layers += _conv_norm(channels, 4 * width)
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)
    )


def _papernot(
    num_classes: int,
    in_chans: int,
    image_size: int,
    dropout: float,
    *,
    widths: tuple[int, int],
    dense: int,
) -> nn.Module:
    _check_size("papernot networks", image_size, at_least=16)
    layers: list[nn.Module] = []
    channels, side = in_chans, image_size
    for width in widths:
        layers += [
            nn.Conv2d(channels, width, 3),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels, side = width, (side - 4) // 2
    layers += [nn.Flatten(), nn.Linear(channels * side**2, dense), nn.ReLU(), nn.Dropout(dropout)]
    layers += [
        nn.Linear(dense, dense),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(dense, num_classes),
    ]
    return nn.Sequential(*layers)


def _conv_norm(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


def _check_size(name: str, image_size: int, *, at_least: int) -> None:
    if image_size < at_least:
        raise ValueError(
            f"{name} takes images of {at_least} pixels and more, got image_size={image_size}"
        )
