"""What a DeiT inherits of its teacher: from scratch, distilled, and from a robust teacher."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deitsec.attacks import FGSM, PGD, Attack, parse_spec
from deitsec.data import balanced_rows, to_float
from deitsec.engine import Engine
from deitsec.models import Classifier
from deitsec.studies.deit_distillation_page import render
from deitsec.studies.study import Study, StudyRun
from deitsec.training import (
    DistillConfig,
    RobustDistillConfig,
    adversarial_fit,
    adversarial_recipe,
    distill,
    fit,
    new_model,
    predict,
    recipe,
    robust_distill,
)
from deitsec.verification.suite import suite_eps

Piece = dict[str, Any]
Train = Callable[..., Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is trained and how it is attacked.

    Attributes:
        student: a DeiT with a distillation token, by name.
        teacher: a convolutional network, by name.
        temperature, alpha: of soft distillation; see `DistillConfig`.
        eps: L-infinity radius of the attacks and of adversarial training; None takes what the field
            uses on such data.
        per_class: test images of each class under attack.
        epochs: of every training; None takes the recipes'.
        strongest: spec of the attack that decides, at eps.
    """

    student: str = field(default="deit_micro", metadata={"help": "A DeiT, by name."})
    teacher: str = field(default="small_cnn", metadata={"help": "A convolutional network."})
    temperature: float = field(default=3.0, metadata={"help": "Of soft distillation."})
    alpha: float = field(default=0.5, metadata={"help": "Weight of the teacher."})
    eps: float | None = field(default=None, metadata={"help": "L-infinity radius."})
    per_class: int = field(default=50, metadata={"help": "Test images of a class under attack."})
    epochs: int | None = field(default=None, metadata={"help": "Of every training."})
    strongest: str = field(default="reliable", metadata={"help": "The attack that decides."})

    def __post_init__(self) -> None:
        """Check what no recipe checks."""
        if self.per_class < 1:
            raise ValueError(f"per_class must be >= 1, got {self.per_class}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be >= 1, got {self.epochs}")
        DistillConfig(temperature=self.temperature, alpha=self.alpha)
        parse_spec(self.strongest)


def measure(run: StudyRun[Options]) -> Piece:
    """Train teachers and students, and attack each of them alike."""
    networks: list[Piece] = []
    for name, network, how in _trained(run):
        found: Piece = {"name": name, "trained": how, "architecture": network.name}
        found["clean"] = run.part(f"{name}-clean", partial(_clean, run, network))
        for key, attack in _attacks(run).items():
            found[key] = run.part(f"{name}-{key}", partial(_attacked, run, network, attack))
        networks.append(found)
    return {
        "eps": _eps(run),
        "classes": run.data.num_classes,
        "curve": _curve(run),
        "networks": networks,
    }


