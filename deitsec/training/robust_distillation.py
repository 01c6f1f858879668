"""Distillation that hands robustness on: the student is attacked while it learns."""

import math
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deitsec import ops
from deitsec.data import DataSource
from deitsec.models import Classifier, model_sha256
from deitsec.training.adversarial_config import check_no_noise
from deitsec.training.config import FitConfig
from deitsec.training.distillation import answers_of, check_pair
from deitsec.training.inner_attack import InnerAttack
from deitsec.training.loop import run_epochs
from deitsec.training.method import Batch, Method
from deitsec.training.modes import eval_mode
from deitsec.training.result import FitResult, Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustDistillConfig:
    """How a student learns to withstand from a teacher that does.

    Attributes:
        fit: the training recipe of the student; its `label_smoothing` must be 0.
        temperature: divides the logits of both, > 0.
        alpha: weight of the teacher against the labels, in [0, 1].
        eps: L-infinity radius of the attack on the student, on images in [0, 1].
        steps: of that attack, >= 1.
        step_size: length of a step; None takes 2.5 eps / steps, at most eps.

    Raises:
        ValueError: if a value is out of its range.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    temperature: float = 1.0
    alpha: float = 0.9
    eps: float = 8 / 255
    steps: int = 7
    step_size: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be > 0 and finite, got {self.temperature}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}")
        if not 0 < self.eps <= 1:
            raise ValueError(f"eps must be in (0, 1] on images in [0, 1], got {self.eps}")
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be > 0 and finite, got {self.step_size}")
        check_no_noise(self.fit)
        if self.fit.label_smoothing:
            raise ValueError(
                f"fit.label_smoothing must be 0 in distillation, got {self.fit.label_smoothing}"
            )


def robust_distill(
    student: Classifier,
    teacher: Classifier,
    data: DataSource,
    config: RobustDistillConfig,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train a student in place by adversarially robust distillation.

    alpha T^2 KL(teacher(x) || student(x')) + (1 - alpha) CE(student(x), y), both softened by T in
    the first term, x' by PGD on the student (Goldblum et al., arXiv:1905.09747, eq. 4). The teacher
    sees clean images only. A student with two heads learns with their mean, which is deployed.

    Arguments, results and errors are those of `distill`.
    """
    check_pair(student, teacher)
    fit = asdict(config.fit)
    settings = {
        "method": "robust",
        "teacher": {"name": teacher.name, "sha256": model_sha256(teacher)},
        **{name: value for name, value in asdict(config).items() if name != "fit"},
        **fit,
    }
    with eval_mode(teacher):
        return run_epochs(
            student,
            data,
            config.fit,
            _Robust(teacher, config),
            settings=settings,
            out=None if out is None else Path(out),
            resume=resume,
            progress=progress,
        )


class _Robust(Method):
    """The loss of a batch; see `robust_distill`."""

    def __init__(self, teacher: Classifier, config: RobustDistillConfig) -> None:
        self._teacher = teacher
        self._config = config
        size = config.step_size or config.eps * min(1.0, 2.5 / config.steps)
        self._attack = InnerAttack(
            eps=config.eps,
            alpha=size,
            steps=config.steps,
            seed=config.fit.seed,
            channels_last=config.fit.channels_last,
        )

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        """See `Method`."""
        config = self._config
        adv = self._attack(model, batch.images, batch.labels, batch.rows, batch.update)
        taught = answers_of(self._teacher, batch.images)
        # one pass for both, so that batch norms see what they will be asked about
        logits = model(torch.cat([batch.images, adv])).float()
        clean, attacked = logits.chunk(2)
        learnt = ops.distillation_loss(attacked, taught, None, config.temperature, 1.0)
        return config.alpha * learnt + (1 - config.alpha) * cross_entropy(clean, batch.labels)
