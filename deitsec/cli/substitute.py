"""`deitsec substitute`: attack a model of which only the answers are seen."""

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
    ImageSize,
    Model,
    PerClass,
    Seed,
    check_report_folder,
    choose_device,
    typed,
)
from deitsec.cli.subject import asked_for

if TYPE_CHECKING:
    from deitsec.report import Defense


def substitute(
    context: typer.Context,
    data: Data = "digits",
    model: Model = None,
    checkpoint: Checkpoint = None,
    substitute: Annotated[
        str, typer.Option(help="The attacker's model; see `deitsec list models`.", metavar="NAME")
    ] = "mnist_dense",
    first: Annotated[
        int, typer.Option(help="Test images of each class that the attacker starts from.", min=1)
    ] = 10,
    rounds: Annotated[int, typer.Option(help="Times that the images are augmented.")] = 4,
    step: Annotated[float, typer.Option(help="Change of an augmented image.")] = 0.1,
    period: Annotated[int, typer.Option(help="Rounds after which the step turns its sign.")] = 3,
    reservoir: Annotated[
        int | None, typer.Option(help="New images of a round; all by default.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Images that the model answers; no limit by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of the training of a round.", min=1)] = 10,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="Run on the substitute; may be repeated. [default: fgsm and pgd:steps=20]",
            metavar="SPEC",
            show_default=False,
        ),
    ] = None,
    eps: Eps = None,
    per_class: PerClass = 30,
    image_size: ImageSize = None,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("substitute"),
    as_json: AsJson = False,
) -> None:
    """Train a substitute on a model's labels, attack it, and ask the model about the images.

    Writes substitute.json, substitute.safetensors and defense.json (for `deitsec verify
    --defense`).
    """
    from deitsec.attacks import parse_spec
    from deitsec.attacks.spec import parse_number
    from deitsec.data import load_data
    from deitsec.defenses import SubstituteAttack, attack_hidden
    from deitsec.models import LabelsOnly
    from deitsec.report.defense_lines import substitute_lines
    from deitsec.training.recipes import new_model, recipe
    from deitsec.verification.defended import measured_defense
    from deitsec.verification.subject import obtain
    from deitsec.verification.suite import suite_eps

    radius = None if eps is None else parse_number("--eps", eps)
    specs = attack or ["fgsm", "pgd:steps=20"]
    for spec in specs:
        parse_spec(spec, eps=8 / 255 if radius is None else radius)
    check_report_folder(out)
    with display() as shown:
        source = load_data(data, image_size=image_size)
        place = choose_device(device)
        request = asked_for(model, checkpoint, otherwise="small_cnn", seed=seed, device=device)
        plan = dataclasses.replace(
            recipe(source, substitute, seed=seed).fit,
            epochs=epochs,
            warmup_epochs=0.0,
            validation=0.0,
            patience=None,
            batch_size=32,
        )
        how = SubstituteAttack(
            rounds=rounds, step=step, period=period, reservoir=reservoir, fit=plan, seed=seed
        )
        own = new_model(substitute, source, seed=seed + 1).to(place)
        subject, origin = obtain(request, source, progress=shown.training)
        oracle = LabelsOnly(subject, num_classes=source.num_classes, budget=budget)
        found = attack_hidden(
            subject,
            oracle,
            own,
            source,
            how,
            [parse_spec(s, eps=suite_eps(source) if radius is None else radius) for s in specs],
            first=first,
            per_class=per_class,
            progress=lambda number, event: shown.training(f"round {number}", event),
            told=lambda name, done, total: shown.rows(f"attacking the {name}", done, total),
        )
    document = {
        "model": {"name": subject.name, "origin": origin.kind},
        "substitute": substitute,
        "data": {"uri": source.uri, "sha256": source.sha256},
        "seed": seed,
        "budget": budget,
        "attack": dataclasses.asdict(how),
        **found,
    }
    settings = {name: getattr(how, name) for name in ("rounds", "step", "period", "reservoir")}
    defense = measured_defense(
        "hidden-model",
        "hidden model, asked for labels",
        subject,
        source,
        substitute_lines(document),
        settings={"substitute": substitute, "first": first, "budget": budget, **settings},
        rows=found["rows"],
        seed=seed,
        command=typed(context),
    )
    _write(out, own, source, document, defense)
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        _print(document, out)


def _write(out: Path, own: Any, source: Any, document: dict[str, Any], defense: "Defense") -> None:
    from deitsec.models import save_checkpoint
    from deitsec.whole_files import replace_files

    save_checkpoint(
        own,
        out / "substitute.safetensors",
        training={"oracle": document["model"]["name"], "queries": document["queries"]},
        class_names=source.class_names,
    )
    text = json.dumps(document, indent=2) + "\n"
    replace_files(
        {
            out / "defense.json": defense.to_json().encode(),
            out / "substitute.json": text.encode(),
        }
    )


def _print(document: dict[str, Any], out: Path) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    name = document["model"]["name"]
    table = Table(
        title=f"{name} on {document['data']['uri']}, hidden: wrong at the images",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("attack", overflow="fold")
    for heading in ("by the substitute", "white box", "noise of that size", "on the substitute"):
        table.add_column(heading, justify="right")
    for found in document["attacks"]:
        names = ("transfer", "white_box", "noise", "on_substitute")
        table.add_row(found["spec"], *(_share(found[name]) for name in names))
    console = Console()
    console.print(table)
    ended = "; the budget ended it" if document["stopped"] else ""
    console.print(
        f"{document['queries']} queries from {document['first_images']} images{ended}; "
        f"{document['substitute']} agrees with the model on {document['agreement']:.1%} of "
        f"{document['rows']} images",
        highlight=False,
    )
    console.print(f"result: {out / 'substitute.json'}", highlight=False)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
