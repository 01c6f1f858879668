"""Recipes of adversarial training that were tried, by data and method."""

from dataclasses import replace
from typing import Any

from deitsec.data import DataSource
from deitsec.training.adversarial_config import METHODS, AdversarialConfig, AdversarialMethod
from deitsec.training.recipes import Shape, family_of, recipe

# Unmoved digits: with moves the few images and short runs do not suffice to learn to withstand. On
# one core the run of pgd takes about 20 s. Other data have their recipe on labels, made longer.
_DIGITS: dict[str, Any] = {"augmentation": None, "batch_size": 32}
_MNIST: dict[str, Any] = {"augmentation": None, "epochs": 5, "batch_size": 64, "lr": 2e-3}
_FIT: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        "mixture": {**_DIGITS, "epochs": 20},
        "pgd": {**_DIGITS, "epochs": 12},
        "trades": {**_DIGITS, "epochs": 12},
        "fast": {**_DIGITS, "epochs": 20},
        "free": {**_DIGITS, "epochs": 8},
    },
    "mnist": {
        "mixture": _MNIST,
        "pgd": _MNIST,
        "trades": _MNIST,
        "fast": _MNIST,
        "free": {**_MNIST, "epochs": 2},
    },
    "cifar10": {"free": {"epochs": 4}},
}
_ATTACK: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {"pgd": {"steps": 3}, "trades": {"steps": 3}, "free": {"replays": 4}},
}
_WARMUP = 0.1  # of the epochs


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

    It is the model's recipe on labels without label smoothing, which hides gradients, and for
    `small_cnn` with what the method needs. The recipes of the digits were tried to their end; the
    accuracies that they come to are upper bounds, as those of `recipe` are.

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
    changes = _FIT.get(family, {}).get(method, {}) if name == "small_cnn" else {}
    if "epochs" in changes:
        changes = {**changes, "warmup_epochs": _WARMUP * changes["epochs"]}
    fit = replace(fit, label_smoothing=0.0, **changes)
    if method == "fast" and not fit.validation:
        fit = replace(fit, validation=0.1)
    attack = _ATTACK.get(family, {}).get(method, {})
    return AdversarialConfig(fit=fit, method=method, eps=eps, **attack)
