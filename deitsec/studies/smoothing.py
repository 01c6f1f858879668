"""Randomised smoothing: what is certified, and what an attack that knows of the noise leaves."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deitsec.attacks import PGD, PGDL2
from deitsec.data import to_float
from deitsec.defenses.binomial import check_alpha
from deitsec.defenses.certification import certify_rows, nominal_accuracy
from deitsec.defenses.smoothed_attack import (
    OBJECTIVES,
    Objective,
    SmoothedAttack,
    attack_smoothed,
)
from deitsec.defenses.smoothing import SmoothedClassifier, check_copies, check_sigma
from deitsec.engine import Engine
from deitsec.models import Classifier
from deitsec.studies.smoothing_page import render
from deitsec.studies.study import Study, StudyRun
from deitsec.training import fit
from deitsec.training.recipes import new_model, recipe
from deitsec.verification.protocol import choose_rows
from deitsec.verification.suite import suite_eps


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the study goes."""

    sigmas: tuple[float, ...] = field(
        default=(0.12, 0.25, 0.5, 1.0), metadata={"help": "Noise of training and smoothing."}
    )
    radii: tuple[float, ...] = field(
        default=(0.25, 0.5, 0.75, 1.0, 1.25, 1.5), metadata={"help": "L2 radii of the attacks."}
    )
    samples: int = field(default=10_000, metadata={"help": "Noisy copies that are counted."})
    select: int = field(default=100, metadata={"help": "Noisy copies that pick the class."})
    alpha: float = field(default=0.001, metadata={"help": "Failure rate of a certificate."})
    per_class: int = field(default=10, metadata={"help": "Test images of each class."})
    model: str = field(default="small_cnn", metadata={"help": "The network."})
    epochs: int = field(default=0, metadata={"help": "Of each training; 0 takes the recipe's."})
    steps: int = field(default=40, metadata={"help": "Of the attacks."})
    draws: int = field(default=16, metadata={"help": "Noisy copies that each step averages."})
    votes: int = field(default=1000, metadata={"help": "Noisy copies that judge an attack."})

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            ValueError: an option out of its range.
        """
        for sigma in self.sigmas:
            check_sigma(sigma)
        if not self.sigmas or not self.radii or min(self.radii) <= 0:
            raise ValueError("sigmas and radii must hold at least one number > 0 each")
        check_alpha(self.alpha)
        check_copies(
            **{name: getattr(self, name) for name in ("samples", "select", "votes", "draws")}
        )
        for name in ("per_class", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def measure(run: StudyRun[Options]) -> dict[str, Any]:
    """Train under each noise, certify, and attack what is certified."""
    options = run.options
    rows = choose_rows(run.data, options.per_class)
    plain = _network(run, 0.0)
    return {
        "rows": len(rows),
        "model": options.model,
        "undefended": run.part("undefended", partial(_attack_plain, run, plain, rows)),
        "smoothed": [_smoothed(run, sigma, rows) for sigma in options.sigmas],
    }


def _network(run: StudyRun[Options], noise: float) -> Classifier:
    name, data = run.options.model, run.data
    config = recipe(data, name, seed=run.seed, noise=noise).fit.with_epochs(run.options.epochs)

    def train(network: Classifier, **more: Any) -> Any:
        return fit(network.to(run.device), data, config, **more)

    return run.network(f"noise-{noise:g}", lambda: new_model(name, data, seed=run.seed), train)


def _attack_plain(run: StudyRun[Options], model: Classifier, rows: Tensor) -> dict[str, Any]:
    """The network trained without noise, attacked at the same radii."""
    images, labels = to_float(run.data.test.images(rows)), run.data.test.labels[rows]
    engine = Engine(model, seed=run.seed)
    accuracy, points = 0.0, []
    for radius in run.options.radii:
        attack = PGDL2(eps=radius, steps=run.options.steps)
        result = engine.run(attack, images, labels, sample_ids=rows)
        points.append({"radius": radius, "accuracy": result.robust_accuracy})
        accuracy = _share(result.clean_correct)
    return {"accuracy": accuracy, "attacked": points}


def _smoothed(run: StudyRun[Options], sigma: float, rows: Tensor) -> dict[str, Any]:
    options = run.options
    model = _network(run, sigma)
    smoothed = SmoothedClassifier(model, sigma, num_samples=options.draws, seed=run.seed)

    def certify() -> dict[str, Any]:
        found = certify_rows(
            smoothed,
            run.data,
            rows,
            n0=options.select,
            n=options.samples,
            alpha=options.alpha,
            progress=run.rows(f"certifying, sigma {sigma:g}"),
        )
        certificates = found.certificates
        return {
            **found.summary(),
            "accuracy_without_noise": nominal_accuracy(smoothed, run.data, rows),
            "curve": found.curve(),
            "right": (certificates.classes == found.labels).tolist(),
            "radii": certificates.radii.tolist(),
        }

    certified = run.part(f"certified-{sigma:g}", certify)
    attack = partial(_attack, run, smoothed, rows, certified)
    return {
        "sigma": sigma,
        "certified": certified,
        "attacked": run.part(f"attacked-{sigma:g}", attack),
    }


def _attack(
    run: StudyRun[Options], smoothed: SmoothedClassifier, rows: Tensor, certified: dict[str, Any]
) -> dict[str, Any]:
    """Votes that stay with the label under attack, in L2 at each radius and in L-infinity."""
    options = run.options
    images, labels = to_float(run.data.test.images(rows)), run.data.test.labels[rows]
    clean = smoothed.predict(images, options.votes, options.alpha, sample_ids=rows)
    right = clean.leaders == labels
    sure = torch.tensor(certified["right"])
    radii = torch.tensor(certified["radii"], dtype=torch.float64)

    def attacked(attack: PGD | PGDL2, objective: Objective) -> SmoothedAttack:
        stage = f"{attack.name} {attack.eps:g} on {objective}, sigma {smoothed.sigma:g}"
        return attack_smoothed(
            smoothed,
            attack,
            images,
            labels,
            objective=objective,
            n=options.votes,
            alpha=options.alpha,
            sample_ids=rows,
            progress=run.rows(stage),
        )

    points: list[dict[str, Any]] = []
    for radius in options.radii:
        attack = PGDL2(eps=radius, steps=options.steps)
        found = {objective: attacked(attack, objective) for objective in OBJECTIVES}
        left = {objective: one.right & right for objective, one in found.items()}
        both = torch.stack(list(left.values())).all(0)
        broken = torch.stack([one.broken for one in found.values()]).any(0)
        claimed = sure & (radii >= radius)
        points.append(
            {
                "radius": radius,
                **{objective: _share(one) for objective, one in left.items()},
                "empirical": _share(both),
                "certified": _share(claimed),
                "certified_and_broken": int((claimed & broken).sum()),
            }
        )
    eps = suite_eps(run.data)
    attack = PGD(eps=eps, steps=options.steps)
    left = [attacked(attack, objective).right & right for objective in OBJECTIVES]
    both = torch.stack(left).all(0)
    return {
        "accuracy": _share(right),
        "points": points,
        "linf": {"eps": eps, "empirical": _share(both)},
    }


def _share(rows: Tensor) -> float:
    return rows.double().mean().item()


STUDY = Study(
    name="smoothing",
    title="Randomised smoothing: certified, and attacked",
    source="Cohen, Rosenfeld and Kolter, Certified Adversarial Robustness via Randomized "
    "Smoothing, arXiv:1902.02918; attacked as in Salman et al., arXiv:1906.04584, and by "
    "expectation over transformation, Athalye et al., arXiv:1707.07397",
    data="mnist",
    options=Options,
    quick={
        "sigmas": (0.5,),
        "radii": (0.5, 1.0),
        "samples": 200,
        "select": 30,
        "per_class": 1,
        "steps": 8,
        "draws": 4,
        "votes": 100,
        "epochs": 4,
    },
    measure=measure,
    render=render,
)
