"""`deitsec train-generator`: a network that makes adversarial images, and what it comes to."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from deitsec.cli import recipe_options as recipes
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
    Pretrained,
    Seed,
    choose_device,
)
from deitsec.cli.trained import check_out, state_folder


def train_generator(
    data: Data = "digits",
    model: Model = None,
    checkpoint: Checkpoint = None,
    pretrained: Pretrained = False,
    eps: Eps = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="A class to aim at, or any: whom to aim at is told with each image. By default "
            "labels are made to lose."
        ),
    ] = None,
    gan_weight: Annotated[
        float | None, typer.Option(help="Of the discriminator; 0 trains none.")
    ] = None,
    hinge_weight: Annotated[
        float | None, typer.Option(help="Of the perturbation's L2 length beyond --hinge.")
    ] = None,
    hinge: Annotated[
        float | None, typer.Option(help="L2 length up to which nothing is charged.")
    ] = None,
    kappa: Annotated[
        float | None, typer.Option(help="Lead of a logit after which an image has no more say.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Channels of the outermost maps, a multiple of 4.")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Training images to take, at most.")] = None,
    epochs: recipes.Epochs = None,
    batch_size: recipes.BatchSize = None,
    lr: recipes.LearningRate = None,
    precision: recipes.Precision = None,
    validation: recipes.Validation = None,
    patience: recipes.Patience = None,
    save_every: recipes.SaveEvery = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted training was.")
    ] = False,
    per_class: PerClass = 10,
    image_size: ImageSize = None,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="File of the generator to write.")] = Path(
        "generator.safetensors"
    ),
    as_json: AsJson = False,
) -> None:
    """Train a generator of adversarial images against a model (AdvGAN), and measure it.

    Its success on test images stands beside that of PGD-10 and FGSM at the same radius. `deitsec
    attack --attack advgan:generator=FILE` uses it.
    """
    from deitsec.attacks.spec import parse_number
    from deitsec.data import load_data
    from deitsec.training import GeneratorConfig
    from deitsec.training import train_generator as train
    from deitsec.verification.subject import ModelRequest, obtain
    from deitsec.verification.suite import suite_eps

    check_out(out)
    radius = None if eps is None else parse_number("--eps", eps)
    given: dict[str, Any] = {
        "target": _aim(target),
        "gan_weight": gan_weight,
        "hinge_weight": hinge_weight,
        "hinge": hinge,
        "kappa": kappa,
        "width": width,
        "rows": rows,
        "eps": radius,
    }
    config = GeneratorConfig(**{key: value for key, value in given.items() if value is not None})
    fit = recipes.changed(
        dataclasses.replace(config.fit, seed=seed),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        precision=precision,
        validation=validation,
        patience=patience,
        save_every=save_every,
    )
    with display() as shown:
        source = load_data(data, image_size=image_size)
        reach = suite_eps(source) if radius is None else radius
        request = ModelRequest(
            name=model or (None if checkpoint else "small_cnn"),
            checkpoint=None if checkpoint is None else str(checkpoint),
            pretrained=pretrained,
            seed=seed,
            device=choose_device(device),
        )
        subject, origin = obtain(request, source, progress=shown.training)
        trained = train(
            subject,
            source,
            dataclasses.replace(config, fit=fit, eps=reach),
            out=state_folder(out),
            resume=resume,
            progress=lambda event: shown.training("training the generator", event),
        )
        trained.generator.save(out)
        shutil.rmtree(state_folder(out), ignore_errors=True)
        found = _compare(subject, trained.generator, source, out, per_class, seed, shown)
    document = {
        "generator": str(out),
        "origin": origin.kind,
        "seed": seed,
        **trained.generator.card(),
        "history": [dataclasses.asdict(record) for record in trained.fit.history],
        **found,
    }
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        _print(document, source.uri)


def _aim(target: str | None) -> Any:
    """A class, or `any`.

    Raises:
        ValueError: another word.
    """
    if target is None or target == "any":
        return target
    try:
        return int(target)
    except ValueError as error:
        raise ValueError(f"--target must be a class or any, got {target!r}") from error


def _compare(
    subject: Any, generator: Any, source: Any, out: Path, per_class: int, seed: int, shown: Any
) -> dict[str, Any]:
    """What falls to the generator, FGSM and PGD-10 on the same test images, and how fast."""
    from deitsec.attacks import FGSM, PGD, AdvGAN
    from deitsec.data import to_float
    from deitsec.training.generator_comparison import compare_attacks, generation_rate, same_aim
    from deitsec.training.modes import place_of
    from deitsec.verification.protocol import choose_rows

    rows = choose_rows(source, per_class)
    labels = source.test.labels[rows]
    if isinstance(generator.target, int):
        rows = rows[labels != generator.target]
        labels = source.test.labels[rows]
    images = to_float(source.test.images(rows))
    plain = (AdvGAN(generator=str(out)), FGSM(eps=generator.eps), PGD(eps=generator.eps, steps=10))
    attacks = [same_aim(attack, generator) for attack in plain]
    return {
        "attacks": compare_attacks(
            subject, attacks, images, labels, seed=seed, progress=shown.rows
        ),
        "generated_per_second": generation_rate(generator, images.to(place_of(subject))),
    }


def _print(document: dict[str, Any], uri: str) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    count = document["attacks"][0]["rows"]
    title = f"{document['model']['name']} on {uri}, {count} test images, eps {document['eps']:.4g}"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("attack", overflow="fold")
    for name in ("success", "images/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for found in document["attacks"]:
        rate = found["success_rate"]
        table.add_row(
            found["spec"],
            "-" if rate is None else f"{rate:.4f}",
            f"{found['images_per_second']:.0f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"images/s with judging; made alone: {document['generated_per_second']:.0f}",
        highlight=False,
    )
    console.print(f"generator: {document['generator']}", highlight=False)
