"""How the attacks of other libraries are called; each is imported when called.

A caller takes the model, the name of an attack as the library has it, its options, the radius or
None, images (B, C, H, W) in [0, 1], classes (B,) and whether those are aimed at, and returns what
the library returns.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Options = Mapping[str, Any]
Caller = Callable[[nn.Module, str, Options, float | None, Tensor, Tensor, bool], Tensor]

PACKAGES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
    "pyautoattack": "pyautoattack",  # the official AutoAttack, packaged
}
_AUTOATTACK = {
    "APGDAttack": "autopgd_base",
    "APGDAttack_targeted": "autopgd_base",
    "FABAttack_PT": "fab_pt",
    "SquareAttack": "square",
}


def _torchattacks(model, name, options, eps, images, classes, targeted):
    radius = {} if eps is None else {"eps": eps}
    attack = getattr(import_module("torchattacks"), name)(model, **radius, **options)
    if targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    # some change the images that they are given, and so do not see a later call's
    return attack(images.clone(), classes)


def _foolbox(model, name, options, eps, images, classes, targeted):
    foolbox = import_module("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    criteria = foolbox.criteria
    goal = (criteria.TargetedMisclassification if targeted else criteria.Misclassification)(classes)
    radius = {} if eps is None else {"epsilon": eps}
    return getattr(foolbox.attacks, name)(**options).run(wrapped, images, goal, **radius)


def _art(model, name, options, eps, images, classes, targeted):
    classifiers = import_module("art.estimators.classification")
    with torch.no_grad():
        num_classes = model(images[:1]).shape[1]
    classifier = classifiers.PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        tuple(images.shape[1:]),
        num_classes,
        clip_values=(0, 1),
        device_type="cpu",
    )
    radius = {} if eps is None else {"eps": eps}
    quiet = {"verbose": False}
    attack = getattr(import_module("art.attacks.evasion"), name)(
        classifier, **radius, **options, **quiet
    )
    one_hot = functional.one_hot(classes, num_classes).numpy()
    return torch.from_numpy(attack.generate(images.numpy(), one_hot))


def _pyautoattack(model, name, options, eps, images, classes, targeted):
    assert not targeted
    module = import_module(f"pyautoattack.{_AUTOATTACK[name]}")
    radius = {} if eps is None else {"eps": eps}
    attack = getattr(module, name)(model, device="cpu", **radius, **options)
    return attack.perturb(images, classes)


CALLERS: dict[str, Caller] = {
    "torchattacks": _torchattacks,
    "foolbox": _foolbox,
    "art": _art,
    "pyautoattack": _pyautoattack,
}
