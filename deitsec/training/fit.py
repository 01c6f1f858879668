"""Training a classifier on labels."""

from dataclasses import asdict
from os import PathLike
from pathlib import Path

from torch import Tensor
from torch.nn.functional import cross_entropy

from deitsec.data import DataSource
from deitsec.models import Classifier
from deitsec.training.config import FitConfig
from deitsec.training.loop import run_epochs
from deitsec.training.result import FitResult, Progress


def fit(
    model: Classifier,
    data: DataSource,
    config: FitConfig,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train a classifier in place on the cross-entropy with the labels of `data.train`.

    The model ends with the weights of the epoch that did best on the validation rows, which are
    taken from the training split; the test split is never read. With `out`, everything that a run
    needs to go on is written there after each epoch, whole or not at all: an interrupted run that
    is resumed on the same machine gives the same weights as one that was not. The model's mode, its
    `requires_grad` flags and the global random streams are left as found.

    Args:
        model: on the device to train on.
        data: images in the shape that the model takes, with as many classes.
        config: the recipe.
        out: folder of the state file, or None to write nothing.
        resume: go on from the state file in `out`; without one, start.
        progress: called with a `TrainingEvent` every few steps and at each epoch's end.

    Raises:
        ValueError: if model and data do not fit, or a run is to be resumed with another recipe,
            data or architecture; the message names each difference.
        TrainingDiverged: if the loss or a weight stops being finite; the model then holds its last
            good weights.
    """

    def objective(model: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        return cross_entropy(model(images), labels, label_smoothing=config.label_smoothing)

    return run_epochs(
        model,
        data,
        config,
        objective,
        settings={"method": "fit", **asdict(config)},
        out=None if out is None else Path(out),
        resume=resume,
        progress=progress,
    )
