"""Transfer between kinds of models, as a piece of a study and as a section of its page."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from deitsec.attacks import PGD
from deitsec.data import to_float
from deitsec.defenses import fit_estimator, transfer_matrix
from deitsec.report.heatmap import heatmap
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table


def transfer_between(
    run: StudyRun[Any],
    networks: Mapping[str, nn.Module],
    estimators: Sequence[str],
    rows: Tensor,
    *,
    eps: float,
    queries: int,
) -> dict[str, Any]:
    """Make images on every model by PGD, and show them to every model.

    Args:
        run: of a study.
        networks: by name, trained.
        estimators: of scikit-learn, fitted here.
        rows: of the test split.
        eps: L-infinity radius.
        queries: of an image, on a source without gradients.
    """
    models: dict[str, nn.Module] = dict(networks)
    models |= {
        f"{name} (scikit-learn)" if name == "logistic" else name: fit_estimator(
            name, run.data, seed=run.seed
        )
        for name in estimators
    }
    return transfer_matrix(
        models,
        to_float(run.data.test.images(rows)),
        run.data.test.labels[rows],
        PGD(eps=eps, steps=20),
        seed=run.seed,
        queries=queries,
        progress=lambda name, done, total: run.shown.rows(f"attacking {name}", done, total),
    ).document()


def transfer_section(matrix: Mapping[str, Any]) -> list[str]:
    """What was run on each source, the figure `transfer`, and the two tables."""
    specs = zip(matrix["names"], matrix["attacks"], strict=True)
    return [
        "Images are made on the row's model and shown to "
        "the column's; the diagonal is the attack on the model itself. "
        + "; ".join(f"{name}: `{spec}`" for name, spec in specs)
        + ". A source without gradients is attacked by its answers, and those images stop at its "
        "own border sooner.\n\n![transfer](figure:transfer)\n",
        _table(matrix, "rate", "made on"),
        "Noise of the same size:\n",
        _table(matrix, "noise", "as large as on"),
    ]


def transfer_figure(matrix: Mapping[str, Any]) -> Any:
    """The rates, source by target."""
    names = matrix["names"]
    return heatmap(
        matrix["rate"], rows=names, columns=names, row_name="made on", column_name="shown to"
    )


def _table(matrix: Mapping[str, Any], what: str, corner: str) -> str:
    rows = [["clean: right", *(share(value, 1) for value in matrix["accuracy"])]]
    rows += [
        [name, *("-" if value is None else share(value, 1) for value in row)]
        for name, row in zip(matrix["names"], matrix[what], strict=True)
    ]
    return table((corner, *matrix["names"]), rows)
