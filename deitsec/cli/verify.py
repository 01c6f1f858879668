"""`deitsec verify`: how safe is this classifier?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from deitsec.cli.display import display, summary
from deitsec.cli.options import (
    AsJson,
    BatchSize,
    Checkpoint,
    Compile,
    Data,
    Device,
    Eps,
    Head,
    ImageSize,
    Model,
    PerClass,
    Precision,
    Pretrained,
    Seed,
    check_report_folder,
)
from deitsec.cli.subject import asked_for

GATE_FAILED = 3


def verify(
    data: Data = "digits",
    model: Model = None,
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = False,
    head: Head = "average",
    attack: Annotated[
        list[str] | None,
        typer.Option(help="pgd:eps=8/255,steps=20; may be repeated.", metavar="SPEC"),
    ] = None,
    eps: Eps = None,
    per_class: PerClass = 100,
    image_size: ImageSize = None,
    batch_size: BatchSize = None,
    precision: Precision = "fp32",
    compile: Compile = False,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train again although a trained model is kept.")
    ] = False,
    sweep: Annotated[bool, typer.Option(help="Measure accuracy over eps too.")] = True,
    min_robust_accuracy: Annotated[
        float | None, typer.Option(help="Exit 3 where robust accuracy is below this.")
    ] = None,
    defense: Annotated[
        list[Path] | None,
        typer.Option(
            help="defense.json of `deitsec certify`, `detect`, `substitute`, `transfer` or "
            "`poison`, measured on this model and these data; may be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Train or load a model, attack it, and report how safe it is."""
    from dataclasses import replace

    from deitsec.attacks.spec import parse_number
    from deitsec.data import load_data
    from deitsec.engine.precision import check_precision
    from deitsec.report import read_defense
    from deitsec.verification.command import Option, verify_command
    from deitsec.verification.protocol import check_gate
    from deitsec.verification.protocol import verify as measure
    from deitsec.verification.subject import obtain
    from deitsec.verification.suite import parse_attacks

    radius = None if eps is None else parse_number("--eps", eps)
    driven_in = check_precision(precision)
    check_gate(min_robust_accuracy)
    parse_attacks(attack or (), eps=8 / 255 if radius is None else radius)
    check_report_folder(out)
    for file in defense or ():
        read_defense(file)  # what is none is refused before any work
    subject_options: dict[str, Option] = {
        "data": data,
        "model": model,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "pretrained": pretrained,
        "head": None if head == "average" else head,
        "eps": eps,
        "per-class": per_class,
        "image-size": image_size,
        "batch-size": batch_size,
        "precision": None if precision == "fp32" else precision,
        "compile": compile,
        "seed": seed,
        "device": device,
    }
    all_options: dict[str, Option] = {
        **subject_options,
        "attack": attack or None,
        "no-sweep": not sweep,
        "min-robust-accuracy": min_robust_accuracy,
        "defense": [str(file) for file in defense or ()],
    }
    with display() as shown:
        source = load_data(data, image_size=image_size)
        request = asked_for(
            model,
            checkpoint,
            otherwise="deit_micro",
            seed=seed,
            device=device,
            pretrained=pretrained,
            head=head,
            retrain=retrain,
        )
        subject, origin = obtain(request, source, progress=shown.training)
        report = measure(
            subject,
            source,
            attack or (),
            eps=radius,
            per_class=per_class,
            seed=seed,
            batch_size=batch_size or "auto",
            precision=driven_in,
            compile=compile,
            sweep=sweep,
            min_robust_accuracy=min_robust_accuracy,
            defenses=defense or (),
            origin=replace(
                origin,
                command=verify_command(all_options),
                subject_command=verify_command(subject_options),
            ),
            progress=shown.rows,
        )
        report.save(out)
    _print(report, out, as_json)
    gate = report.document["gate"]
    return GATE_FAILED if gate is not None and not gate["passed"] else 0


def _print(report: Any, out: Path, as_json: bool) -> None:
    if as_json:
        print(report.to_json())
        return
    from rich.console import Console

    from deitsec.report.wording import defense_summary

    document, console = report.document, Console()
    console.print(summary(document))
    console.print(document["verdict"]["headline"], style="bold", highlight=False)
    for check in document["checks"]:
        if check["status"] != "pass":
            console.print(f"{check['status']}: {check['evidence']}", highlight=False)
    for defense in document["defenses"]:
        for line in defense["lines"]:
            console.print(defense_summary(defense, line), highlight=False, markup=False)
    gate = document["gate"]
    if gate is not None:
        word = "passed" if gate["passed"] else "failed"
        console.print(
            f"gate {word}: robust accuracy {gate['robust_accuracy']:.4f}, "
            f"at least {gate['min_robust_accuracy']:.4f} was asked for",
            highlight=False,
        )
    console.print(f"report: {out / 'report.html'}", highlight=False)
