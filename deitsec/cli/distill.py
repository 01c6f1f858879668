"""`deitsec distill`: teach a classifier by another one."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deitsec.cli import recipe_options as options
from deitsec.cli.display import display
from deitsec.cli.launch import own_device, precision_of_launcher
from deitsec.cli.options import AsJson, Data, Device, ImageSize, Seed
from deitsec.cli.trained import check_out, last_good_kept, save_trained, state_folder

if TYPE_CHECKING:
    from deitsec.training import FitConfig


def distill(
    teacher: Annotated[Path, typer.Option(help="Checkpoint of the teacher, from `deitsec train`.")],
    teacher_model: Annotated[
        str | None, typer.Option(help="The teacher's model name, where no card tells it.")
    ] = None,
    data: Data = "digits",
    model: Annotated[
        str, typer.Option(help="The student; see `deitsec list models`.")
    ] = "deit_micro",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from timm's published weights.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(
            help="study: the teacher first, then labels; soft, hard: both at once; defensive: the "
            "answers of a teacher of `deitsec train --temperature` at the same temperature."
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Softens the teacher, > 0.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the teacher against the labels.")
    ] = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    optimizer: options.Optimizer = None,
    lr: options.LearningRate = None,
    weight_decay: options.WeightDecay = None,
    precision: options.Precision = None,
    validation: options.Validation = None,
    patience: options.Patience = None,
    noise: options.Noise = None,
    image_size: ImageSize = None,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")] = Path("student.safetensors"),
    save_every: options.SaveEvery = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted training was.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a student on a teacher's answers and the labels, and write its checkpoint."""
    from deitsec import training
    from deitsec.data import load_data
    from deitsec.models import load_model
    from deitsec.training.modes import place_of
    from deitsec.training.processes import find_processes
    from deitsec.training.recipes import new_model, recipe

    check_out(out)
    with display() as shown:
        source = load_data(data, image_size=image_size)
        plan = recipe(source, model, pretrained=pretrained, seed=seed)
        start = plan.distillation or training.DistillConfig(
            fit=dataclasses.replace(plan.fit, label_smoothing=0.0)
        )
        fit = options.changed(
            start.fit,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            precision=precision_of_launcher(precision),
            validation=validation,
            patience=patience,
            save_every=save_every,
            noise=noise,
        )
        given = {"method": method, "temperature": temperature, "alpha": alpha}
        given = {name: value for name, value in given.items() if value is not None}
        run, config = (
            _defensive(fit, given)
            if method == "defensive"
            else (
                training.distill,
                dataclasses.replace(start, **given, fit=fit),
            )
        )
        place = own_device(device)
        channels, height, _ = source.test.shape
        master = load_model(
            teacher_model,
            checkpoint=teacher,
            num_classes=source.num_classes,
            in_chans=channels,
            image_size=height,
        ).to(place)
        student = new_model(model, source, pretrained=pretrained, seed=seed).to(place)
        with last_good_kept(student, source, out):
            result = run(
                student,
                master,
                source,
                config,
                out=state_folder(out),
                resume=resume,
                progress=lambda event: shown.training(f"distilling {model}", event),
            )
    if find_processes(place_of(student)).first:
        save_trained(student, source, result, out, as_json=as_json)


def _defensive(fit: "FitConfig", given: dict[str, Any]) -> tuple[Any, Any]:
    """Defensive distillation and its recipe."""
    from deitsec.training import DefensiveConfig, distill_at_temperature

    if "alpha" in given:
        raise ValueError("--alpha is not for --method defensive, which learns from answers alone")
    options = {name: value for name, value in given.items() if name == "temperature"}
    return distill_at_temperature, DefensiveConfig(fit=fit, **options)
