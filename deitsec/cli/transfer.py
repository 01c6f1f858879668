"""`deitsec transfer`: do images made to fool one model fool another?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deitsec.cli.display import display
from deitsec.cli.options import (
    AsJson,
    BatchSize,
    Data,
    Device,
    Eps,
    ImageSize,
    PerClass,
    Seed,
    check_report_folder,
    choose_device,
    typed,
)

if TYPE_CHECKING:
    from deitsec.report import Defense


def transfer(
    context: typer.Context,
    data: Data = "digits",
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Weights of a model, with a model card; may be repeated."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model that is trained here and kept; may be repeated. [default: small_cnn, "
            "deit_micro and logistic_regression, where no checkpoint is given]",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    estimator: Annotated[
        list[str] | None,
        typer.Option(
            help="tree, forest, knn, svm or logistic of scikit-learn, fitted here; may be repeated."
        ),
    ] = None,
    attack: Annotated[
        str, typer.Option(help="pgd:steps=20; `deitsec list attacks` names them.", metavar="SPEC")
    ] = "pgd:steps=20",
    eps: Eps = None,
    queries: Annotated[
        int, typer.Option(help="Of an image, on a source that gives no gradients.", min=1)
    ] = 1000,
    per_class: PerClass = 10,
    image_size: ImageSize = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("transfer"),
    as_json: AsJson = False,
) -> None:
    """Attack each model and ask every model about the images: transfer.json and transfer.png.

    The diagonal is the attack on the model itself. Beside it stands noise of the same size. Of the
    first model, hidden from who has the others, defense.json tells `deitsec verify --defense`.
    """
    from deitsec.attacks import parse_spec
    from deitsec.attacks.spec import parse_number
    from deitsec.data import load_data, to_float
    from deitsec.defenses import ESTIMATORS, fit_estimator, transfer_matrix
    from deitsec.models import Classifier
    from deitsec.report.defense_lines import transfer_lines
    from deitsec.verification.defended import measured_defense
    from deitsec.verification.protocol import choose_rows
    from deitsec.verification.subject import ModelRequest, obtain
    from deitsec.verification.suite import suite_eps

    radius = None if eps is None else parse_number("--eps", eps)
    parse_spec(attack, eps=8 / 255 if radius is None else radius)
    check_report_folder(out)
    for name in estimator or ():
        if name not in ESTIMATORS:
            raise ValueError(f"--estimator must be one of {', '.join(ESTIMATORS)}, got {name!r}")
    named = model or ([] if checkpoint else ["small_cnn", "deit_micro", "logistic_regression"])
    with display() as shown:
        source = load_data(data, image_size=image_size)
        place = choose_device(device)
        models: dict[str, Any] = {}
        subjects: list[Classifier] = []
        requests = [
            ModelRequest(checkpoint=str(f), name=None, device=place) for f in checkpoint or ()
        ]
        requests += [ModelRequest(name=name, seed=seed, device=place) for name in named]
        for request in requests:
            subject, _ = obtain(request, source, progress=shown.training)
            models[_fresh(Path(request.checkpoint or subject.name).stem, models)] = subject
            subjects.append(subject)
        for name in estimator or ():
            models[_fresh(name, models)] = fit_estimator(name, source, seed=seed)
        rows = choose_rows(source, per_class)
        found = transfer_matrix(
            models,
            to_float(source.test.images(rows)),
            source.test.labels[rows],
            parse_spec(attack, eps=suite_eps(source) if radius is None else radius),
            seed=seed,
            queries=queries,
            batch_size=batch_size,
            progress=lambda name, done, total: shown.rows(f"attacking {name}", done, total),
        )
    document = {
        "data": {"uri": source.uri, "sha256": source.sha256},
        "seed": seed,
        **found.document(),
    }
    defense = measured_defense(
        "hidden-model",
        "hidden model, attacked by transfer",
        subjects[0],
        source,
        transfer_lines(document),
        settings={"attack": attack, "sources": list(found.names[1:]), "queries": queries},
        rows=found.rows,
        seed=seed,
        command=typed(context),
    )
    _write(out, document, defense)
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        _print(document, out)


def _fresh(name: str, taken: dict[str, Any]) -> str:
    """The name, numbered where it is taken."""
    number, fresh = 1, name
    while fresh in taken:
        number += 1
        fresh = f"{name} {number}"
    return fresh


def _write(out: Path, document: dict[str, Any], defense: "Defense") -> None:
    from deitsec.report.figure import plot_style, png_bytes
    from deitsec.report.heatmap import heatmap
    from deitsec.whole_files import replace_files

    names = document["names"]
    with plot_style():
        figure = heatmap(
            document["rate"], rows=names, columns=names, row_name="made on", column_name="asked"
        )
        picture = png_bytes(figure)
    text = json.dumps(document, indent=2) + "\n"
    replace_files(
        {
            out / "transfer.png": picture,
            out / "defense.json": defense.to_json().encode(),
            out / "transfer.json": text.encode(),
        }
    )


def _print(document: dict[str, Any], out: Path) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    names = document["names"]
    title = f"wrong at the images, of {document['rows']} of {document['data']['uri']}"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("made on", overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    table.add_row("clean, right", *(f"{value:.4f}" for value in document["accuracy"]))
    for name, rate, noise in zip(names, document["rate"], document["noise"], strict=True):
        table.add_row(name, *map(_share, rate))
        table.add_row("  noise of that size", *map(_share, noise), style="dim")
    console = Console()
    console.print(table)
    for name, spec in zip(names, document["attacks"], strict=True):
        console.print(f"{name}: {spec}", highlight=False)
    console.print(f"picture: {out / 'transfer.png'}", highlight=False)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
