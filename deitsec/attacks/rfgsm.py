"""FGSM after a random step."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deitsec import ops
from deitsec.attacks.draws import signs
from deitsec.attacks.pgd import PGD
from deitsec.types import Problem, Traits

_START = 2  # stream of the draws


@dataclass(frozen=True, kw_only=True, slots=True)
class RFGSM(PGD):
    """R+FGSM (Tramer et al., arXiv:1705.07204, section 3.4).

    The paper's convention: one random step `x' = x + noise * sign(N(0, I))`, then one of the
    gradient's sign at x' of the length that is left, `eps - noise`. It is PGD from a corner of a
    smaller cube; torchattacks takes 10 steps of 2/255 after noise of 2/255, which is
    `RFGSM(noise=2/255, alpha=2/255, steps=10)`.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        noise: size of the random step, alpha in the paper; None takes the paper's eps / 2.
        alpha: size of a gradient step; None takes (eps - noise) / steps.
        steps: number of gradient steps.
        random_start: without it, it is FGSM of a shorter step.
        restarts: how often a row is tried, each time from another corner.
    """

    name: ClassVar[str] = "rfgsm"
    traits: ClassVar[Traits] = Traits(norm="linf", iterative=False, deterministic=False)

    steps: int = 1
    noise: float | None = None

    def __post_init__(self) -> None:
        """Validate the configuration."""
        PGD.__post_init__(self)
        if not 0 < self.start_size <= self.eps or self.step_size <= 0:
            raise ValueError(
                f"{self.name}: noise must be > 0 and at most eps, less than it without an alpha; "
                f"got noise {self.start_size} with eps {self.eps}"
            )

    @property
    def start_size(self) -> float:
        """Size of the random step that will be used."""
        return self.eps / 2 if self.noise is None else self.noise

    @property
    def step_size(self) -> float:
        """Size of a gradient step that will be used."""
        return (self.eps - self.start_size) / self.steps if self.alpha is None else self.alpha

    def random_point(self, p: Problem) -> Tensor:
        """A corner of the cube of the random step, clipped to the box."""
        corner = signs(p, p.x, _START).to(p.x.dtype)
        return ops.linf_step(p.x, corner, p.x, self.start_size, self.eps)
