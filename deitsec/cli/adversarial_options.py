"""The options of adversarial training in `deitsec train`."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from deitsec.cli import recipe_options

if TYPE_CHECKING:
    from deitsec.data import DataSource
    from deitsec.training import AdversarialConfig

Method = Annotated[
    str | None,
    typer.Option(
        help="Train against attacks: mixture (clean and FGSM), pgd, trades, fast or free.",
        metavar="METHOD",
    ),
]
Eps = Annotated[str | None, typer.Option(help="Radius of the attack, 8/255 say.")]
Norm = Annotated[str | None, typer.Option(help="Of the radius: linf or l2.")]
Steps = Annotated[int | None, typer.Option("--attack-steps", help="Of pgd and trades.")]
Alpha = Annotated[str | None, typer.Option("--attack-alpha", help="Length of a step, 2/255 say.")]
CleanWeight = Annotated[
    float | None, typer.Option(help="Of the clean images in mixture, 0 to 1 (the paper's alpha).")
]
Beta = Annotated[float | None, typer.Option(help="Of the divergence in trades, > 0.")]
Replays = Annotated[int | None, typer.Option(help="Updates on each batch in free (the paper's m).")]
CurveEvery = Annotated[
    int | None, typer.Option(help="Epochs between two points of the learning curves; 0: none.")
]

# which method takes an option that is not for all of them
_OF_METHOD = {"clean_weight": "mixture", "beta": "trades", "replays": "free"}


def check_methods_options(method: str | None, given: dict[str, Any]) -> None:
    """Refuse options of adversarial training without it, and those of another method.

    Args:
        method: `--adversarial`.
        given: options by the names of `AdversarialConfig`; None where not given.

    Raises:
        ValueError: an option that would do nothing.
    """
    for name, value in given.items():
        if value is None:
            continue
        option = {"steps": "--attack-steps", "alpha": "--attack-alpha"}.get(
            name, f"--{name.replace('_', '-')}"
        )
        if method is None:
            raise ValueError(f"{option} is for adversarial training: give --adversarial METHOD too")
        owner = _OF_METHOD.get(name, method)
        if owner != method:
            raise ValueError(f"{option} is for --adversarial {owner}, got --adversarial {method}")


def chosen(
    data: "DataSource",
    model: str,
    method: str,
    attack: dict[str, Any],
    *,
    training: dict[str, Any],
    pretrained: bool,
    seed: int,
) -> tuple[Any, "AdversarialConfig"]:
    """Adversarial training, and its recipe with the options that were given.

    Args:
        data: decides eps where none is given: the one of the verification suite.
        model: its name.
        method: `--adversarial`.
        attack: options by the names of `AdversarialConfig`; None where not given.
        training: options by the names of `FitConfig`; the same.
        pretrained: whether the model starts from published weights.
        seed: of the run.

    Raises:
        ValueError: an option out of range, or an L2 radius that nobody gave.
    """
    from deitsec.training import adversarial_fit, adversarial_recipe
    from deitsec.verification.suite import suite_eps

    given = {name: value for name, value in attack.items() if value is not None}
    if given.get("norm") == "l2" and "eps" not in given:
        raise ValueError("--norm l2 needs --eps: there is no L2 radius that all data share")
    if given.get("curve_every") == 0:
        given["curve_every"] = None
    eps = given.pop("eps", None)
    config = adversarial_recipe(
        data,
        model,
        method=cast(Any, method),
        eps=suite_eps(data) if eps is None else eps,
        pretrained=pretrained,
        seed=seed,
    )
    fit = recipe_options.changed(config.fit, **training)
    return adversarial_fit, dataclasses.replace(config, **given, fit=fit)
