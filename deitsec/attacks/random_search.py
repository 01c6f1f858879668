"""Random points of the ball: what breaks without looking for anything."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack, check_budget
from deitsec.attacks.draws import uniform
from deitsec.types import SHARED, Plan, Problem, Query, State, Traits

_POINT = 2  # stream of the points


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomSearchState(State):
    """How many points were drawn.

    Attributes:
        drawn: () int64.
    """

    drawn: Tensor = field(metadata=SHARED)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomSearch(Attack):
    """Random points of the L-infinity ball, in turn uniform and at its corners.

    It looks for nothing and breaks little. Where it breaks what an attack by gradients left
    standing, the gradients misled that attack (Athalye et al., arXiv:1802.00420, section 3.1).

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        points: how many are asked about.
    """

    name: ClassVar[str] = "random_search"
    traits: ClassVar[Traits] = Traits(norm="linf", needs="decision", deterministic=False)

    eps: float = 8 / 255
    points: int = 100

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps)
        if self.points < 1:
            raise ValueError(f"{self.name}: points must be at least 1, got {self.points}")

    def init(self, p: Problem) -> RandomSearchState:
        """Start at the first point."""
        drawn = torch.zeros((), dtype=torch.int64, device=p.x.device)
        return RandomSearchState(x=self._point(p, drawn), drawn=drawn)

    def plan(self) -> Plan:
        """Return the same step, repeated; the engine asks about the last point."""
        return [(self.step, self.points - 1)]

    def step(self, p: Problem, s: RandomSearchState, query: Query) -> RandomSearchState:
        """Ask about a point, and draw the next."""
        query.predict(s.x)
        drawn = s.drawn + 1
        return s.replace(x=self._point(p, drawn), drawn=drawn)

    def _point(self, p: Problem, drawn: Tensor) -> Tensor:
        offset = 2 * uniform(p, p.x, _POINT, drawn) - 1
        offset = torch.where(drawn % 2 == 1, offset.sign(), offset)
        # compared and clipped in the images' own dtype: within the ball to the last bit
        low, high = p.x - self.eps, p.x + self.eps
        moved = (p.x + self.eps * offset.to(p.x.dtype)).clamp(low, high)
        return moved.clamp(0, 1)
