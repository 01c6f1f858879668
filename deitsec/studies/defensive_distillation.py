"""Defensive distillation, as its authors measured it and as it was broken."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import APGD, CW, JSMA, PGD, Attack
from deitsec.data import balanced_rows, to_float
from deitsec.engine import Engine
from deitsec.metrics.gradient_amplitude import (
    AMPLITUDE_EDGES,
    amplitude_shares,
    log10_gradient_amplitude,
)
from deitsec.models import Classifier
from deitsec.studies.defensive_distillation_figures import BASELINE
from deitsec.studies.defensive_distillation_page import render
from deitsec.studies.defensive_distillation_published import TEMPERATURES
from deitsec.studies.seen_images import accuracy_seen, accuracy_unseen
from deitsec.studies.study import Study, StudyRun
from deitsec.training import FitConfig, new_model, predict, recipe
from deitsec.training.defensive import (
    DefensiveConfig,
    distill_at_temperature,
    fit_at_temperature,
)
from deitsec.verification.suite import suite_eps

Piece = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is measured, and how the networks are trained.

    Attributes:
        temperatures: of training; each takes two networks.
        samples: test images that are aimed at each other class.
        features: values of an image that JSMA may change.
        gradient_samples: test images whose gradients are measured.
        strong_samples: test images under PGD, APGD and C&W.
        eps: L-infinity radius of PGD and APGD; None takes what the field uses on such data.
        network: papernot_mnist or papernot_cifar10; None takes the one for the data's channels.
        epochs, batch_size, optimizer, lr, schedule, precision, threads: changes to the recipe of
            the paper.
    """

    temperatures: tuple[float, ...] = field(
        default=TEMPERATURES,
        metadata={"help": "Temperatures of training, with commas between them."},
    )
    samples: int = field(default=100, metadata={"help": "Images aimed at each other class."})
    features: int = field(default=112, metadata={"help": "Values that JSMA may change."})
    gradient_samples: int = field(
        default=1000, metadata={"help": "Images whose gradients are measured."}
    )
    strong_samples: int = field(default=200, metadata={"help": "Images under PGD, APGD and C&W."})
    eps: float | None = field(default=None, metadata={"help": "Radius of PGD and APGD."})
    network: str | None = field(default=None, metadata={"help": "The paper's network."})
    epochs: int | None = field(default=None, metadata={"help": "Of each training; the paper's 50."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Images a step; the paper's 128."}
    )
    optimizer: str | None = field(default=None, metadata={"help": "The paper's momentum."})
    lr: float | None = field(default=None, metadata={"help": "Learning rate; the paper's."})
    schedule: str | None = field(default=None, metadata={"help": "Of the rate; the paper's."})
    precision: str | None = field(default=None, metadata={"help": "Of training: fp32 or bf16."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads of training."})

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.temperatures:
            raise ValueError("temperatures must name at least one, got none")
        for temperature in self.temperatures:
            if not 0 < temperature < math.inf:
                raise ValueError(f"temperatures must be > 0 and finite, got {temperature:g}")
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"temperatures must differ, got {self.temperatures}")
        for name in ("samples", "features", "gradient_samples", "strong_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")


class Probabilities(nn.Module):
    """A network as it is deployed: softmax(z), in fp32, where saturated gradients are 0.

    Args:
        model: images -> logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities (B, K) of images (B, C, H, W)."""
        return self.model(images).float().softmax(1)


class Cooled(nn.Module):
    """A network whose logits are divided by T again: what an attacker who knows of T looks at.

    Args:
        model: images -> logits.
        temperature: T.
    """

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W), over T."""
        return self.model(images) / self.temperature


def measure(run: StudyRun[Options]) -> Piece:
    """Train the networks of every temperature and attack them."""
    options = run.options
    fitted = _recipe(run)
    first = partial(_first, run, fitted)
    baseline = first(1.0)
    measured = [_measured(run, baseline, BASELINE, 1.0)]
    teacher = baseline
    for temperature in options.temperatures:
        teacher = baseline if temperature == 1 else first(temperature)
        student = run.network(
            f"distilled-{temperature:g}",
            partial(_new, run, 1),
            lambda model, teacher=teacher, temperature=temperature, **more: distill_at_temperature(
                model.to(run.device),
                teacher,
                run.data,
                DefensiveConfig(fit=fitted, temperature=temperature),
                **more,
            ),
        )
        measured.append(_measured(run, student, f"{temperature:g}", temperature))
    last = f"{options.temperatures[-1]:g}"
    return {
        "network": _network_name(run),
        "recipe": dataclasses.asdict(fitted),
        "paper_recipe": dataclasses.asdict(_paper_recipe(run)),
        "eps": _eps(run),
        "edges": list(AMPLITUDE_EDGES),
        "networks": measured,
        "train_rows": 0 if run.data.train is None else len(run.data.train),
        "seen": run.part(f"{BASELINE}-seen", partial(accuracy_seen, baseline, run.data)),
        "last_teacher": {
            "clean": run.part(f"{last}-teacher-clean", partial(accuracy_unseen, teacher, run.data)),
            "seen": run.part(f"{last}-teacher-seen", partial(accuracy_seen, teacher, run.data)),
        },
        "ways": _ways(run, baseline),
        "control": _control(run, fitted),
    }


def _ways(run: StudyRun[Options], network: Classifier) -> Piece:
    """JSMA on the undistilled network in the other ways that it could be meant."""
    saturated = partial(_jsma, run, Probabilities(network), network, skip_saturated=False)
    return {
        "saturated": run.part(f"{BASELINE}-jsma_saturated", saturated),
        "logits": run.part(f"{BASELINE}-jsma_logits", partial(_jsma, run, network, network)),
    }


def _control(run: StudyRun[Options], fitted: FitConfig) -> Piece | None:
    """An undistilled network by the paper's recipe, of as many epochs; None where all are.

    Another precision alone makes none.
    """
    names = ("epochs", "batch_size", "threads")
    kept = {name: getattr(fitted, name) for name in names}
    paper = dataclasses.replace(_paper_recipe(run), **kept)
    if dataclasses.replace(paper, precision=fitted.precision) == fitted:
        return None
    network = run.network(
        "control",
        partial(_new, run, 0),
        lambda model, **more: fit_at_temperature(
            model.to(run.device), run.data, DefensiveConfig(fit=paper, temperature=1.0), **more
        ),
    )
    return {
        "clean": run.part("control-clean", partial(_clean, run, network)),
        "jsma": run.part("control-jsma", partial(_jsma, run, Probabilities(network), network)),
    }


def _first(run: StudyRun[Options], fitted: FitConfig, temperature: float) -> Classifier:
    """F: trained on the labels at a temperature."""
    return run.network(
        f"first-{temperature:g}",
        partial(_new, run, 0),
        lambda model, **more: fit_at_temperature(
            model.to(run.device),
            run.data,
            DefensiveConfig(fit=fitted, temperature=temperature),
            **more,
        ),
    )


def _new(run: StudyRun[Options], offset: int) -> Classifier:
    return new_model(_network_name(run), run.data, seed=run.seed + offset)


def _network_name(run: StudyRun[Options]) -> str:
    grey = run.data.test.shape[0] == 1
    return run.options.network or ("papernot_mnist" if grey else "papernot_cifar10")


def _recipe(run: StudyRun[Options]) -> FitConfig:
    """The paper's, with what was asked for."""
    names = ("epochs", "batch_size", "optimizer", "lr", "schedule", "precision", "threads")
    given = {name: getattr(run.options, name) for name in names}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(_paper_recipe(run), **changes)


def _paper_recipe(run: StudyRun[Options]) -> FitConfig:
    return recipe(run.data, _network_name(run), seed=run.seed).fit


def _eps(run: StudyRun[Options]) -> float:
    return suite_eps(run.data) if run.options.eps is None else run.options.eps


def _measured(run: StudyRun[Options], network: Classifier, name: str, temperature: float) -> Piece:
    """Everything about one network, each attack a piece of its own."""
    pieces: dict[str, Callable[[], Piece]] = {
        "clean": partial(_clean, run, network),
        "gradients": partial(_gradients, run, network),
        "jsma": partial(_jsma, run, Probabilities(network), network),
        "jsma_cooled": partial(_jsma, run, Probabilities(Cooled(network, temperature)), network),
        "pgd": partial(_budget, run, network, PGD(eps=_eps(run), alpha=_eps(run) / 10, steps=40)),
        "pgd_cooled": partial(
            _budget,
            run,
            Cooled(network, temperature),
            PGD(eps=_eps(run), alpha=_eps(run) / 10, steps=40),
        ),
        "apgd_dlr": partial(_budget, run, network, APGD(eps=_eps(run), loss="dlr")),
        "cw": partial(_cw, run, network),
    }
    found: Piece = {"name": name, "temperature": temperature}
    for key, make in pieces.items():
        plain = key.removesuffix("_cooled")
        if plain != key and temperature == 1:
            found[key] = found[plain]  # nothing is cooled
        else:
            found[key] = run.part(f"{name}-{key}", make)
    return found


def _clean(run: StudyRun[Options], network: Classifier) -> Piece:
    logits, labels = predict(network, run.data.test), run.data.test.labels
    sure = logits.softmax(1).amax(1).double().mean().item()
    top = logits.topk(2, 1).values
    return {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "confidence": sure,
        "logit_lead": (top[:, 0] - top[:, 1]).double().mean().item(),
        "rows": len(labels),
    }


def _gradients(run: StudyRun[Options], network: Classifier) -> Piece:
    """How the mean amplitudes of the images' gradients lie in the paper's ranges."""
    count = min(run.options.gradient_samples, len(run.data.test))
    images = to_float(run.data.test.images(torch.arange(count))).to(run.device)
    amplitudes = log10_gradient_amplitude(network, images).cpu()
    finite = amplitudes[amplitudes.isfinite()]
    return {
        "rows": count,
        "bins": amplitude_shares(amplitudes),
        "zero": int((~amplitudes.isfinite()).sum()),
        "median_log10": finite.median().item() if len(finite) else None,
        "least_log10": finite.min().item() if len(finite) else None,
    }


def _jsma(
    run: StudyRun[Options], seen: nn.Module, network: Classifier, *, skip_saturated: bool = True
) -> Piece:
    """Each sample aimed at every other class; a failure counts as all features that may change."""
    options, classes = run.options, run.data.num_classes
    images, labels = _samples(run, options.samples)
    values = images[0].numel()
    rows = torch.arange(len(images)).repeat_interleave(classes - 1)
    steps = torch.arange(1, classes).repeat(len(images))
    targets = (labels[rows] + steps) % classes
    limit = min(options.features, values)
    # as the authors' cleverhans has it
    attack = JSMA(gamma=limit / values, skip_saturated=skip_saturated)
    result = Engine(seen, seed=run.seed).run(
        attack,
        images[rows],
        labels[rows],
        targets,
        progress=run.rows("jsma"),
    )
    reached = network_reaches(network, result.adv, targets)
    changed = result.distance("l0").double()
    share = torch.where(reached, changed, float(limit)) / values
    least = share.reshape(len(images), -1).amin(1)
    return {
        "rows": len(rows),
        "limit": limit,
        "success": reached.double().mean().item(),
        "robustness": least.mean().item(),
        "mean_share": share.mean().item(),
        "mean_share_reached": (changed[reached] / values).mean().item() if reached.any() else None,
        "undriven": (~result.driven).double().mean().item(),
        "seconds": result.seconds,
    }


@torch.no_grad()
def network_reaches(network: Classifier, adv: Tensor, targets: Tensor) -> Tensor:
    """(B,) bool: the deployed network takes images for their targets, by its logits."""
    parts = zip(adv.split(256), targets.split(256), strict=True)
    return torch.cat([network(x).argmax(1) == y.to(x.device) for x, y in parts]).cpu()


def _budget(run: StudyRun[Options], seen: nn.Module, attack: Attack) -> Piece:
    images, labels = _samples(run, run.options.strong_samples)
    progress = run.rows(attack.name)
    result = Engine(seen, seed=run.seed).run(attack, images, labels, progress=progress)
    return {
        "rows": len(images),
        "accuracy": result.robust_accuracy,
        "undriven": (~result.driven).double().mean().item(),
        "seconds": result.seconds,
    }


def _cw(run: StudyRun[Options], network: Classifier) -> Piece:
    """C&W's L2, which looks at logits and needs no temperature."""
    images, labels = _samples(run, run.options.strong_samples)
    attack = CW(steps=100, search_steps=5, initial_const=1e-2, lr=0.1)
    result = Engine(network, seed=run.seed).run(attack, images, labels, progress=run.rows("cw"))
    right = result.clean_correct  # a row that was wrong before has fallen at distance 0
    distance = result.distance("l2")[result.success & right]
    return {
        "rows": int(right.sum()),
        "success": result.success[right].double().mean().item() if right.any() else None,
        "median_l2": distance.median().item() if len(distance) else None,
        "seconds": result.seconds,
    }


def _samples(run: StudyRun[Options], count: int) -> tuple[Tensor, Tensor]:
    """The first test images, as many of each class as `count` allows."""
    test, classes = run.data.test, run.data.num_classes
    least = int(test.labels.bincount(minlength=classes).min())
    rows = balanced_rows(test.labels, min(least, max(1, count // classes)), classes)
    return to_float(test.images(rows)).to(run.device), test.labels[rows].to(run.device)


STUDY = Study(
    name="defensive-distillation",
    title="Defensive distillation",
    source=(
        "Papernot, McDaniel, Wu, Jha and Swami, Distillation as a Defense to Adversarial "
        "Perturbations against Deep Neural Networks, arXiv:1511.04508; and Carlini and Wagner, "
        "arXiv:1608.04644, who broke it"
    ),
    data="mnist",
    options=Options,
    quick={
        "temperatures": (20.0,),
        "samples": 10,
        "features": 60,
        "gradient_samples": 20,
        "strong_samples": 20,
        "epochs": 8,
        "batch_size": 16,
        "optimizer": "adam",
        "lr": 2e-3,
        "schedule": "cosine",
        "threads": 1,
    },
    measure=measure,
    render=render,
    free=("temperatures",),
)