def _trained(run: StudyRun[Options]) -> list[tuple[str, Classifier, str]]:
    """(name, network, how it was trained) of every network."""
    options, eps = run.options, _eps(run)
    on_labels = recipe(run.data, options.teacher, seed=run.seed).fit.with_epochs(options.epochs)
    teacher = _network(run, "teacher", options.teacher, partial(fit, config=on_labels))
    against = adversarial_recipe(run.data, options.teacher, eps=eps, seed=run.seed)
    against = dataclasses.replace(
        against, fit=against.fit.with_epochs(options.epochs), curve_every=None
    )
    strong = _network(
        run, "robust-teacher", options.teacher, partial(adversarial_fit, config=against)
    )
    plain = recipe(run.data, options.student, seed=run.seed)
    student = dataclasses.replace(plain.fit, label_smoothing=0.0).with_epochs(options.epochs)
    soft, hard = (
        DistillConfig(
            fit=student, method=method, temperature=options.temperature, alpha=options.alpha
        )
        for method in ("soft", "hard")
    )
    # from new weights, attacked images teach a small transformer one constant answer
    gentle = dataclasses.replace(
        student,
        augmentation=None,
        epochs=max(1, student.epochs // 2),
        warmup_epochs=student.warmup_epochs / 2,
        lr=student.lr / 2,
    )
    handed_on = RobustDistillConfig(fit=gentle, eps=eps, steps=against.num_steps)
    hardened = dataclasses.replace(against, method="trades", steps=against.num_steps, fit=gentle)
    ways: list[tuple[str, Train, str | None, str]] = [
        ("scratch", partial(fit, config=student), None, "on labels"),
        ("soft", _taught(distill, teacher, soft), None, "soft distillation from the teacher"),
        ("hard", _taught(distill, teacher, hard), None, "hard distillation from the teacher"),
        (
            "soft-robust",
            _taught(distill, strong, soft),
            None,
            "soft distillation from the robust teacher, on clean images",
        ),
        (
            "robust",
            _taught(robust_distill, strong, handed_on),
            "soft",
            "robust distillation from the robust teacher, on from soft",
        ),
        (
            "adversarial",
            partial(adversarial_fit, config=hardened),
            "scratch",
            "adversarial training (TRADES) without a teacher, on from scratch",
        ),
    ]
    made = {"teacher": (teacher, "on labels"), "robust-teacher": (strong, "PGD training")}
    for name, train, start, how in ways:
        weights = None if start is None else made[start][0]
        made[name] = _network(run, f"deit-{name}", options.student, train, weights), how
    return [(name, network, how) for name, (network, how) in made.items()]


def _taught(train: Train, teacher: Classifier, config: Any) -> Train:
    def from_teacher(student: Classifier, data: Any, **more: Any) -> Any:
        return train(student, teacher, data, config, **more)

    return from_teacher


def _network(
    run: StudyRun[Options],
    name: str,
    architecture: str,
    train: Train,
    start: Classifier | None = None,
) -> Classifier:
    def build() -> Classifier:
        model = new_model(architecture, run.data, seed=run.seed)
        if start is not None:
            model.load_state_dict(start.state_dict())
        return model

    return run.network(
        name,
        build,
        lambda model, **more: train(model.to(run.device), run.data, **more),
    )


def _eps(run: StudyRun[Options]) -> float:
    return suite_eps(run.data) if run.options.eps is None else run.options.eps


def _curve(run: StudyRun[Options]) -> list[float]:
    return [_eps(run) * share for share in (0.125, 0.25, 0.5)]


def _attacks(run: StudyRun[Options]) -> dict[str, Attack]:
    eps = _eps(run)
    curve = {
        f"pgd-{index}": PGD(eps=size, alpha=size / 4, steps=20)
        for index, size in enumerate(_curve(run))
    }
    return {
        "fgsm": FGSM(eps=eps),
        **curve,
        "pgd": PGD(eps=eps, alpha=eps / 4, steps=20),
        "strongest": parse_spec(run.options.strongest, eps=eps),
    }


def _clean(run: StudyRun[Options], network: Classifier) -> Piece:
    predicted = predict(network, run.data.test).argmax(1)
    right = (predicted == run.data.test.labels).double().mean().item()
    return {"accuracy": right, "rows": len(predicted)}


def _attacked(run: StudyRun[Options], network: Classifier, attack: Attack) -> Piece:
    images, labels = _rows(run)
    engine = Engine(network, seed=run.seed)
    result = engine.run(attack, images, labels, progress=run.rows(attack.name))
    return {
        "accuracy": result.robust_accuracy,
        "rows": len(labels),
        "seconds": result.seconds,
    }


def _rows(run: StudyRun[Options]) -> tuple[Tensor, Tensor]:
    test, classes = run.data.test, run.data.num_classes
    least = int(torch.bincount(test.labels, minlength=classes).min())
    rows = balanced_rows(test.labels, min(least, run.options.per_class), classes)
    return to_float(test.images(rows)).to(run.device), test.labels[rows].to(run.device)


STUDY = Study(
    name="deit-distillation",
    title="What a DeiT inherits of its teacher",
    source=(
        "Touvron et al., Training data-efficient image transformers and distillation through "
        "attention, arXiv:2012.12877; Hinton et al., arXiv:1503.02531; Goldblum et al., "
        "Adversarially Robust Distillation, arXiv:1905.09747"
    ),
    data="digits",
    options=Options,
    quick={"per_class": 2, "epochs": 2, "strongest": "apgd:steps=10"},
    measure=measure,
    render=render,
)
