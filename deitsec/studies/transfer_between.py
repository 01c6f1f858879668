"""Transfer between kinds of models, as a piece of a study and as a section of its page."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import PGD
from deitsec.data import to_float
from deitsec.defenses import fit_estimator, transfer_matrix
from deitsec.defenses.transfer import predict
from deitsec.report.heatmap import heatmap
from deitsec.report.wording import joined
from deitsec.studies.soft_twins import soft_twin
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table

OWN = 0.5
"""Success on its own model below which an attack's images say nothing of transfer."""
FAILED = "attack failed on its own model: not a transfer figure"


def transfer_between(
    run: StudyRun[Any],
    networks: Mapping[str, nn.Module],
    estimators: Sequence[str],
    rows: Tensor,
    *,
    eps: float,
    queries: int,
    twins: bool = False,
) -> dict[str, Any]:
    """Make images on every model by PGD, and show them to every model.

    Args:
        run: of a study.
        networks: by name, trained.
        estimators: of scikit-learn, fitted here.
        rows: of the test split.
        eps: L-infinity radius.
        queries: of an image, on a source without gradients.
        twins: whether PGD follows the smooth twin of an estimator that has one (`soft_twin`).
    """
    fitted = {name: fit_estimator(name, run.data, seed=run.seed) for name in estimators}
    shown = {name: f"{name} (scikit-learn)" if name == "logistic" else name for name in estimators}
    models: dict[str, nn.Module] = dict(networks)
    models |= {shown[name]: fitted[name] for name in estimators}
    followed = {
        shown[name]: twin
        for name in (estimators if twins else ())
        if (twin := soft_twin(name, run.data, seed=run.seed)) is not None
    }
    matrix = transfer_matrix(
        models,
        to_float(run.data.test.images(rows)),
        run.data.test.labels[rows],
        PGD(eps=eps, steps=20),
        surrogates=followed,
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
        "eps": eps,
        "twins": list(followed),
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
