"""How a training run goes: everything that decides its outcome, apart from model and data."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

from deitsec.training.augment import Augmentation

SCHEDULES = ("cosine", "step", "constant")


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """A training recipe; `deitsec.training.recipe` has the ones that were tried.

    Attributes:
        epochs: passes over the training rows.
        batch_size: images a step. The short batch at an epoch's end is left out.
        optimizer: a name of `timm.optim.create_optimizer_v2`, such as adamw or sgd.
        lr: peak learning rate.
        weight_decay: on matrices and kernels; biases, norms and embeddings go without.
        momentum: of optimizers that have one.
        schedule: cosine (down to 0), step (times `decay_rate` every `decay_epochs`) or constant,
            updated at every step.
        decay_epochs: epochs between two steps of the step schedule.
        decay_rate: factor of the step schedule.
        warmup_epochs: epochs over which the rate first rises linearly from 0; may be a fraction.
        label_smoothing: share of each label that is spread over all classes, in [0, 1).
        clip_grad: largest norm of the gradient of all weights, or None.
        precision: fp32, or bf16 by autocast (weights and optimizer stay fp32). fp32 is the default
            on every device and in every recipe: on a CPU bf16 is the slower of the two for small
            networks (deit_micro, 64 images of 3 x 32 x 32, forward and backward on one thread of an
            AMD EPYC with avx512_bf16, PyTorch 2.15: 55 ms in fp32, 68 ms in bf16).
        channels_last: memory layout of convolutions: faster on most CPUs and on tensor cores. The
            model is brought back to the contiguous layout.
        threads: CPU threads of the run, or None for PyTorch's number. Steps of a few small images
            are too short to share: waiting for each other costs the threads more than they save.
        augmentation: moves of the images, or None for the images as they are.
        validation: share of the training rows that is kept out to pick the best epoch, in [0, 0.5].
            With 0 the last epoch is kept, and `patience` must be None.
        patience: epochs without a better validation result before the run stops, or None.
        seed: of the split, the order, the augmentation and dropout. New weights are drawn by the
            caller.
        save_every: steps between two writes of the state file, or None to write it at the end of
            each epoch only. It decides how much an interrupted run has to do again, and nothing
            else: a run may be resumed with another one.

    Raises:
        ValueError: if a value is out of its range.
    """

    epochs: int = 10
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    decay_epochs: int = 10
    decay_rate: float = 0.95
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    clip_grad: float | None = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    threads: int | None = None
    augmentation: Augmentation | None = None
    validation: float = 0.1
    patience: int | None = None
    seed: int = 0
    save_every: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "batch_size", "decay_epochs", "patience", "threads", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        for name in ("lr", "decay_rate", "clip_grad"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be > 0 and finite, got {value}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay must be >= 0 and finite, got {self.weight_decay}")
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule}")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(
                f"warmup_epochs must be in [0, epochs={self.epochs}], got {self.warmup_epochs}"
            )
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        if not 0 <= self.validation <= 0.5:
            raise ValueError(f"validation must be in [0, 0.5], got {self.validation}")
        if self.patience is not None and self.validation == 0:
            raise ValueError("patience needs rows to validate on: give validation > 0")

    def with_epochs(self, epochs: int | None) -> Self:
        """The same recipe of another length; the warmup keeps its share of it.

        Args:
            epochs: >= 1; None or 0 leaves the recipe as it is.

        Raises:
            ValueError: fewer.
        """
        if not epochs:
            return self
        warmup = max(0.0, self.warmup_epochs * epochs / self.epochs)
        return replace(self, epochs=epochs, warmup_epochs=warmup)
