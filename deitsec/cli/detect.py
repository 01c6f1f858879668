"""`deitsec detect`: a detector of adversarial images, trained, judged and attacked."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deitsec.cli.display import display
from deitsec.cli.options import (
    AsJson,
    Checkpoint,
    Data,
    Device,
    Eps,
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
    from deitsec.report import Defense

_SEEN = ("fgsm", "pgd")
_UNSEEN = ("mifgsm", "deepfool")
_ADAPTIVE = ("pgd:steps=100", "apgd:steps=100")


def detect(
    context: typer.Context,
    data: Data = "digits",
    model: Model = None,
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = False,
    head: Head = "average",
    seen: Annotated[
        list[str] | None,
        typer.Option(
            help=f"An attack to learn from; may be repeated. [default: {', '.join(_SEEN)}]",
            metavar="SPEC",
            show_default=False,
        ),
    ] = None,
    unseen: Annotated[
        list[str] | None,
        typer.Option(
            help=f"An attack held out of the training. [default: {', '.join(_UNSEEN)}]",
            metavar="SPEC",
            show_default=False,
        ),
    ] = None,
    adaptive: Annotated[
        list[str] | None,
        typer.Option(
            help="An attack on classifier and detector together. "
            f"[default: {', '.join(_ADAPTIVE)}]",
            metavar="SPEC",
            show_default=False,
        ),
    ] = None,
    false_positives: Annotated[
        float, typer.Option(help="Share of clean images that may be detected.")
    ] = 0.05,
    train_rows: Annotated[
        int, typer.Option(help="Training images that are attacked, at most.")
    ] = 4000,
    epochs: Annotated[int | None, typer.Option(help="Of the detector's training.")] = None,
    eps: Eps = None,
    per_class: PerClass = 10,
    image_size: ImageSize = None,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("detector"),
    as_json: AsJson = False,
) -> None:
    """Train a detector of adversarial images, and attack it by somebody who knows it.

    Writes detector.safetensors, detector.json, roc.png and defense.json (for `deitsec verify
    --defense`).
    """
    from deitsec.attacks import format_spec
    from deitsec.attacks.spec import parse_number
    from deitsec.cli.recipe_options import changed
    from deitsec.data import load_data
    from deitsec.defenses.detector import RejectingClassifier
    from deitsec.defenses.detector_checkpoint import save_detector
    from deitsec.defenses.detector_evaluation import check_kinds, evaluate_detector
    from deitsec.defenses.detector_training import DetectorConfig, train_detector
    from deitsec.report.defense_lines import detector_lines
    from deitsec.verification.defended import measured_defense
    from deitsec.verification.protocol import choose_rows
    from deitsec.verification.subject import obtain
    from deitsec.verification.suite import parse_attacks, suite_eps

    radius = None if eps is None else parse_number("--eps", eps)
    config = DetectorConfig(rows=train_rows, false_positives=false_positives, seed=seed)
    config = dataclasses.replace(config, fit=changed(config.fit, epochs=epochs))
    check_report_folder(out)
    with display() as shown:
        source = load_data(data, image_size=image_size)
        reach = suite_eps(source) if radius is None else radius
        learnt, held, knowing = (
            parse_attacks(given or default, eps=reach)
            for given, default in ((seen, _SEEN), (unseen, _UNSEEN), (adaptive, _ADAPTIVE))
        )
        check_kinds(learnt, held)
        request = asked_for(
            model,
            checkpoint,
            otherwise="small_cnn",
            seed=seed,
            device=device,
            pretrained=pretrained,
            head=head,
        )
        subject, origin = obtain(request, source, progress=shown.training)
        trained = train_detector(
            subject,
            source,
            learnt,
            config,
            rows_done=shown.rows,
            progress=lambda event: shown.training("training the detector", event),
        )
        report = evaluate_detector(
            RejectingClassifier(subject, trained.detector),
            source,
            choose_rows(source, per_class),
            seen=learnt,
            unseen=held,
            adaptive=knowing,
            seed=seed,
            progress=shown.rows,
        )
    document = {
        "model": {"name": subject.name, "origin": origin.kind, "training": origin.training},
        "data": {"uri": source.uri, "sha256": source.sha256},
        "seed": seed,
        "detector": trained.summary(),
        **report.summary(),
    }
    path = out / "detector.safetensors"
    save_detector(trained.detector, path, classifier=subject, training=trained.summary())
    defense = measured_defense(
        "detector",
        "detector of adversarial images",
        subject,
        source,
        detector_lines(document),
        settings={
            "seen": list(map(format_spec, learnt)),
            "unseen": list(map(format_spec, held)),
            "adaptive": list(map(format_spec, knowing)),
            "false_positives": false_positives,
            "train_rows": train_rows,
            "epochs": config.fit.epochs,
        },
        rows=report.rows,
        seed=seed,
        command=typed(context),
    )
    _write(out, document, defense)
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        _print(document, out)


def _write(out: Path, document: dict[str, Any], defense: "Defense") -> None:
    from deitsec.report.figure import plot_style, png_bytes
    from deitsec.report.roc_curves import roc_curves
    from deitsec.whole_files import replace_files

    with plot_style():
        picture = png_bytes(
            roc_curves(document["attacks"], false_positives=document["false_positive_rate"])
        )
    text = json.dumps(document, indent=2) + "\n"
    replace_files(
        {
            out / "roc.png": picture,
            out / "defense.json": defense.to_json().encode(),
            out / "detector.json": text.encode(),
        }
    )


def _print(document: dict[str, Any], out: Path) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    title = f"{document['model']['name']} on {document['data']['uri']}, {document['rows']} images"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("attack", overflow="fold")
    table.add_column("kind")
    for name in ("fools", "detected", "evades", "AUROC"):
        table.add_column(name, justify="right", no_wrap=True)
    for found in document["attacks"]:
        figures = (found["success_undefended"], found["detected"], found["success"], found["auroc"])
        table.add_row(
            found["spec"],
            found["kind"],
            *("-" if figure is None else f"{figure:.4f}" for figure in figures),
        )
    console = Console()
    console.print(table)
    console.print(
        f"clean images: {document['false_positive_rate']:.1%} detected, "
        f"{document['accuracy_accepted']:.1%} right and accepted; fools: wrong after the attack; "
        "evades: wrong and not detected; adaptive: run on classifier and detector together",
        highlight=False,
    )
    console.print(f"files: {out}", highlight=False)
