"""What a way of training decides; everything else of a run is the loop's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import cross_entropy

from deitsec.data import ImageSet
from deitsec.models import Classifier
from deitsec.training.evaluate import predict
from deitsec.training.result import EpochRecord

Objective = Callable[[Classifier, Tensor, Tensor, int], Tensor]
"""(model, images (B, C, H, W) in [0, 1], labels (B,), epoch from 1) -> scalar loss to descend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a step learns from, on the device of the model.

    Attributes:
        images: (B, C, H, W) float in [0, 1], augmented.
        labels: (B,) int64.
        rows: (B,) int64, their places in the training split: the identity of each image.
        epoch: counted from 1.
        update: changes of the weights since the run began, counted from 0.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    epoch: int
    update: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a method finds of the model after an epoch.

    Attributes:
        accuracy: on the validation rows, which picks the epoch; None without rows.
        loss: on the same rows, which tells equal accuracies apart.
        measured: as in `EpochRecord`.
        note: as in `EpochRecord`.
        stop: whether the run ends, and this epoch is not to be kept.
    """

    accuracy: float | None = None
    loss: float | None = None
    measured: Mapping[str, float] = field(default_factory=dict[str, float])
    note: str | None = None
    stop: bool = False


class Method:
    """A way of training: the loss of a batch, and how an epoch is judged.

    Attributes:
        replays: how many updates in a row are taken on each batch, >= 1.
    """

    replays: int = 1

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        """Return the scalar to descend; the model is in train mode, under the run's autocast."""
        raise NotImplementedError

    def after_backward(self) -> None:
        """Take what the method needs of the backward pass, before the weights change."""

    def judge(
        self, model: Classifier, train: ImageSet, rows: Tensor, history: Sequence[EpochRecord]
    ) -> Judgement:
        """Judge the model after an epoch.

        Args:
            model: in train mode; its mode is put back.
            train: the training split.
            rows: (n,) the validation rows of it, which were not trained on; maybe none.
            history: the epochs before this one.
        """
        if not len(rows):
            return Judgement()
        logits, labels = predict(model, train, rows), train.labels[rows]
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        return Judgement(accuracy=accuracy, loss=cross_entropy(logits, labels).item())

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs, by name: tensors with the rows of the batch first."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""


class ByObjective(Method):
    """The method that is nothing but the loss of a batch."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        """See `Method`."""
        return self._objective(model, batch.images, batch.labels, batch.epoch)


def as_method(objective: Objective | Method) -> Method:
    """The objective as a method, or the method itself."""
    return objective if isinstance(objective, Method) else ByObjective(objective)
