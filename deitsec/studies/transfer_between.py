"""Transfer between kinds of models, as a piece of a study and as a section of its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import Attack
from deitsec.data import Subset, to_float
from deitsec.defenses import transfer_matrix
from deitsec.defenses.estimators import fit_bare
from deitsec.defenses.transfer import predict
from deitsec.models import wrap_sklearn
from deitsec.report.heatmap import heatmap
from deitsec.report.wording import joined
from deitsec.studies.soft_twins import soft_twin
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table

OWN = 0.5
"""Success on its own model below which an attack's images say nothing of transfer."""
FAILED = "attack failed on its own model: not a transfer figure"


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Models that are no networks, fitted once.

    Attributes:
        models: by the name that the page shows.
        twins: smooth ones to follow in their stead, of those that have one (`soft_twin`).
        learnt: training images that they learnt, the first of `train`.
        train: training images that there are.
    """

    models: Mapping[str, nn.Module]
    twins: Mapping[str, nn.Module]
    learnt: int
    train: int


def fit_kinds(
    run: StudyRun[Any], estimators: Sequence[str], *, rows: int = 0, twins: bool = True
) -> Kinds:
    """Fit estimators of scikit-learn.

    Args:
        run: of a study.
        estimators: of `ESTIMATORS`.
        rows: training images that they learn, the first; 0 takes all.
        twins: whether the smooth twin of one that has one is followed.
    """
    data = run.data
    assert data.train is not None
    train = len(data.train)
    if 0 < rows < train:
        data = replace(data, train=Subset(base=data.train, rows=torch.arange(rows)))
    shown = {name: f"{name} (scikit-learn)" if name == "logistic" else name for name in estimators}
    bare = {name: fit_bare(name, data, seed=run.seed) for name in estimators}
    followed = {
        shown[name]: twin
        for name in (estimators if twins else ())
        if (twin := soft_twin(name, data, seed=run.seed, estimator=bare[name])) is not None
    }
    return Kinds(
        models={
            shown[name]: wrap_sklearn(bare[name], image_shape=data.test.shape)
            for name in estimators
        },
        twins=followed,
        learnt=min(rows or train, train),
        train=train,
    )


def transfer_between(
    run: StudyRun[Any],
    networks: Mapping[str, nn.Module],
    kinds: Kinds,
    rows: Tensor,
    *,
    attack: Attack,
    queries: int,
) -> dict[str, Any]:
    """Make images on every model by one attack, and show them to every model.

    Args:
        run: of a study.
        networks: by name, trained.
        kinds: the others, fitted.
        rows: of the test split.
        attack: within an L-infinity radius.
        queries: of an image, on a source without gradients.
    """
    models: dict[str, nn.Module] = {**networks, **kinds.models}
    matrix = transfer_matrix(
        models,
        to_float(run.data.test.images(rows)),
        run.data.test.labels[rows],
        attack,
        surrogates=kinds.twins,
        seed=run.seed,
        queries=queries,
        progress=lambda name, done, total: run.shown.rows(f"attacking {name}", done, total),
    ).document()
    test = run.data.test
    every = to_float(test.images(torch.arange(len(test))))
    right = [
        (predict(model, every, seed=run.seed) == test.labels).double() for model in models.values()
    ]
    return {
        **matrix,
        "eps": attack.radius,
        "attack": attack.name,
        "twins": list(kinds.twins),
        "learnt": kinds.learnt,
        "train": kinds.train,
        "test_accuracy": [one.mean().item() for one in right],
        "test_rows": len(test),
    }


def failed_sources(matrix: Mapping[str, Any]) -> list[str]:
    """Sources whose attack fooled less than half of their own images."""
    return [
        name
        for place, name in enumerate(matrix["names"])
        if (matrix["rate"][place][place] or 0.0) < OWN
    ]


def transfer_section(matrix: Mapping[str, Any]) -> list[str]:
    """What was run on each source, the figure `transfer`, and the two tables."""
    specs = zip(matrix["names"], matrix["attacks"], strict=True)
    twins = matrix.get("twins", [])
    said = (
        "Images are made on the row's model and shown to "
        "the column's; the diagonal is the attack on the model itself. "
        + "; ".join(f"{name}: `{spec}`" for name, spec in specs)
        + ". A source without gradients is attacked by its answers"
    )
    if twins:
        said += (
            f", but for {joined(twins)}: there PGD follows a smooth twin (all neighbours by "
            "distance; votes by tanh), and the model itself judges"
        )
    if matrix.get("learnt", 0) < matrix.get("train", 0):
        said += (
            f". The models of scikit-learn learnt the first {matrix['learnt']:,} of "
            f"{matrix['train']:,} training images"
        )
    clean = (
        f"*clean: right* is of all {matrix['test_rows']:,} test images"
        if "test_rows" in matrix
        else f"*clean: right* is of the same {matrix['rows']} images"
    )
    failed = failed_sources(matrix)
    own = (
        f" On {joined(failed)} the attack fooled less than {share(OWN, 0)} of its own model's "
        "images: such a row says nothing of transfer."
        if failed
        else f" Every attack fooled at least {share(OWN, 0)} of its own model's images."
    )
    return [
        f"{said}. Shares are of those of {matrix['rows']} test images that the column's model has "
        f"right; {clean}.{own}\n\n![transfer](figure:transfer)\n",
        _table(matrix, "rate", "made on"),
        "Noise of the same size:\n",
        _table(matrix, "noise", "as large as on"),
    ]


def transfer_figure(matrix: Mapping[str, Any]) -> Any:
    """The rates, source by target."""
    names = [name.replace(" (scikit-learn)", " (skl)") for name in matrix["names"]]
    return heatmap(
        matrix["rate"], rows=names, columns=names, row_name="made on", column_name="shown to"
    )


def _table(matrix: Mapping[str, Any], what: str, corner: str) -> str:
    clean = matrix.get("test_accuracy", matrix["accuracy"])
    failed = failed_sources(matrix) if what == "rate" else []
    head = (corner, *matrix["names"], *(("",) if failed else ()))
    rows = [["clean: right", *(share(value, 1) for value in clean)]]
    rows += [
        [name, *("-" if value is None else share(value, 1) for value in row)]
        for name, row in zip(matrix["names"], matrix[what], strict=True)
    ]
    if failed:
        rows = [[*row, FAILED if row[0] in failed else ""] for row in rows]
    return table(head, rows)
