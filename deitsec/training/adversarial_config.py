"""How a model is trained against attacks."""

import math
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, get_args

from deitsec.training.config import FitConfig
from deitsec.training.inner_attack import InnerNorm

AdversarialMethod = Literal["mixture", "pgd", "trades", "fast", "free"]
METHODS: tuple[AdversarialMethod, ...] = get_args(AdversarialMethod)

# steps of the papers; the others take one by their nature
_STEPS = {"pgd": 7, "trades": 10}


def check_no_noise(fit: FitConfig) -> None:
    """Refuse noise where images are attacked, since it takes them out of the box of the attack.

    Raises:
        ValueError: there is some.
    """
    if fit.augmentation is not None and fit.augmentation.noise > 0:
        raise ValueError(
            f"fit.augmentation.noise must be 0 in training against attacks, which stay in [0, 1], "
            f"got {fit.augmentation.noise} (--noise): leave it out"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversarialConfig:
    """A recipe of adversarial training.

    Attributes:
        fit: the training recipe. Its validation rows are attacked, and the accuracy under attack
            picks the epoch.
        method: `mixture`: clean images and FGSM's, weighted (Goodfellow et al., arXiv:1412.6572,
            section 6); `pgd`: images of PGD alone (Madry et al., arXiv:1706.06083); `trades`: clean
            images, and the divergence between the answers to them and to attacked ones (Zhang et
            al., arXiv:1901.08573); `fast`: FGSM from a random start (Wong et al.,
            arXiv:2001.03994); `free`: each backward pass gives the step of the weights and that of
            the images (Shafahi et al., arXiv:1904.12843).
        norm: linf or l2.
        eps: radius, on images in [0, 1].
        steps: of the attack within a training step; None takes 7 for `pgd` and 10 for `trades`. The
            other methods take one.
        alpha: length of a step of the attack; None takes 2.5 eps / steps for `pgd` and `trades`,
            1.25 eps for `fast`, eps for `mixture` and `free`.
        clean_weight: weight of the clean images in `mixture`, in [0, 1]; the paper's alpha.
        beta: weight of the divergence in `trades`, > 0; the paper's 1 / lambda.
        replays: updates that `free` takes on each batch, >= 1; the paper's m. An epoch costs so
            many times a clean one.
        overfit_gap: `fast` is stopped once its accuracy under PGD is more than this below both its
            best and that under FGSM (catastrophic overfitting), in (0, 1]; None never stops it. The
            rows are those of the validation.
        watch_steps: steps of the PGD, from a random start, that judges epochs and draws the curves.
        curve_every: epochs between two points of the learning curves (clean and attacked accuracy
            on training and test images), or None for no curve. The test images are only measured.
        curve_rows: images of each split that a point is measured on, at most.

    Raises:
        ValueError: if a value is out of its range.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    method: AdversarialMethod = "pgd"
    norm: InnerNorm = "linf"
    eps: float = 8 / 255
    steps: int | None = None
    alpha: float | None = None
    clean_weight: float = 0.5
    beta: float = 6.0
    replays: int = 8
    overfit_gap: float | None = 0.2
    watch_steps: int = 10
    curve_every: int | None = 1
    curve_rows: int = 200

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.method not in METHODS:
            (near,) = get_close_matches(str(self.method), METHODS, n=1, cutoff=0.0)
            raise ValueError(
                f"method must be one of {', '.join(METHODS)}, got {self.method!r}: "
                f"the nearest name is {near!r}"
            )
        if self.norm not in get_args(InnerNorm):
            raise ValueError(f"norm must be linf or l2, got {self.norm!r}")
        self._check_attack()
        check_no_noise(self.fit)
        if not 0 <= self.clean_weight <= 1:
            raise ValueError(f"clean_weight must be in [0, 1], got {self.clean_weight}")
        for name in ("replays", "watch_steps", "curve_every", "curve_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.overfit_gap is not None and not 0 < self.overfit_gap <= 1:
            raise ValueError(f"overfit_gap must be in (0, 1], got {self.overfit_gap}")
        if self.method == "fast" and self.overfit_gap is not None and not self.fit.validation:
            raise ValueError(
                "fast watches itself on validation rows, and fit.validation is 0: give some, "
                "or overfit_gap=None to train unwatched"
            )

    def _check_attack(self) -> None:
        for name in ("eps", "alpha", "beta"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be > 0 and finite, got {value}")
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(f"eps must be in (0, 1] on images in [0, 1], got {self.eps}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")
        if self.steps not in (None, 1) and self.method not in _STEPS:
            raise ValueError(
                f"steps must be 1 for {self.method}, got {self.steps}: pgd and trades take more"
            )

    @property
    def num_steps(self) -> int:
        """Steps of the attack that will be taken."""
        return _STEPS.get(self.method, 1) if self.steps is None else self.steps

    @property
    def step_size(self) -> float:
        """Length of a step that will be taken."""
        if self.alpha is not None:
            return self.alpha
        if self.method in _STEPS:
            # one step as in FGSM; several can cross the ball and turn back
            return self.eps * min(1.0, 2.5 / self.num_steps)
        return self.eps * (1.25 if self.method == "fast" else 1.0)

    def settings(self) -> dict[str, Any]:
        """What decides the weights, as plain values; what the method does not use is left out."""
        used: dict[str, tuple[str, ...]] = {
            "mixture": ("clean_weight",),
            "trades": ("beta",),
            "fast": ("overfit_gap",),
            "free": ("replays",),
        }
        return {
            "method": self.method,
            "norm": self.norm,
            "eps": self.eps,
            "steps": self.num_steps,
            "alpha": self.step_size,
            "watch_steps": self.watch_steps,
            **{name: getattr(self, name) for name in used.get(self.method, ())},
        }
