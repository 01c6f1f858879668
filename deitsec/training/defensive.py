"""Defensive distillation: a network trained at a temperature on the answers of one like it.

Papernot et al., "Distillation as a Defense to Adversarial Perturbations against Deep Neural
Networks", arXiv:1511.04508, section III. Both networks are trained with softmax(z / T), so that
their logits grow T times as large, and deployed at temperature 1, where such logits saturate the
softmax: gradients of probabilities then vanish. That is all the defense does; an attack on logits
does not notice (Carlini and Wagner, arXiv:1608.04644).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from deitsec import ops
from deitsec.data import DataSource
from deitsec.models import Classifier, model_sha256
from deitsec.training.config import FitConfig
from deitsec.training.distillation import answers_of, check_pair
from deitsec.training.loop import Objective, run_epochs
from deitsec.training.modes import eval_mode
from deitsec.training.result import FitResult, Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class DefensiveConfig:
    """How a network is trained at a temperature.

    Attributes:
        fit: the training recipe. Labels are taken as they are: its `label_smoothing` must be 0.
        temperature: T > 0, which divides the logits in training and never after it.

    Raises:
        ValueError: if a value is out of its range.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    temperature: float = 20.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be > 0 and finite, got {self.temperature}")
        if self.fit.label_smoothing:
            raise ValueError(
                f"fit.label_smoothing must be 0 in distillation, got {self.fit.label_smoothing}"
            )


def fit_at_temperature(
    model: Classifier,
    data: DataSource,
    config: DefensiveConfig,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train the first network F on labels, by the cross-entropy of softmax(z / T).

    Arguments, results and errors are those of `fit`.
    """
    temperature = config.temperature

    def objective(model: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        return cross_entropy(model(images).float() / temperature, labels)

    return _run(
        model, data, config, objective, {"method": "defensive-teacher"}, out, resume, progress
    )


def distill_at_temperature(
    student: Classifier,
    teacher: Classifier,
    data: DataSource,
    config: DefensiveConfig,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train the distilled network F^d on the answers softmax(z_F / T) of the first, at the same T.

    The loss is their cross-entropy less its minimum, KL(p || q) with p and q the answers at T of
    teacher and student, and its gradient in the student's logits is (q - p) / T (eq. 8).

    Arguments, results and errors are those of `distill`.
    """
    check_pair(student, teacher)
    temperature = config.temperature

    def objective(model: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        taught = ops.distillation_loss(
            model(images).float(), answers_of(teacher, images), None, temperature, 1.0
        )
        return taught / temperature**2  # the op weighs by T^2, which the paper does not

    settings = {
        "method": "defensive",
        "teacher": {"name": teacher.name, "sha256": model_sha256(teacher)},
    }
    with eval_mode(teacher):
        return _run(student, data, config, objective, settings, out, resume, progress)


def _run(
    model: Classifier,
    data: DataSource,
    config: DefensiveConfig,
    objective: Objective,
    settings: Mapping[str, Any],
    out: str | PathLike[str] | None,
    resume: bool,
    progress: Progress | None,
) -> FitResult:
    return run_epochs(
        model,
        data,
        config.fit,
        objective,
        settings={**settings, "temperature": config.temperature, **asdict(config.fit)},
        out=None if out is None else Path(out),
        resume=resume,
        progress=progress,
    )
