"""A network trained by its recipe, as a piece of a study."""

from dataclasses import replace
from typing import Any

from deitsec.data import DataSource
from deitsec.models import Classifier
from deitsec.studies.study import StudyRun
from deitsec.training import fit
from deitsec.training.recipes import new_model, recipe


def plain_network(
    run: StudyRun[Any],
    name: str,
    model: str,
    *,
    epochs: int = 0,
    seed: int | None = None,
    data: DataSource | None = None,
) -> Classifier:
    """A network trained on labels by the recipe, from the disk where it is done.

    Args:
        run: of a study.
        name: of the piece.
        model: of the network.
        epochs: of the training; 0 takes the recipe's.
        seed: of weights and training; None the run's.
        data: to train on, with the classes of the run's; None the run's.
    """
    source, seed = data or run.data, run.seed if seed is None else seed
    config = recipe(source, model, seed=seed).fit.with_epochs(epochs)
    # smoothed labels hide gradients, and lower every confidence that the lectures show
    config = replace(config, label_smoothing=0.0)
    return run.network(
        name,
        lambda: new_model(model, source, seed=seed).to(run.device),
        lambda network, **more: fit(network, source, config, **more),
    )
