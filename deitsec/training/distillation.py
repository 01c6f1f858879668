"""Teaching a classifier by the answers of another one."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deitsec import ops
from deitsec.data import DataSource
from deitsec.models import Classifier, model_sha256
from deitsec.training.config import FitConfig
from deitsec.training.loop import Objective, run_epochs
from deitsec.training.modes import eval_mode, place_of
from deitsec.training.result import FitResult, Progress

METHODS = ("study", "soft", "hard")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """How a student learns from a teacher.

    Attributes:
        fit: the training recipe of the student. Labels are taken as they are, so its
            `label_smoothing` must be 0.
        method: `study`: first the teacher's softened answers alone, then the labels alone, as in
            the FGSM study of a distilled DeiT; `soft` and `hard`: labels and teacher at once, the
            teacher by its softened answers (Hinton et al., arXiv:1503.02531) or by its class
            (DeiT, arXiv:2012.12877). A student with two heads learns the labels with its class
            head and the teacher with its distillation head.
        temperature: divides the logits of both, > 0; not used by `hard`.
        alpha: weight of the teacher against the labels, in [0, 1]; not used by `study`.
        teacher_share: share of the epochs of `study` that go to the teacher, in [0, 1].

    Raises:
        ValueError: if a value is out of its range.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    method: Literal["study", "soft", "hard"] = "soft"
    temperature: float = 3.0
    alpha: float = 0.5
    teacher_share: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be > 0 and finite, got {self.temperature}")
        for name in ("alpha", "teacher_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.fit.label_smoothing:
            raise ValueError(
                f"fit.label_smoothing must be 0 in distillation, got {self.fit.label_smoothing}"
            )


def distill(
    student: Classifier,
    teacher: Classifier,
    data: DataSource,
    config: DistillConfig,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train a student in place on the answers of a teacher and the labels of `data.train`.

    The teacher answers each batch as the student sees it, augmented; it is not changed. Everything
    else is as in `fit`.

    Args:
        student: on the device to train on.
        teacher: on the same device, with as many classes.
        data: images in the shape that both take.
        config: how.
        out: folder of the state file, or None to write nothing.
        resume: go on from the state file in `out`; without one, start.
        progress: called with a `TrainingEvent` every few steps and at each epoch's end.

    Raises:
        ValueError: if student, teacher and data do not fit each other, or a run is to be resumed
            with another recipe, teacher, data or architecture.
        TrainingDiverged: if the loss or a weight stops being finite; the student then holds its
            last good weights.
    """
    check_pair(student, teacher)
    settings = {
        "method": config.method,
        "temperature": config.temperature,
        "alpha": config.alpha,
        "teacher_share": config.teacher_share,
        "teacher": {"name": teacher.name, "sha256": model_sha256(teacher)},
        **asdict(config.fit),
    }
    with eval_mode(teacher):
        return run_epochs(
            student,
            data,
            config.fit,
            _OBJECTIVES[config.method](teacher, config),
            settings=settings,
            out=None if out is None else Path(out),
            resume=resume,
            progress=progress,
        )


def check_pair(student: Classifier, teacher: Classifier) -> None:
    """Raise a ValueError for a student and a teacher that do not fit each other."""
    if student is teacher:
        raise ValueError("student and teacher must be two models, got one twice")
    if student.num_classes != teacher.num_classes:
        raise ValueError(
            "student and teacher must have the same classes, got "
            f"{student.num_classes} and {teacher.num_classes}"
        )
    if place_of(student) != place_of(teacher):
        raise ValueError(
            "student and teacher must be on one device, got "
            f"{place_of(student)} and {place_of(teacher)}"
        )


def _study(teacher: Classifier, config: DistillConfig) -> Objective:
    first_epochs = round(config.teacher_share * config.fit.epochs)

    def objective(student: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        logits = student(images).float()
        if epoch > first_epochs:
            return cross_entropy(logits, labels)
        return ops.distillation_loss(
            logits, answers_of(teacher, images), None, config.temperature, 1.0
        )

    return objective


def _both(teacher: Classifier, config: DistillConfig) -> Objective:
    mode: Literal["soft", "hard"] = "hard" if config.method == "hard" else "soft"
    temperature, alpha = config.temperature, config.alpha

    def one_head(student: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        taught = answers_of(teacher, images)
        return ops.distillation_loss(
            student(images).float(), taught, labels, temperature, alpha, mode
        )

    def two_heads(student: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        told = answers_of(teacher, images)
        by_label, by_teacher = student.forward_heads(images)
        taught = ops.distillation_loss(by_teacher.float(), told, None, temperature, 1.0, mode)
        return alpha * taught + (1 - alpha) * cross_entropy(by_label.float(), labels)

    def objective(student: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        return (two_heads if student.distilled else one_head)(student, images, labels, epoch)

    return objective


_OBJECTIVES: dict[str, Callable[[Classifier, DistillConfig], Objective]] = {
    "study": _study,
    "soft": _both,
    "hard": _both,
}


def answers_of(teacher: Classifier, images: Tensor) -> Tensor:
    """(B, K) logits of a teacher, without a graph."""
    with torch.no_grad():
        return teacher(images).float()
