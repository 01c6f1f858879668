"""How much of an attack survives when the model is hidden: by its substitute, openly, by noise."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from deitsec.attacks import Attack
from deitsec.data import DataSource, balanced_rows, to_float
from deitsec.defenses.substitute import Progress, SubstituteAttack, Substituted, train_substitute
from deitsec.defenses.transfer import TransferMatrix, predict, transfer_matrix
from deitsec.models import Classifier
from deitsec.models.black_box import BlackBox


def attack_hidden(
    model: torch.nn.Module,
    oracle: BlackBox,
    substitute: Classifier,
    data: DataSource,
    attack: SubstituteAttack,
    attacks: Sequence[Attack],
    *,
    first: int = 10,
    per_class: int = 30,
    progress: Progress | None = None,
    told: Callable[[str, int, int], object] | None = None,
) -> dict[str, Any]:
    """Train a substitute by asking an oracle, and see which images of it fool the model.

    The first images are test images, which the model never learnt from; others of the test split
    measure.

    Args:
        model: what stands behind the oracle, to measure by: its answers here are on no bill.
        oracle: the same model as the attacker meets it.
        substitute: what is trained in place.
        data: its test split gives the images.
        attack: how the substitute is trained.
        attacks: what is run on the substitute, and on the model itself where it gives gradients.
        first: images of each class that the attacker starts from.
        per_class: images of each class that measure.
        progress: told of the training.
        told: called with (stage, rows done, rows in all) of the attacks.

    Returns:
        Plain values: `queries`, `stopped`, `rounds` (each with its `agreement`), `agreement`, the
        share of the images that measure on which substitute and model agree; `accuracy` of both;
        and `attacks`: of each its spec, `transfer` (of the rows that the model got right, those it
        gets wrong at the substitute's images), `white_box` (at its own), `noise` of the same size,
        and `on_substitute`, what the images do to the substitute itself.

    Raises:
        ValueError: too few test images of a class, and what `train_substitute` and
            `transfer_matrix` raise.
    """
    seeds, held = split_rows(data.test.labels, first, per_class, data.num_classes)
    images, labels = to_float(data.test.images(held)), data.test.labels[held]
    answers = predict(model, images)

    def agreement(number: int, trained: Classifier) -> float:
        return (predict(trained, images) == answers).double().mean().item()

    found = train_substitute(
        oracle,
        substitute,
        data.test.images(seeds),
        attack,
        watch=agreement,
        progress=progress,
    )
    both = {"model": model, "substitute": substitute}
    matrices = [
        transfer_matrix(both, images, labels, one, seed=attack.seed, progress=told)
        for one in attacks
    ]
    accuracy = dict(zip(both, matrices[0].accuracy, strict=True)) if matrices else None
    rounds = _rounds(found)
    return {
        "queries": found.queries,
        "stopped": found.stopped,
        "first_images": len(seeds),
        "rows": len(held),
        "rounds": rounds,
        "agreement": rounds[-1]["agreement"],
        "accuracy": accuracy,
        "attacks": [_attacked(matrix) for matrix in matrices],
    }


def _rounds(found: Substituted) -> list[dict[str, Any]]:
    """What happened in each round; what was watched is how far substitute and model agree."""
    rounds = [asdict(record) for record in found.rounds]
    for record in rounds:
        record["agreement"] = record.pop("watched")
    return rounds


def _attacked(matrix: TransferMatrix) -> dict[str, Any]:
    """One attack, of a matrix of the model and its substitute."""
    return {
        "spec": matrix.attacks[1],
        "transfer": matrix.rate[1][0],
        "on_substitute": matrix.rate[1][1],
        "noise": matrix.noise[1][0],
        "white_box": matrix.rate[0][0],
        "white_box_spec": matrix.attacks[0],
    }


def split_rows(
    labels: Tensor, first: int, per_class: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return rows to start from and rows to measure by, none in both, as many of each class.

    Raises:
        ValueError: a number below 1, or too few rows of a class.
    """
    if first < 1 or per_class < 1:
        raise ValueError(f"first and per_class must be >= 1, got {first} and {per_class}")
    seeds = balanced_rows(labels, first, num_classes)
    both = balanced_rows(labels, first + per_class, num_classes)
    return seeds, both[~torch.isin(both, seeds)]
