"""Square in the L2 ball."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.draws import uniform
from deitsec.attacks.square_search import SearchState, SquareSearch
from deitsec.types import Problem, Traits

_TINY = 1e-12  # keeps an empty window from dividing by 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SquareL2(SquareSearch):
    """Square in the L2 ball (Andriushchenko et al., arXiv:1912.00049, algorithm 4).

    Each proposal takes the budget of one window and moves it to another, in the shape of two
    pyramids of opposite signs. The budget of a window is that of its own channel, as in the paper;
    AutoAttack takes that of all channels.

    Attributes:
        eps: L2 radius on images in [0, 1].
    """

    name: ClassVar[str] = "square_l2"
    traits: ClassVar[Traits] = Traits(norm="l2", needs="scores", deterministic=False)

    eps: float = 0.5

    def random_start(self, p: Problem) -> Tensor:
        """Five by five pairs of pyramids, or as many as fit where a side is longer."""
        rows, channels, height, width = p.x.shape
        size = max(1, min(height, width) // 5)
        down, across = height // size, width // size
        like = p.x.new_empty(rows, channels + 1, down, across, dtype=_wide(p.x))
        drawn = uniform(p, like, self.start_stream)
        pairs = oriented(size, drawn[:, :1, :, :, None, None] < 0.5, drawn)
        signed = torch.where(drawn[:, 1:, :, :, None, None] < 0.5, -pairs, pairs)
        tiled = signed.transpose(3, 4).reshape(rows, channels, down * size, across * size)
        top, left = (height - down * size) // 2, (width - across * size) // 2
        right, below = width - across * size - left, height - down * size - top
        delta = torch.nn.functional.pad(tiled, (left, right, top, below))
        return self._on_the_sphere(p.x, delta)

    def propose(self, p: Problem, s: SearchState, share: float) -> Tensor:
        """Budget of one random window moved to another."""
        rows, channels, height, width = p.x.shape
        size = window_size(share, height, width)
        delta = (s.x.to(_wide(p.x)) - p.x).flatten(2)
        drawn = uniform(p, delta.new_empty(rows, 5 + channels), self.step_stream, s.turn)
        at, at_other = (
            window_places(drawn[:, k : k + 2], size, height, width).expand(-1, channels, -1)
            for k in (0, 2)
        )
        unused = (self.eps**2 - delta.square().sum((1, 2), keepdim=True)).clamp_min(0)
        old = delta.gather(2, at)
        emptied = delta.scatter(2, at, 0.0)
        other = emptied.gather(2, at_other)  # without what both windows share
        held = old.square().sum(2, keepdim=True)
        budget = held + other.square().sum(2, keepdim=True) + unused / channels
        pairs = oriented(size, drawn[:, 4, None, None] < 0.5, delta).reshape(rows, 1, -1)
        signed = torch.where(drawn[:, 5:, None] < 0.5, -pairs, pairs)
        shape = signed + old / (held.sqrt() + _TINY)
        shape = shape / (shape.square().sum(2, keepdim=True).sqrt() + _TINY)
        moved = emptied.scatter(2, at_other, 0.0).scatter(2, at, shape * budget.sqrt())
        return self._on_the_sphere(p.x, moved.reshape(p.x.shape))

    def _on_the_sphere(self, clean: Tensor, delta: Tensor) -> Tensor:
        """The image in the direction of delta, eps away, clipped to the box."""
        length = delta.flatten(1).square().sum(1).sqrt().clamp_min(_TINY)
        moved = clean + delta * (self.eps / length)[:, None, None, None]
        return moved.clamp(0, 1).to(clean.dtype)


def window_size(share: float, height: int, width: int) -> int:
    """Side of the windows: odd, at least 3, and no longer than the image."""
    size = max(round(math.sqrt(share * height * width)), 3)
    longest = min(height, width)
    return min(size + 1 - size % 2, longest - (longest + 1) % 2)


def pyramid(height: int, width: int, like: Tensor) -> Tensor:
    """(height, width) of L2 norm 1, that falls in square rings from its middle.

    The sum of 1 / (k + 1)^2 over the squares of radius k around the middle that hold a pixel.
    """
    reach = max(height, width) // 2
    radius = torch.arange(reach + 1, device=like.device, dtype=like.dtype)
    held = (1 / (radius + 1).square()).flip(0).cumsum(0).flip(0)
    down = (torch.arange(height, device=like.device) - height // 2).abs()
    across = (torch.arange(width, device=like.device) - width // 2).abs()
    values = held[torch.maximum(down[:, None], across[None, :])]
    return values / values.square().sum().sqrt()


def pyramid_pair(size: int, like: Tensor) -> Tensor:
    """(size, size) of L2 norm 1: a pyramid above, and one of the other sign below."""
    above, below = pyramid(size // 2, size, like), pyramid(size - size // 2, size, like)
    pair = torch.cat([above, -below])
    return pair / pair.square().sum().sqrt()


def oriented(size: int, turned: Tensor, like: Tensor) -> Tensor:
    """The pair of pyramids, side by side where it is turned."""
    pair = pyramid_pair(size, like)
    return torch.where(turned, pair.mT, pair)


def window_places(drawn: Tensor, size: int, height: int, width: int) -> Tensor:
    """(B, 1, size * size) places of a window in the plane, from two draws of each row."""
    top = (drawn[:, 0] * (height - size + 1)).long().clamp_max(height - size)
    left = (drawn[:, 1] * (width - size + 1)).long().clamp_max(width - size)
    within = torch.arange(size, device=drawn.device)
    lines, columns = top[:, None] + within, left[:, None] + within
    return (lines[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None, :]


def _wide(images: Tensor) -> torch.dtype:
    return torch.promote_types(images.dtype, torch.float32)
