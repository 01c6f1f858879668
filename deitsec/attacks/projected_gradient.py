"""What projected gradient descent is in every norm: a random start and one step, repeated."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from deitsec.attacks.attack import Attack, check_budget
from deitsec.types import Plan, Problem, Query, State


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectedGradient(Attack):
    """Base of the projected gradient attacks (Madry et al., arXiv:1706.06083).

    Attributes:
        eps: radius of the ball in the norm of the attack, on images in [0, 1].
        alpha: step size; what None takes is the attack's to say.
        steps: number of steps.
        random_start: whether to start at a uniform point of the ball instead of the image.
        restarts: how often a row is tried, each time from another point.
    """

    eps: float
    alpha: float | None = None
    steps: int = 10
    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps, norm=self.traits.norm, alpha=self.alpha, steps=self.steps)
        if self.restarts < 1:
            raise ValueError(f"{self.name}: restarts must be at least 1, got {self.restarts}")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                f"{self.name}: restarts={self.restarts} needs random_start; without it every try "
                "is the same"
            )

    @property
    def num_restarts(self) -> int:
        """How often a row is tried at each of its targets."""
        return self.restarts

    @property
    @abstractmethod
    def step_size(self) -> float:
        """Step size that will be used."""

    @abstractmethod
    def random_point(self, p: Problem) -> Tensor:
        """(B, C, H, W) a random point of each row's ball, clipped to the box."""

    @abstractmethod
    def step(self, p: Problem, s: State, query: Query) -> State:
        """Take one step."""

    def init(self, p: Problem) -> State:
        """Start at the image, or at a random point of its ball."""
        return State(x=self.random_point(p) if self.random_start else p.x)

    def plan(self) -> Plan:
        """Return the same step, repeated."""
        return [(self.step, self.steps)]
