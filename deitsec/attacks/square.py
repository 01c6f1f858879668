"""Square in the L-infinity ball."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deitsec import ops
from deitsec.attacks.draws import signs
from deitsec.attacks.square_search import SearchState, SquareSearch
from deitsec.types import Problem, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class Square(SquareSearch):
    """Square in the L-infinity ball (Andriushchenko et al., arXiv:1912.00049, algorithm 3).

    Starts at vertical stripes; each proposal moves a square window, channel by channel, to one side
    of the ball. Every image has windows and signs of its own, as in the paper; AutoAttack draws one
    for the whole batch, and never one at the last line or column, where the paper's end.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
    """

    name: ClassVar[str] = "square"
    traits: ClassVar[Traits] = Traits(norm="linf", needs="scores", deterministic=False)

    eps: float = 8 / 255

    def random_start(self, p: Problem) -> Tensor:
        """Vertical stripes of width 1, each at one side of the ball."""
        stripes = self.eps * signs(p, p.x[:, :, :1], self.start_stream)
        return (p.x + stripes).clamp(0, 1).to(p.x.dtype)

    def propose(self, p: Problem, s: SearchState, share: float) -> Tensor:
        """A random window of each row moved to one side of the ball."""
        height, width = p.x.shape[2:]
        size = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        return ops.square_window(
            s.x, p.x, p.sample_ids, s.turn, size, self.eps, p.seed, self.step_stream
        )
