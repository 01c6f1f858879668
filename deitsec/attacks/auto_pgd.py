"""What APGD is in every norm: its options, and how it asks for the loss that it climbs."""

from dataclasses import dataclass

from torch import Tensor

from deitsec.attacks.attack import Attack, check_budget, check_share
from deitsec.ops.classification_loss import LOSSES, TARGETED_LOSSES
from deitsec.types import Problem, Query


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoPGD(Attack):
    """Base of the APGD attacks (Croce and Hein, arXiv:2003.01690).

    Attributes:
        eps: radius of the ball in the norm of the attack, on images in [0, 1].
        steps: number of steps; the checkpoints follow from it.
        loss: what is climbed: `ce`, `margin`, `dlr`, or `targeted_dlr`, which aims at a class and
            so goes with num_targets, target or targets.
        restarts: how often a row is tried, each time from another random point.
        rho: share of the steps since the last checkpoint that must have raised the loss, else the
            step size is halved.
        eot_iter: how often a model that draws random numbers is asked at each point; gradient and
            loss are means, and success is told by the last.
    """

    eps: float
    steps: int = 100
    loss: str = "ce"
    restarts: int = 1
    rho: float = 0.75
    eot_iter: int = 1

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps, norm=self.traits.norm, steps=self.steps)
        check_share(self.name, "rho", self.rho)
        known = [*LOSSES, *TARGETED_LOSSES]
        if self.loss not in known:
            raise ValueError(
                f"{self.name}: loss must be one of {', '.join(known)}, got {self.loss!r}"
            )
        for what, value in (("restarts", self.restarts), ("eot_iter", self.eot_iter)):
            if value < 1:
                raise ValueError(f"{self.name}: {what} must be at least 1, got {value}")

    @property
    def num_restarts(self) -> int:
        """How often a row is tried at each of its targets."""
        return self.restarts

    def check_aim(self, p: Problem) -> None:
        """Raise a ValueError where the loss aims at a class and the run at none."""
        if self.loss in TARGETED_LOSSES and not p.targeted:
            raise ValueError(
                f"{self.name}: loss={self.loss} aims at a class; give num_targets=9, target= or "
                "targets"
            )

    def direction(self, p: Problem) -> float:
        """+1 where the loss is climbed, -1 where it is descended."""
        return 1.0 if self.loss in TARGETED_LOSSES else p.direction

    def ask(
        self, p: Problem, x: Tensor, query: Query, *, offer: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Gradient (B, C, H, W) of the loss at `x`, and the height (B,) that is climbed.

        The height is the loss where it is climbed, and minus the loss where it is descended; the
        gradient is that of the loss itself.
        """
        y, targets = (p.labels, p.y) if self.loss in TARGETED_LOSSES else (p.y, None)
        times = self.eot_iter
        answer = query.ask(x, y, self.loss, targets=targets, offer=offer and times == 1)
        grad, loss = answer.grad, answer.loss
        for number in range(2, times + 1):
            answer = query.ask(x, y, self.loss, targets=targets, offer=offer and number == times)
            grad, loss = grad + answer.grad, loss + answer.loss
        if times > 1:
            grad, loss = grad / times, loss / times
        return grad, self.direction(p) * loss
