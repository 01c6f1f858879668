"""Natural evolution strategies: a black-box attack on scores."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deitsec import ops
from deitsec.attacks.attack import check_budget
from deitsec.attacks.draws import normal
from deitsec.attacks.score_estimate import EstimateState, ScoreEstimate, aimed
from deitsec.types import Problem, Traits

_DIRECTION = 2  # stream of draws


@dataclass(frozen=True, kw_only=True, slots=True)
class NES(ScoreEstimate):
    """NES gradient estimates, and PGD along them (Ilyas et al., arXiv:1804.08598, algorithm 1).

    The gradient of the cross-entropy is estimated with antithetic normal draws, the mean of
    (f(x + delta v) - f(x - delta v)) v / (2 delta), and its signs are stepped along.

    Attributes:
        eps, steps, samples, delta: as in `ScoreEstimate`; the paper's n = 50 is 25 samples here,
            its sigma is delta.
        alpha: step size; None takes eps / 4.
    """

    name: ClassVar[str] = "nes"
    traits: ClassVar[Traits] = Traits(norm="linf", needs="scores", deterministic=False)

    samples: int = 25
    delta: float = 0.001
    alpha: float | None = None

    def __post_init__(self) -> None:
        """Validate the configuration."""
        ScoreEstimate.__post_init__(self)
        check_budget(self.name, self.eps, alpha=self.alpha)

    def direction(self, p: Problem, s: EstimateState) -> Tensor:
        """Normal draws."""
        return normal(p, s.x, _DIRECTION, s.clock)

    def objective(self, p: Problem, logits: Tensor) -> Tensor:
        """The cross-entropy."""
        return aimed(p, ops.cross_entropy_loss(logits, p.y)[0])

    def slope(self, change: Tensor, above: Tensor, below: Tensor, v: Tensor) -> Tensor:
        """The change along the direction."""
        return change * v / (2 * self.delta)

    def move(self, p: Problem, s: EstimateState, estimate: Tensor) -> EstimateState:
        """Step along the signs, projected on ball and box."""
        alpha = self.eps / 4 if self.alpha is None else self.alpha
        grad = estimate.to(s.x.dtype)
        return s.replace(x=ops.linf_step(s.x, grad, p.x, alpha, self.eps))
