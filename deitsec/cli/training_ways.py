"""The ways of `deitsec train` beside adversarial training: on labels, hot, or virtually."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from deitsec.training import FitConfig

Way = Literal["labels", "adversarial", "hot", "virtual"]


def check_way(
    *, adversarial: str | None, temperature: float | None, virtual: bool, labelled: int | None
) -> Way:
    """The way that the options ask for.

    Raises:
        ValueError: they ask for several, or one is of a way that was not asked for.
    """
    asked: dict[Way, tuple[str, bool]] = {
        "adversarial": ("--adversarial", adversarial is not None),
        "hot": ("--temperature", temperature is not None),
        "virtual": ("--virtual", virtual),
    }
    ways: list[Way] = [way for way, (_, given) in asked.items() if given]
    if len(ways) > 1:
        names = " and ".join(asked[way][0] for way in ways)
        raise ValueError(f"{names} are different trainings: give one of them")
    if labelled is not None and not virtual:
        raise ValueError("--labelled is for --virtual, which learns from unlabelled images too")
    return ways[0] if ways else "labels"


def chosen(
    way: Way,
    fit: "FitConfig",
    *,
    temperature: float | None,
    labelled: int | None,
    eps: float | None,
    held_out: bool,
) -> tuple[Any, Any]:
    """How to train, and its recipe.

    Args:
        way: from `check_way`; not adversarial.
        fit: the recipe on labels.
        temperature: of the hot way.
        labelled, eps: of the virtual one.
        held_out: whether rows to validate on were asked for; else the virtual way holds out none.

    Raises:
        ValueError: a value out of range.
    """
    from deitsec import training

    if way == "labels":
        return training.fit, fit
    if way == "hot":
        assert temperature is not None
        plain = dataclasses.replace(fit, label_smoothing=0.0)
        config = training.DefensiveConfig(fit=plain, temperature=temperature)
        return training.fit_at_temperature, config
    # few labels are all for training; a validation that was asked for is the caller's to explain
    unheld = fit if held_out else dataclasses.replace(fit, validation=0.0, patience=None)
    given: dict[str, Any] = {"labelled": labelled, "eps": eps}
    options = {name: value for name, value in given.items() if value is not None}
    return training.virtual_fit, training.VirtualConfig(fit=unheld, **options)
