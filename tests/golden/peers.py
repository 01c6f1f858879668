"""The deterministic attacks as torchattacks, foolbox and ART run them; imported when called."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

EPS, ALPHA, STEPS = 0.1, 0.02, 8

Peer = Callable[[nn.Module, Tensor, Tensor], np.ndarray]


def peers() -> dict[tuple[str, str], Peer]:
    """(library, our name of the attack) -> (model, images, labels) -> adversarial images."""
    return {
        ("torchattacks", "fgsm"): lambda *given: _torchattacks("FGSM", *given),
        ("torchattacks", "bim"): lambda *given: _torchattacks("BIM", *given, alpha=ALPHA),
        ("torchattacks", "mifgsm"): lambda *given: _torchattacks("MIFGSM", *given, alpha=ALPHA),
        ("torchattacks", "illc"): _torchattacks_illc,
        ("foolbox", "fgsm"): lambda *given: _foolbox("LinfFastGradientAttack", *given),
        ("foolbox", "bim"): lambda *given: _foolbox(
            "LinfBasicIterativeAttack", *given, abs_stepsize=ALPHA, steps=STEPS
        ),
        ("art", "fgsm"): lambda *given: _art("FastGradientMethod", *given),
        ("art", "bim"): lambda *given: _art(
            "BasicIterativeMethod", *given, eps_step=ALPHA, max_iter=STEPS
        ),
    }


def _torchattacks(name, model, images, labels, **options):
    import torchattacks

    if "alpha" in options:
        options["steps"] = STEPS
    return getattr(torchattacks, name)(model, eps=EPS, **options)(images, labels).numpy()


def _torchattacks_illc(model, images, labels):
    import torchattacks

    attack = torchattacks.BIM(model, eps=EPS, alpha=ALPHA, steps=STEPS)
    attack.set_mode_targeted_least_likely(quiet=True)
    return attack(images, labels).numpy()


def _foolbox(name, model, images, labels, **options):
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = getattr(foolbox.attacks, name)(random_start=False, **options)
    return attack.run(
        wrapped, images, foolbox.criteria.Misclassification(labels), epsilon=EPS
    ).numpy()


def _art(name, model, images, labels, **options):
    import art.attacks.evasion
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(images.shape[1:]), 10, clip_values=(0, 1)
    )
    attack = getattr(art.attacks.evasion, name)(classifier, eps=EPS, batch_size=64, **options)
    return attack.generate(images.numpy(), torch.nn.functional.one_hot(labels, 10).numpy())
