"""`deitsec train`: train a classifier on labels."""

from pathlib import Path
from typing import Annotated

import typer

from deitsec.cli import recipe_options as options
from deitsec.cli.display import display
from deitsec.cli.options import AsJson, Data, Device, ImageSize, Seed, choose_device
from deitsec.cli.trained import check_out, save_trained, state_folder


def train(
    data: Data = "digits",
    model: Annotated[
        str, typer.Option(help="A model name; see `deitsec list models`.")
    ] = "small_cnn",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from timm's published weights.")
    ] = False,
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted training was.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a classifier on labels and write a checkpoint with its model card."""
    from deitsec.data import load_data
    from deitsec.training import fit
    from deitsec.training.recipes import new_model, recipe

    check_out(out)
    with display() as shown:
        source = load_data(data, image_size=image_size)
        plan = recipe(source, model, pretrained=pretrained, seed=seed)
        config = options.changed(
            plan.fit,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            precision=precision,
            validation=validation,
            patience=patience,
            noise=noise,
        )
        student = new_model(model, source, pretrained=pretrained, seed=seed)
        student = student.to(choose_device(device))
        result = fit(
            student,
            source,
            config,
            out=state_folder(out),
            resume=resume,
            progress=lambda event: shown.training(f"training {model}", event),
        )
    save_trained(student, source, result, out, as_json=as_json)
