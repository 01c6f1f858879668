"""Hidden training data: images made on a network that learnt from other data of the same kind."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from deitsec.attacks import PGD
from deitsec.data import DataSource, Subset, to_float
from deitsec.defenses import transfer_matrix
from deitsec.studies.plain_network import plain_network
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table
from deitsec.training import predict
from deitsec.verification.protocol import choose_rows

# name of the piece -> (what it is, which half it learns, whether its weights are the defender's)
_NETWORKS: Mapping[str, tuple[str, int, bool]] = {
    "defender": ("the model itself", 0, True),
    "same-data": ("the same data, other weights", 0, False),
    "other-data": ("none of its data", 1, False),
}


def measure_hidden_data(
    run: StudyRun[Any], *, network: str, epochs: int, per_class: int, eps: float
) -> dict[str, Any]:
    """Train a model on half of the data, and attackers' on that half and on the other.

    Args:
        run: of a study.
        network: architecture of all.
        epochs: of each training; 0 takes the recipe's.
        per_class: test images of each class.
        eps: L-infinity radius of PGD.
    """
    halves = _halves(run.data, run.seed)
    networks = {
        name: plain_network(
            run,
            f"hidden-data-{name}",
            network,
            epochs=epochs,
            seed=run.seed if own else run.seed + 1,
            data=halves[half],
        )
        for name, (_, half, own) in _NETWORKS.items()
    }
    rows = choose_rows(run.data, per_class)

    def measured() -> dict[str, Any]:
        matrix = transfer_matrix(
            networks,
            to_float(run.data.test.images(rows)),
            run.data.test.labels[rows],
            PGD(eps=eps, steps=20),
            seed=run.seed,
            progress=lambda name, done, total: run.shown.rows(f"hidden data: {name}", done, total),
        )
        test = run.data.test
        right = [predict(one, test).argmax(1) == test.labels for one in networks.values()]
        return {
            "eps": eps,
            "rows": len(rows),
            "test_rows": len(test),
            "network": network,
            "known": [
                {
                    "name": name,
                    "words": words,
                    "accuracy": right[place].double().mean().item(),
                    "fooled": matrix.rate[place][0],
                    "noise": matrix.noise[place][0],
                }
                for place, (name, (words, _, _)) in enumerate(_NETWORKS.items())
            ],
        }

    return run.part("hidden-data", measured)


def hidden_data_table(found: Mapping[str, Any]) -> str:
    """What images fool the model, by what the attacker knew."""
    rows = [
        [one["words"], *(share(one[key], 1) for key in ("accuracy", "fooled", "noise"))]
        for one in found["known"]
    ]
    head = ("the attacker has", "accuracy of the attacker's", "the model is fooled", "by noise")
    return table(head, rows)


def _halves(data: DataSource, seed: int) -> tuple[DataSource, DataSource]:
    """Two sources whose training splits share no image, as many of each class in both."""
    assert data.train is not None
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train), generator=generator)
    order = order[data.train.labels[order].argsort(stable=True)]
    parts = (order[0::2].sort().values, order[1::2].sort().values)
    first, second = (replace(data, train=Subset(base=data.train, rows=rows)) for rows in parts)
    return first, second
