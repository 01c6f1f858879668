"""How a generator of perturbations is trained: everything that decides its outcome."""

from dataclasses import dataclass, field

from deitsec.attacks.attack import check_budget, check_least
from deitsec.attacks.perturbation_generator import Aim
from deitsec.training.config import FitConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """A recipe of `train_generator`.

    Attributes:
        fit: the loop; its validation rows pick the epoch, by the attack's success.
        eps: L-infinity radius, which the tanh at the generator's end is scaled to, in (0, 1].
        target: a class to aim at; `any` for a generator that is told with each image, which learns
            from random ones; None makes the labels lose.
        kappa: by how much a logit has to be ahead before an image has no more say, >= 0. On the
            digits (small_cnn, eps 26/255, 80 validation images, 20 to 30 epochs) 0 came to a
            success of 0.88, 1 to 0.99 and 10 to 0.90, where the images that show the class that all
            others are turned into stand.
        gan_weight: of the discriminator's part, the paper's alpha; 0 trains none.
        hinge_weight: of the perturbation's L2 length beyond `hinge`, the paper's beta. The radius
            bounds the perturbation already, so it is 0.
        hinge: L2 length up to which nothing is charged, the paper's c.
        width, blocks: of `GeneratorNetwork`.
        rows: training images to take, at most; None takes all.

    Raises:
        ValueError: a value out of its range.
    """

    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            epochs=20, batch_size=64, optimizer="adam", lr=2e-3, weight_decay=0.0, clip_grad=None
        )
    )
    eps: float = 8 / 255
    target: Aim = None
    kappa: float = 1.0
    gan_weight: float = 0.1
    hinge_weight: float = 0.0
    hinge: float = 0.0
    width: int = 8
    blocks: int = 4
    rows: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        name = "train_generator"
        check_budget(name, self.eps)
        weights = {"gan_weight": self.gan_weight, "hinge_weight": self.hinge_weight}
        check_least(name, 0, kappa=self.kappa, hinge=self.hinge, **weights)
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"{name}: rows must be at least 1, got {self.rows}")
        if self.fit.label_smoothing:
            raise ValueError(
                f"{name}: fit.label_smoothing must be 0, got {self.fit.label_smoothing}"
            )
        if isinstance(self.target, str) and self.target != "any":
            raise ValueError(f"{name}: target must be a class, any or None, got {self.target!r}")
