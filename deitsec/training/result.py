"""What a training run says: while it runs, and when it is done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingEvent:
    """Where a run stands; a progress callback gets one every few steps and at each epoch's end.

    Attributes:
        epoch: the epoch, counted from 1.
        epochs: how many there are at most.
        step: steps of this epoch that are done.
        steps: steps of an epoch.
        metrics: loss (mean of the epoch so far) and lr; at the end of an epoch also
            validation_accuracy and validation_loss, when there are rows to validate on.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    metrics: Mapping[str, float]


Progress = Callable[[TrainingEvent], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """One epoch of a run.

    Attributes:
        epoch: counted from 1.
        train_loss: mean of the objective over the steps.
        validation_accuracy: in [0, 1], or None without validation; of adversarial training it is
            the accuracy under attack.
        validation_loss: mean cross-entropy on the validation rows, or None.
        lr: learning rate of the last step.
        seconds: wall time of training and validation.
        measured: what else was measured after the epoch, by name: the learning curves of
            adversarial training. Nothing of it picks weights.
        note: what a reader has to know of this epoch, why the run ended with it say, or None.
    """

    epoch: int
    train_loss: float
    validation_accuracy: float | None
    validation_loss: float | None
    lr: float
    seconds: float
    measured: Mapping[str, float] = field(default_factory=dict[str, float])
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What came out of a run; the model itself holds the weights of `best_epoch`.

    Attributes:
        history: one record an epoch, those before a resume included.
        best_epoch: the epoch whose weights were kept, counted from 1; 0 where the method ended the
            run in its first epoch, and the model holds the weights of the start.
        stopped_early: whether `patience` ended the run, or the method did; then the last record's
            `note` says why.
        config: the recipe, as a dict that JSON can say.
        seconds: wall time of all epochs, those before a resume included.
        num_train: rows that were trained on.
        num_validation: rows that picked the epoch.
    """

    history: tuple[EpochRecord, ...]
    best_epoch: int
    stopped_early: bool
    config: Mapping[str, Any]
    seconds: float
    num_train: int
    num_validation: int

    @property
    def best(self) -> EpochRecord:
        """The record of the best epoch.

        Raises:
            ValueError: if none was kept.
        """
        if self.best_epoch == 0:
            raise ValueError("no epoch was kept: the model holds the weights of the start")
        return self.history[self.best_epoch - 1]
