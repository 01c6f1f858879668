"""`deitsec poison`: contaminate a training set, and see what it does and who finds it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deitsec.cli import recipe_options as options
from deitsec.cli.display import display
from deitsec.cli.options import (
    AsJson,
    Data,
    Device,
    ImageSize,
    Seed,
    check_report_folder,
    choose_device,
    typed,
)

if TYPE_CHECKING:
    from deitsec.data import DataSource, Poisoned
    from deitsec.report import Defense

KINDS = ("backdoor", "clean-label", "flip")


def poison(
    context: typer.Context,
    data: Data = "digits",
    model: Annotated[
        str, typer.Option(help="What is trained; see `deitsec list models`.")
    ] = "small_cnn",
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.")] = "backdoor",
    rate: Annotated[
        float,
        typer.Option(
            help="Share of the training images; of the target's for clean-label, of the source's "
            "for a flip from one class."
        ),
    ] = 0.05,
    source: Annotated[
        int | None, typer.Option(help="Class whose labels are flipped; any by default.")
    ] = None,
    target: Annotated[
        int | None,
        typer.Option(help="Class that the trigger gives, or that labels are flipped to."),
    ] = None,
    trigger: Annotated[str | None, typer.Option(help="patch or blend. [default: patch]")] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the patch. [default: an eighth of the image's]")
    ] = None,
    blend_alpha: Annotated[
        float | None, typer.Option(help="Weight of the blended pattern. [default: 0.2]")
    ] = None,
    expected: Annotated[
        float | None,
        typer.Option(
            help="Share of a class that spectral signatures take to be poisoned. [default: the "
            "true one]"
        ),
    ] = None,
    retrain: Annotated[
        bool, typer.Option(help="Train again without what each detector flags.")
    ] = True,
    epochs: options.Epochs = None,
    image_size: ImageSize = None,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("poisoned"),
    as_json: AsJson = False,
) -> None:
    """Poison a training set, train on it, measure the effect and look for the poison.

    Writes poison.json (the poisoned rows in it), poisoned.safetensors, poisoned.png and, of the
    poisoned model, defense.json (for `deitsec verify --defense`).
    """
    from deitsec.data import load_data
    from deitsec.defenses import measure_poisoning, standard_detectors
    from deitsec.models import Classifier
    from deitsec.report.defense_lines import poisoning_lines
    from deitsec.training import fit
    from deitsec.training.recipes import new_model, recipe
    from deitsec.verification.defended import measured_defense

    check_report_folder(out)
    if kind not in KINDS:
        raise ValueError(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if expected is not None and not 0 < expected <= 1:
        raise ValueError(f"--expected must be in (0, 1], got {expected:g}")
    _check_trigger(kind, trigger, size, blend_alpha)
    with display() as shown:
        clean = load_data(data, image_size=image_size)
        mark = {"kind": trigger or "patch", "size": size, "alpha": blend_alpha, "seed": seed}
        poisoned = _contaminate(clean, kind, rate, source, target, mark)
        place = choose_device(device)
        config = options.changed(recipe(clean, model, seed=seed).fit, epochs=epochs)
        models: dict[str, Classifier] = {}

        def train(stage: str, source: "DataSource") -> Classifier:
            fresh = new_model(model, source, seed=seed).to(place)
            fit(fresh, source, config, progress=lambda e: shown.training(f"training {stage}", e))
            models[stage] = fresh
            return fresh

        detectors = standard_detectors(poisoned, expected=expected, seed=seed)
        found = measure_poisoning(clean, poisoned, train, detectors=detectors, retrain=retrain)
    document = {
        "model": model,
        "data": {"uri": clean.uri, "sha256": clean.sha256},
        "kind": kind,
        "rate": rate,
        "seed": seed,
        "epochs": config.epochs,
        **found,
        "poisoned_rows": poisoned.rows.tolist(),
    }
    defense = measured_defense(
        "poisoning",
        f"detection of poison ({kind})",
        models["poisoned"],
        clean,
        poisoning_lines(document),
        settings={"kind": kind, "rate": rate, "epochs": config.epochs, "expected": expected},
        rows=len(clean.test),
        seed=seed,
        command=typed(context),
    )
    _write(out, clean, poisoned, models["poisoned"], document, defense)
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        _print(document, out)


def _check_trigger(
    kind: str, trigger: str | None, size: int | None, blend_alpha: float | None
) -> None:
    """Raise a ValueError for an option of a trigger that is not planted."""
    if trigger not in (None, "patch", "blend"):
        raise ValueError(f"--trigger must be patch or blend, got {trigger!r}")
    given = {"--trigger": trigger, "--size": size, "--blend-alpha": blend_alpha}
    unused = [name for name, value in given.items() if value is not None]
    if kind != "flip":
        unused = [name for name in unused if name != "--trigger"]
        own = "--blend-alpha" if trigger == "blend" else "--size"
        unused = [name for name in unused if name != own]
    if unused:
        shown = "" if kind == "flip" else f" --trigger {trigger or 'patch'}"
        raise ValueError(f"{unused[0]} does nothing with --kind {kind}{shown}; leave it out")


def _contaminate(
    data: "DataSource",
    kind: str,
    rate: float,
    source: int | None,
    target: int | None,
    mark: Mapping[str, Any],
) -> "Poisoned":
    from deitsec.data import Blend, Patch, flip_labels, plant_backdoor

    seed = mark["seed"]
    if kind == "flip":
        return flip_labels(data, rate=rate, source=source, target=target, seed=seed)
    if source is not None:
        raise ValueError(f"--source goes with --kind flip, got --kind {kind}")
    if mark["kind"] == "blend":
        stamp = Blend(alpha=0.2 if mark["alpha"] is None else mark["alpha"], seed=seed)
    else:
        side = max(1, min(data.test.shape[1:]) // 8)
        stamp = Patch(size=side if mark["size"] is None else mark["size"])
    return plant_backdoor(
        data,
        rate=rate,
        target=0 if target is None else target,
        trigger=stamp,
        clean_label=kind == "clean-label",
        seed=seed,
    )


def _write(
    out: Path,
    clean: "DataSource",
    poisoned: "Poisoned",
    model: Any,
    document: dict[str, Any],
    defense: "Defense",
) -> None:
    from deitsec.models import save_checkpoint
    from deitsec.report.figure import plot_style, png_bytes
    from deitsec.report.poisoned_images import poisoned_images
    from deitsec.whole_files import replace_files

    assert clean.train is not None
    assert poisoned.data.train is not None
    rows = poisoned.rows[:6]
    with plot_style():
        before, after = (
            images.images(rows).permute(0, 2, 3, 1).numpy()
            for images in (clean.train, poisoned.data.train)
        )
        names = clean.class_names
        labels = [names[int(label)] for label in clean.train.labels[rows]]
        given = [names[int(label)] for label in poisoned.data.train.labels[rows]]
        picture = png_bytes(poisoned_images(before, after, labels, given))
    save_checkpoint(
        model,
        out / "poisoned.safetensors",
        training={"data": poisoned.data.uri, "seed": document["seed"]},
        metrics=document["poisoned"],
        class_names=clean.class_names,
    )
    replace_files(
        {
            out / "poisoned.png": picture,
            out / "defense.json": defense.to_json().encode(),
            out / "poison.json": (json.dumps(document, indent=2) + "\n").encode(),
        }
    )


def _print(document: dict[str, Any], out: Path) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    dirt = document["contamination"]
    title = f"{document['model']} on {document['data']['uri']}: {dirt['what']}"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("trained on", overflow="fold")
    for heading in ("accuracy", "attack", "found", "of it", "AUROC"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("clean images", *_effect(document["clean"]), "", "", "")
    poisoned = f"with {dirt['poisoned']} of {dirt['rows']} poisoned"
    table.add_row(poisoned, *_effect(document["poisoned"]), "", "", "")
    for found in document["detectors"]:
        effect = _effect(found["without"]) if "without" in found else ("-", "-")
        shares = (_share(found[name]) for name in ("recall", "precision", "auroc"))
        table.add_row(f"less what {found['name']} flags", *effect, *shares)
    console = Console()
    console.print(table)
    console.print(
        "attack: triggered images, or images of the source, taken for the target; found: share of "
        "the poisoned rows that are flagged; of it: share of the flagged rows that are poisoned",
        highlight=False,
    )
    console.print(f"result: {out / 'poison.json'}", highlight=False)


def _effect(found: dict[str, float | None]) -> tuple[str, str]:
    attack = found["attack_success"] if found["flipped"] is None else found["flipped"]
    return _share(found["accuracy"]), _share(attack)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
