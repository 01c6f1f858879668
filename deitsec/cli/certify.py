"""`deitsec certify`: how far the answers of a classifier under Gaussian noise surely hold."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deitsec.cli.display import display
from deitsec.cli.options import (
    AsJson,
    BatchSize,
    Checkpoint,
    Data,
    Device,
    Head,
    ImageSize,
    Model,
    PerClass,
    Pretrained,
    Seed,
    check_report_folder,
    typed,
)
from deitsec.cli.subject import asked_for

if TYPE_CHECKING:
    from deitsec.defenses.certification import Certification
    from deitsec.report import Defense


def certify(
    context: typer.Context,
    data: Data = "digits",
    model: Model = None,
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = False,
    head: Head = "average",
    sigma: Annotated[
        float, typer.Option(help="Standard deviation of the noise, on images in [0, 1].")
    ] = 0.25,
    samples: Annotated[
        int, typer.Option(help="Noisy copies of each image that are counted; papers take 100000.")
    ] = 1000,
    select: Annotated[
        int,
        typer.Option(help="Noisy copies that pick each image's class, and judge attacked ones."),
    ] = 100,
    alpha: Annotated[float, typer.Option(help="Rate at which a certificate may be wrong.")] = 0.001,
    noise: Annotated[
        float | None,
        typer.Option(help="Noise that a model is trained with here. [default: sigma]"),
    ] = None,
    attack: Annotated[
        str,
        typer.Option(
            help="Run with and without knowledge of the noise; its eps is sigma where none is "
            "set. `none` runs none.",
            metavar="SPEC",
        ),
    ] = "pgd_l2:steps=20",
    per_class: PerClass = 10,
    image_size: ImageSize = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("certified"),
    as_json: AsJson = False,
) -> None:
    """Certify the L2 radius within which a classifier smoothed by noise keeps its answers.

    Without a checkpoint a model is trained under the same noise. Writes certified.json, rows.csv,
    certified-accuracy.png and defense.json (for `deitsec verify --defense`).
    """
    from deitsec.attacks import parse_spec
    from deitsec.data import load_data
    from deitsec.defenses.binomial import check_alpha
    from deitsec.defenses.certification import certify_rows, nominal_accuracy
    from deitsec.defenses.smoothed_evaluation import evaluate_smoothed
    from deitsec.defenses.smoothing import SmoothedClassifier, check_copies, check_sigma
    from deitsec.report.defense_lines import smoothing_lines
    from deitsec.verification.defended import measured_defense
    from deitsec.verification.protocol import choose_rows
    from deitsec.verification.subject import obtain

    if checkpoint is not None and noise is not None:
        raise ValueError(
            "--noise goes without --checkpoint: it is of a training, and a checkpoint is trained"
        )
    check_sigma(sigma)
    check_copies(select=select, samples=samples)
    check_alpha(alpha)
    run = None if attack == "none" else parse_spec(attack, eps=sigma)
    check_report_folder(out)
    with display() as shown:
        source = load_data(data, image_size=image_size)
        request = asked_for(
            model,
            checkpoint,
            otherwise="small_cnn",
            seed=seed,
            device=device,
            pretrained=pretrained,
            head=head,
            noise=sigma if noise is None else noise,
        )
        subject, origin = obtain(request, source, progress=shown.training)
        smoothed = SmoothedClassifier(subject, sigma, batch_size=batch_size, seed=seed)
        rows = choose_rows(source, per_class)
        found = certify_rows(
            smoothed,
            source,
            rows,
            n0=select,
            n=samples,
            alpha=alpha,
            progress=lambda done, total: shown.rows("certifying", done, total),
        )
        nominal = nominal_accuracy(smoothed, source, rows)
        attacked = run and evaluate_smoothed(smoothed, source, rows, run, votes=select, alpha=alpha)
    document = {
        "model": {"name": subject.name, "origin": origin.kind, "training": origin.training},
        "data": {"uri": source.uri, "sha256": source.sha256},
        "seed": seed,
        "accuracy_without_noise": nominal,
        **found.summary(),
        "attacked": attacked,
    }
    defense = measured_defense(
        "smoothing",
        "randomised smoothing",
        subject,
        source,
        smoothing_lines(document),
        settings={"sigma": sigma, "samples": samples, "select": select, "alpha": alpha},
        rows=len(rows),
        seed=seed,
        command=typed(context),
    )
    _write(out, found, document, defense)
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        _print(document, out)


def _write(out: Path, found: "Certification", document: dict[str, Any], defense: "Defense") -> None:
    from deitsec.report.figure import plot_style, png_bytes
    from deitsec.report.share_curves import share_curves
    from deitsec.whole_files import replace_files

    with plot_style():
        figure = share_curves(
            {f"certified, sigma {document['sigma']:g}": found.curve()},
            xlabel="L2 radius on images in [0, 1]",
            ylabel="certified accuracy",
            marks={"without noise": [(0.0, document["accuracy_without_noise"])]},
        )
        picture = png_bytes(figure)
    replace_files(
        {
            out / "rows.csv": found.table().encode(),
            out / "certified-accuracy.png": picture,
            out / "defense.json": defense.to_json().encode(),
            out / "certified.json": (json.dumps(document, indent=2) + "\n").encode(),
        }
    )


def _print(document: dict[str, Any], out: Path) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    name = document["model"]["name"]
    title = f"{name} on {document['data']['uri']}, {document['rows']} images"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("L2 radius", "certified accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in document["certified"]:
        table.add_row(f"{point['radius']:.4g}", f"{point['accuracy']:.4f}")
    console = Console()
    console.print(table)
    console.print(
        f"sigma {document['sigma']:g}, {document['samples']} noisy copies, "
        f"alpha {document['alpha']:g}: abstained on {document['abstained']:.1%}, average certified "
        f"radius {document['average_certified_radius']:.4g}; accuracy without noise "
        f"{document['accuracy_without_noise']:.4f}; {document['seconds']:.1f} s",
        highlight=False,
    )
    attacked = document["attacked"]
    if attacked is not None:
        console.print(
            f"{attacked['spec']}, judged by votes: {attacked['accuracy']:.4f} right clean, "
            f"{attacked['plain']:.4f} attacked without knowledge of the noise, "
            f"{attacked['adaptive']:.4f} with it",
            highlight=False,
        )
    console.print(f"files: {out}", highlight=False)
