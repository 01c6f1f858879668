"""Square in the L1 ball."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec import ops
from deitsec.attacks.draws import uniform
from deitsec.attacks.square_l2 import oriented, window_places, window_size
from deitsec.attacks.square_search import SearchState, SquareSearch
from deitsec.types import Problem, Traits

_TINY = 1e-12  # keeps an empty window from dividing by 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SquareL1(SquareSearch):
    """Square in the L1 ball, as AutoAttack in L1 runs it (arXiv:2103.01208, section 5).

    The proposals are those of L2 with lengths in L1: the budget of two windows goes to the first,
    in the shape of two pyramids of opposite signs. What comes of it is projected on the
    intersection of ball and box, which leaves more of the budget to use than clipping does.

    Attributes:
        eps: L1 radius on images in [0, 1].
    """

    name: ClassVar[str] = "square_l1"
    traits: ClassVar[Traits] = Traits(norm="l1", needs="scores", deterministic=False)

    eps: float = 12.0

    def random_start(self, p: Problem) -> Tensor:
        """Pairs of pyramids side by side, projected."""
        rows, channels, height, width = p.x.shape
        size = max(1, min(height, width) // 5)
        down, across = height // size, width // size
        wide = torch.promote_types(p.x.dtype, torch.float32)
        like = p.x.new_empty(rows, channels + 1, down, across, dtype=wide)
        drawn = uniform(p, like, self.start_stream)
        pairs = oriented(size, drawn[:, :1, :, :, None, None] < 0.5, drawn)
        signed = torch.where(drawn[:, 1:, :, :, None, None] < 0.5, -pairs, pairs)
        tiled = signed.transpose(3, 4).reshape(rows, channels, down * size, across * size)
        right, below = width - across * size, height - down * size
        edges = (right // 2, right - right // 2, below // 2, below - below // 2)
        return self._project(p, torch.nn.functional.pad(tiled, edges))

    def propose(self, p: Problem, s: SearchState, share: float) -> Tensor:
        """Budget of one random window moved to another."""
        rows, channels, height, width = p.x.shape
        size = window_size(share, height, width)
        wide = torch.promote_types(p.x.dtype, torch.float32)
        delta = (s.x.to(wide) - p.x).flatten(2)
        drawn = uniform(p, delta.new_empty(rows, 5 + channels), self.step_stream, s.turn)
        at, at_other = (
            window_places(drawn[:, k : k + 2], size, height, width).expand(-1, channels, -1)
            for k in (0, 2)
        )
        unused = (self.eps - delta.abs().sum((1, 2), keepdim=True)).clamp_min(0)
        old = delta.gather(2, at)
        emptied = delta.scatter(2, at, 0.0)
        other = emptied.gather(2, at_other)  # without what both windows share
        held = old.abs().sum(2, keepdim=True)
        # each channel may use what is there for all: the projection takes off what is too much
        budget = unused + channels * (held + other.abs().sum(2, keepdim=True))
        pairs = oriented(size, drawn[:, 4, None, None] < 0.5, delta).reshape(rows, 1, -1)
        signed = torch.where(drawn[:, 5:, None] < 0.5, -pairs, pairs)
        shape = signed + old / (held + _TINY)
        shape = shape / (shape.abs().sum(2, keepdim=True) + _TINY)
        moved = emptied.scatter(2, at_other, 0.0).scatter(2, at, shape * budget)
        return self._project(p, moved.reshape(p.x.shape))

    def _project(self, p: Problem, delta: Tensor) -> Tensor:
        return ops.l1_projection((p.x + delta).to(p.x.dtype), p.x, self.eps)
