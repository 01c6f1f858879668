"""Two networks for MNIST: trained, fooled in four ways, and defended."""

from functools import partial
from typing import Any

from deitsec.studies.mnist_adversarial_crafting import (
    answers,
    fast_gradient_sign,
    from_noise,
)
from deitsec.studies.mnist_adversarial_defenses import measure_defenses
from deitsec.studies.mnist_adversarial_networks import Networks
from deitsec.studies.mnist_adversarial_options import Options
from deitsec.studies.mnist_adversarial_page import render
from deitsec.studies.mnist_adversarial_targeted import literally, surely, towards
from deitsec.studies.study import Study, StudyRun


def measure(run: StudyRun[Options]) -> dict[str, Any]:
    """Train both networks, craft images for each, and hold the defenses against each other."""
    networks = Networks(run)
    dense, dense_training = networks.dense()
    convolutional, convolutional_training = networks.convolutional()
    trained = {
        "dense": (dense, dense_training),
        "convolutional": (convolutional, convolutional_training),
    }
    found: dict[str, Any] = {}
    for name, (network, training) in trained.items():
        pieces = {
            "answers": partial(answers, network, run.data.test),
            "fgsm": partial(fast_gradient_sign, run, network),
            "noise": partial(from_noise, run, network),
            "targeted": partial(towards, run, network),
            "targeted_sure": partial(surely, run, network),
            "targeted_literal": partial(literally, run, network),
        }
        measured = {key: run.part(f"{name}-{key}", make) for key, make in pieces.items()}
        found[name] = {"training": training, **measured}
    return {
        "class_names": list(run.data.class_names),
        "eps": networks.eps,
        "networks": found,
        "defenses": measure_defenses(networks, convolutional),
    }


STUDY = Study(
    name="mnist-adversarial",
    title="Two networks for MNIST, fooled and defended",
    source=(
        "a study of adversarial AI on MNIST (a dense and a convolutional network, images crafted "
        "by the squared error of the answer), Goodfellow et al. (arXiv:1412.6572) and, for the "
        "defenses, Madry et al. (arXiv:1706.06083) and Papernot et al. (arXiv:1511.04508)"
    ),
    data="mnist",
    options=Options,
    quick={
        "steps": 400,
        "per_class": 5,
        "radii": (0.05, 0.1, 0.2),
        "crafting_steps": 40,
        "noises": 2,
        "network": "mnist_dense",
        "epochs": 8,
        "adversarial_epochs": 5,
        "adversarial_steps": 3,
        "defended_per_class": 3,
        "attack_steps": 10,
        "adaptive_steps": 10,
        "draws": 4,
        "noise": 0.1,
        "shown_eps": 0.1,
    },
    measure=measure,
    render=render,
)
