"""The network that makes perturbations: encoder, residual blocks, decoder."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

_GROUP = 4  # channels that are normalised together


class GeneratorNetwork(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> perturbations of their shape in [-1, 1].

    The layers of Xiao et al. (arXiv:1801.02610): two convolutions of stride 2, residual blocks, and
    the way back. It takes images of any size, and its parameters do not depend on it. Where the
    paper normalises each channel of an image by itself, groups of channels are: the inner maps of a
    small image are a pixel or two. Maps are enlarged before a convolution, to the size that they
    had on the way in.

    Attributes:
        channels: C.
        width: channels of the outermost maps, a multiple of 4; the inner ones have 2 and 4 times as
            many. The paper has 8.
        blocks: residual blocks.
        classes: classes that it can aim at, each by a scale and a shift in every block; 0 aims at
            none, or always at the same.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, channels: int, *, width: int = 8, blocks: int = 4, classes: int = 0) -> None:
        """Draw the weights from the global generator."""
        super().__init__()
        if channels < 1 or classes < 0 or blocks < 0:
            raise ValueError(
                "a generator needs channels >= 1, blocks >= 0 and classes >= 0, got "
                f"{channels}, {blocks} and {classes}"
            )
        if width < _GROUP or width % _GROUP:
            raise ValueError(f"a generator's width must be a multiple of {_GROUP}, got {width}")
        self.channels, self.width, self.classes = channels, width, classes
        self.enter = _Layer(channels, width)
        self.down = nn.ModuleList(
            [_Layer(width, 2 * width, stride=2), _Layer(2 * width, 4 * width, stride=2)]
        )
        self.blocks = nn.ModuleList([_Block(4 * width, classes) for _ in range(blocks)])
        self.up = nn.ModuleList([_Layer(4 * width, 2 * width), _Layer(2 * width, width)])
        self.leave = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return the perturbations, (B, C, H, W) in [-1, 1].

        Args:
            images: (B, C, H, W) in [0, 1].
            classes: (B,) int64 whom to aim at; of a network that can, and only then.
        """
        maps = self.enter(2 * images - 1)
        sizes: list[torch.Size] = []
        for layer in self.down:
            sizes.append(maps.shape[-2:])
            maps = layer(maps)
        for block in self.blocks:
            maps = block(maps, classes)
        for layer, size in zip(self.up, reversed(sizes), strict=True):
            maps = layer(interpolate(maps, size=size, mode="nearest"))
        return self.leave(maps).tanh()


class _Layer(nn.Module):
    def __init__(self, inside: int, outside: int, *, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(outside // _GROUP, outside)

    def forward(self, maps: Tensor) -> Tensor:
        return relu(self.norm(self.convolution(maps)))


class _Block(nn.Module):
    """Two convolutions, added to what came in; the class scales and shifts between them."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(channels // _GROUP, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(channels // _GROUP, channels)
        self.aim = nn.Embedding(classes, 2 * channels) if classes else None

    def forward(self, maps: Tensor, classes: Tensor | None) -> Tensor:
        inner = self.first_norm(self.first(maps))
        if self.aim is not None:
            scale, shift = self.aim(classes)[:, :, None, None].chunk(2, 1)
            inner = inner * (1 + scale) + shift
        return maps + self.second_norm(self.second(relu(inner)))
