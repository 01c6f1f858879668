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
            "answers of a teacher of `deitsec train --temperature` at the same temperature; "
            "robust: the answers of a teacher that withstands, while the student is attacked."
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Softens the teacher, > 0.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the teacher against the labels.")
    ] = None,
    eps: Annotated[
        str | None, typer.Option(help="Radius of the attack of --method robust, 8/255 say.")
    ] = None,
    attack_steps: Annotated[int | None, typer.Option(help="Of that attack.")] = None,
    attack_alpha: Annotated[str | None, typer.Option(help="Length of its step, 2/255 say.")] = None,
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
    attack = _attack_of(method, eps=eps, steps=attack_steps, step_size=attack_alpha)
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
            _OTHER_WAYS[method](fit, given | attack)
            if method in _OTHER_WAYS
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


def _attack_of(
    method: str | None, *, eps: str | None, steps: int | None, step_size: str | None
) -> dict[str, Any]:
    """The options of the attack on the student, by the names of `RobustDistillConfig`.

    Raises:
        ValueError: one without `--method robust`, or no number.
    """
    from deitsec.attacks.spec import parse_number

    given = {"--eps": eps, "--attack-steps": steps, "--attack-alpha": step_size}
    named = [option for option, value in given.items() if value is not None]
    if named and method != "robust":
        raise ValueError(f"{named[0]} is of the attack on the student: give --method robust too")
    attack: dict[str, Any] = {} if steps is None else {"steps": steps}
    for name, option, text in (("eps", "--eps", eps), ("step_size", "--attack-alpha", step_size)):
        if text is not None:
            attack[name] = parse_number(option, text)
    return attack


def _robust(fit: "FitConfig", given: dict[str, Any]) -> tuple[Any, Any]:
    """Robust distillation and its recipe."""
    from deitsec.training import RobustDistillConfig, robust_distill

    options = {name: value for name, value in given.items() if name != "method"}
    return robust_distill, RobustDistillConfig(fit=fit, **options)


def _defensive(fit: "FitConfig", given: dict[str, Any]) -> tuple[Any, Any]:
    """Defensive distillation and its recipe."""
    from deitsec.training import DefensiveConfig, distill_at_temperature

    if "alpha" in given:
        raise ValueError("--alpha is not for --method defensive, which learns from answers alone")
    options = {name: value for name, value in given.items() if name == "temperature"}
    return distill_at_temperature, DefensiveConfig(fit=fit, **options)


_OTHER_WAYS = {"defensive": _defensive, "robust": _robust}
