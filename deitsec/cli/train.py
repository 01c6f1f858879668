"""`deitsec train`: train a classifier on labels, against attacks, hot or virtually."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from deitsec.cli import adversarial_options, training_ways
from deitsec.cli import recipe_options as options
from deitsec.cli.display import display
from deitsec.cli.launch import launch, own_device, precision_of_launcher
from deitsec.cli.options import AsJson, Data, Device, ImageSize, Seed
from deitsec.cli.trained import (
    check_curves,
    check_out,
    last_good_kept,
    save_curves,
    save_trained,
    state_folder,
)


def train(
    context: typer.Context,
    data: Data = "digits",
    model: Annotated[
        str, typer.Option(help="A model name; see `deitsec list models`.")
    ] = "small_cnn",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from timm's published weights.")
    ] = False,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Divide the logits in training: the first network of defensive distillation."
        ),
    ] = None,
    virtual: Annotated[
        bool,
        typer.Option("--virtual", help="Virtual adversarial training; --eps is its L2 length."),
    ] = False,
    labelled: Annotated[
        int | None,
        typer.Option(help="With --virtual: images of a class whose labels are used.", min=1),
    ] = None,
    adversarial: adversarial_options.Method = None,
    eps: adversarial_options.Eps = None,
    norm: adversarial_options.Norm = None,
    attack_steps: adversarial_options.Steps = None,
    attack_alpha: adversarial_options.Alpha = None,
    clean_weight: adversarial_options.CleanWeight = None,
    beta: adversarial_options.Beta = None,
    replays: adversarial_options.Replays = None,
    curve_every: adversarial_options.CurveEvery = None,
    curves: Annotated[
        Path | None, typer.Option(help="Draw the learning curves to this PNG.")
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
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")] = Path("model.safetensors"),
    save_every: options.SaveEvery = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted training was.")
    ] = False,
    accelerate: Annotated[
        int | None,
        typer.Option(
            help="Train in this many processes of this machine, one a GPU, by Hugging Face "
            "Accelerate; `accelerate launch -m deitsec train ...` does it on several.",
            min=1,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a classifier on labels, or against attacks, and write a checkpoint with its card."""
    from deitsec.attacks.spec import parse_number
    from deitsec.data import load_data
    from deitsec.training.modes import place_of
    from deitsec.training.processes import find_processes
    from deitsec.training.recipes import new_model, recipe

    check_out(out)
    check_curves(curves, adversarial=adversarial is not None)
    radius = None if eps is None else parse_number("--eps", eps)
    way = training_ways.check_way(
        adversarial=adversarial, temperature=temperature, virtual=virtual, labelled=labelled
    )
    attack = {
        "eps": None if virtual else radius,
        "norm": norm,
        "steps": attack_steps,
        "alpha": None if attack_alpha is None else parse_number("--attack-alpha", attack_alpha),
        "clean_weight": clean_weight,
        "beta": beta,
        "replays": replays,
        "curve_every": curve_every,
    }
    adversarial_options.check_methods_options(adversarial, attack)
    training = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "weight_decay": weight_decay,
        "precision": precision_of_launcher(precision),
        "validation": validation,
        "patience": patience,
        "save_every": save_every,
        "noise": noise,
    }
    if accelerate is not None and accelerate > 1 and "WORLD_SIZE" not in os.environ:
        raise typer.Exit(launch(accelerate, context.obj or sys.argv[1:], device))
    with display() as shown:
        source = load_data(data, image_size=image_size)
        plan: dict[str, Any] = {"pretrained": pretrained, "seed": seed}
        if adversarial is None:
            fitted = options.changed(recipe(source, model, **plan).fit, **training)
            run, config = training_ways.chosen(
                way,
                fitted,
                temperature=temperature,
                labelled=labelled,
                eps=radius,
                held_out=validation is not None or patience is not None,
            )
        else:
            run, config = adversarial_options.chosen(
                source, model, adversarial, attack, training=training, **plan
            )
        student = new_model(model, source, **plan)
        student = student.to(own_device(device))
        with last_good_kept(student, source, out):
            result = run(
                student,
                source,
                config,
                out=state_folder(out),
                resume=resume,
                progress=lambda event: shown.training(f"training {model}", event),
            )
    if find_processes(place_of(student)).first:
        save_trained(student, source, result, out, as_json=as_json)
        if curves is not None:
            save_curves(result, curves)
