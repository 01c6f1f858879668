"""The training options of `deitsec train` and `deitsec distill`: changes to a recipe."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deitsec.training import FitConfig

Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option(help="Images a step.")]
Optimizer = Annotated[str | None, typer.Option(help="A timm optimizer: adamw, sgd, lamb, ...")]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")]
WeightDecay = Annotated[float | None, typer.Option(help="On matrices and kernels.")]
Precision = Annotated[str | None, typer.Option(help="fp32, or bf16 by autocast.")]
Validation = Annotated[
    float | None, typer.Option(help="Share of the training images that picks the best epoch.")
]
Patience = Annotated[
    int | None, typer.Option(help="Stop after this many epochs without improvement.")
]
SaveEvery = Annotated[
    int | None,
    typer.Option(help="Steps between two writes of the state that --resume goes on from."),
]

Noise = Annotated[
    float | None,
    typer.Option(help="Gaussian noise on the training images: its deviation, on [0, 1]."),
]


def changed(config: "FitConfig", **options: Any) -> "FitConfig":
    """The recipe with the options that were given; the warmup keeps its share of the epochs.

    Raises:
        ValueError: an option out of range.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "noise" in given:
        from deitsec.training.recipes import with_noise

        config = with_noise(config, given.pop("noise"))
    return dataclasses.replace(config.with_epochs(given.get("epochs")), **given)
