"""`deitsec attack`: adversarial images of a model, as files."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from deitsec.cli.display import display
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


def attack(
    data: Data = "digits",
    model: Model = None,
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = False,
    head: Head = "average",
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="cw:steps=200 or jsma:target=next; may be repeated. `deitsec list attacks` "
            "names them. [default: pgd]",
            metavar="SPEC",
            show_default=False,
        ),
    ] = None,
    eps: Eps = None,
    per_class: PerClass = 10,
    image_size: ImageSize = None,
    batch_size: BatchSize = None,
    precision: Precision = "fp32",
    compile: Compile = False,
    quantize: Annotated[
        bool,
        typer.Option("--quantize", help="Judge success on images of 8 bits during the attack."),
    ] = False,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("adversarial"),
    as_json: AsJson = False,
) -> None:
    """Attack a model and write the adversarial images: an .npz and a .png for each attack."""
    from deitsec.attacks import format_spec
    from deitsec.attacks.spec import parse_number
    from deitsec.data import load_data
    from deitsec.engine import Engine
    from deitsec.engine.precision import check_precision
    from deitsec.verification.crafting import craft
    from deitsec.verification.protocol import choose_rows
    from deitsec.verification.subject import obtain
    from deitsec.verification.suite import parse_attacks, suite_eps

    radius = None if eps is None else parse_number("--eps", eps)
    driven_in = check_precision(precision)
    specs = attack or ["pgd"]
    parse_attacks(specs, eps=8 / 255 if radius is None else radius)
    check_report_folder(out)
    with display() as shown:
        source = load_data(data, image_size=image_size)
        attacks = parse_attacks(specs, eps=suite_eps(source) if radius is None else radius)
        request = asked_for(
            model,
            checkpoint,
            otherwise="deit_micro",
            seed=seed,
            device=device,
            pretrained=pretrained,
            head=head,
        )
        subject, _ = obtain(request, source, progress=shown.training)
        engine = Engine(
            subject,
            batch_size=batch_size or "auto",
            seed=seed,
            precision=driven_in,
            compile=compile,
            quantize=quantize,
        )
        rows = choose_rows(source, per_class)
        summaries: list[dict[str, Any]] = []
        for number, one in enumerate(attacks):
            stage, done = format_spec(one), 0

            def tick(more: int, stage: str = stage) -> None:
                nonlocal done
                done += more
                shown.rows(stage, done, len(rows))

            crafted = craft(engine, one, source, rows, tick)
            name = _file_name(number, stage, [format_spec(other) for other in attacks])
            _write(out / name, crafted, source.class_names)
            summaries.append(crafted.summary() | {"file": str(out / f"{name}.npz")})
    if as_json:
        print(json.dumps(summaries, indent=2))
    else:
        _print(summaries, f"{subject.name} on {source.name}, {len(rows)} images")


def _file_name(number: int, spec: str, specs: list[str]) -> str:
    """A name from the spec that any file system takes; numbered where two are alike."""
    plain = [re.sub(r"[^A-Za-z0-9.]+", "_", other)[:80].strip("_") for other in specs]
    return plain[number] if plain.count(plain[number]) == 1 else f"{plain[number]}_{number + 1}"


def _write(path: Path, crafted: Any, class_names: tuple[str, ...]) -> None:
    from deitsec.report.example_grid import example_grid
    from deitsec.report.figure import plot_style, png_bytes
    from deitsec.whole_files import replace_files

    with plot_style():
        picture = png_bytes(example_grid(crafted.examples, class_names))
    # not with_suffix: a spec may hold a point
    replace_files(
        {
            path.with_name(f"{path.name}.png"): picture,
            path.with_name(f"{path.name}.npz"): crafted.pack(),
        }
    )


def _print(summaries: list[dict[str, Any]], title: str) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("attack", overflow="fold")
    for name in ("success", "8 bits", "robust", "distance", "passes", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for found in summaries:
        distance = found["distances"][found["norm"]]
        table.add_row(
            found["spec"],
            _share(found["success_rate"]),
            _share(found["success_rate_rounded"]),
            _share(found["robust_accuracy"]),
            "-" if distance is None else f"{found['norm']} {distance['median']:.4g}",
            f"{found['queries']['forward']:.1f} + {found['queries']['backward']:.1f}",
            f"{found['seconds']:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(
        "8 bits: success after rounding; distance: median of the successes; passes: forward and "
        "backward, mean of a row",
        highlight=False,
    )
    for found in summaries:
        console.print(f"images: {found['file']}", highlight=False)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
