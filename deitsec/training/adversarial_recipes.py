"""Recipes of adversarial training that were tried, by data and method."""

from dataclasses import replace
from typing import Any

from deitsec.data import DataSource
from deitsec.training.adversarial_config import METHODS, AdversarialConfig, AdversarialMethod
from deitsec.training.recipes import Shape, family_of, recipe

# an unmoved digit: with moves the few images and short runs do not suffice to learn to withstand
_DIGITS: dict[str, Any] = {"augmentation": None, "batch_size": 32, "warmup_epochs": 1.2}
_FIT: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        "pgd": {**_DIGITS, "epochs": 12},
        "trades": {**_DIGITS, "epochs": 12},
        "mixture": {**_DIGITS, "epochs": 20},
        "fast": {**_DIGITS, "epochs": 20, "validation": 0.1},
        "free": {**_DIGITS, "epochs": 8},
    },
}
_ATTACK: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {"pgd": {"steps": 3}, "trades": {"steps": 3}, "free": {"replays": 4}},
}


def adversarial_recipe(
    data: DataSource | str | Shape,
    name: str,
    *,
    method: AdversarialMethod = "pgd",
    eps: float,
    pretrained: bool = False,
    seed: int = 0,
) -> AdversarialConfig:
    """Return a recipe of adversarial training, sized for a CPU on images of up to 64 pixels.

    It is the model's recipe on labels, without label smoothing, which hides gradients.

    Args:
        data: as in `recipe`.
        name: of the model.
        method: see `AdversarialConfig`.
        eps: radius of the attack, on images in [0, 1].
        pretrained: as in `recipe`.
        seed: put into the recipe.

    Raises:
        ValueError: if `data` is a name that has no recipe, or for a value out of range.
    """
    if method not in METHODS:
        return AdversarialConfig(method=method, eps=eps)  # which raises, and names the nearest
    family = "large" if pretrained else family_of(data)
    fit = recipe(data, name, pretrained=pretrained, seed=seed).fit
    fit = replace(fit, label_smoothing=0.0, **_FIT.get(family, {}).get(method, {}))
    if method == "fast" and not fit.validation:
        fit = replace(fit, validation=0.1)
    attack = _ATTACK.get(family, {}).get(method, {})
    return AdversarialConfig(fit=fit, method=method, eps=eps, **attack)
