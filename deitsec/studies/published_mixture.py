"""Training on clean and adversarial images at the published radius, beside the published errors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from deitsec.attacks import FGSM
from deitsec.data import to_float
from deitsec.engine import Engine
from deitsec.models import Classifier
from deitsec.report.wording import points
from deitsec.studies.plain_network import plain_network
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table
from deitsec.studies.whole_mnist import is_whole_mnist
from deitsec.training import AdversarialConfig, adversarial_fit, adversarial_recipe
from deitsec.training.recipes import new_model

EPS = 0.25
# Goodfellow et al., arXiv:1412.6572, section 6: a maxout network on MNIST, without and with
PUBLISHED: Mapping[str, tuple[float, float]] = {
    "error, clean": (0.0094, 0.0084),
    "error under FGSM": (0.894, 0.179),
}
_APART = 0.02
_MOVED = 0.005  # half a point: one standard error of 10,000 images at most
_HOW = ("without", "with")


def measure_mixture(
    run: StudyRun[Any], undefended: Classifier, *, name: str, epochs: int
) -> dict[str, Any]:
    """Train a network by the mixture at eps 0.25, and attack both by FGSM on all test images.

    Both are trained for twice as long too, to see whether what differs from the published is the
    length of the training.

    Args:
        run: of a study.
        undefended: a network trained on clean images alone.
        name: of its architecture.
        epochs: of the training; 0 takes the recipe's.
    """
    plan = adversarial_recipe(run.data, name, method="mixture", eps=EPS, seed=run.seed)
    plan = replace(plan, fit=plan.fit.with_epochs(epochs), curve_every=None)
    trained = _by_mixture(run, "mixture-published-eps", name, plan)
    found = run.part(
        "mixture-errors",
        lambda: {"model": name, "epochs": plan.fit.epochs, **_errors(run, (undefended, trained))},
    )
    twice = 2 * plan.fit.epochs
    plain = plain_network(run, f"{name}-twice", name, epochs=twice)
    longer = _by_mixture(run, "mixture-twice", name, replace(plan, fit=plan.fit.with_epochs(twice)))
    more = run.part("mixture-twice-errors", lambda: _errors(run, (plain, longer)))
    return {**found, "mnist": is_whole_mnist(run.data), "twice": {"epochs": twice, **more}}


def _by_mixture(run: StudyRun[Any], piece: str, name: str, plan: AdversarialConfig) -> Classifier:
    return run.network(
        piece,
        lambda: new_model(name, run.data, seed=run.seed).to(run.device),
        lambda network, **more: adversarial_fit(network, run.data, plan, **more),
    )


def _errors(run: StudyRun[Any], networks: Sequence[Classifier]) -> dict[str, Any]:
    """Clean and under FGSM, without the mixture and with it."""
    test = run.data.test
    images = to_float(test.images(torch.arange(len(test))))
    found: dict[str, Any] = {"rows": len(images), **{what: [] for what in PUBLISHED}}
    for network in networks:
        result = Engine(network, seed=run.seed, stop="never").run(
            FGSM(eps=EPS), images, test.labels
        )
        wrong = (result.logits.argmax(1) != result.labels).double()
        found["error, clean"].append(1 - result.clean_correct.double().mean().item())
        found["error under FGSM"].append(wrong.mean().item())
    return found


def mixture_section(found: Mapping[str, Any]) -> str:
    """Ours beside the published, and what differs."""
    twice = found.get("twice")
    rows: list[list[str]] = []
    for what, theirs in PUBLISHED.items():
        for place, how in enumerate(("trained on clean images", "trained on the mixture")):
            ours = found[what][place]
            apart = f"{100 * (ours - theirs[place]):+.1f}"
            longer = [] if twice is None else [share(twice[what][place])]
            rows.append([f"{what}, {how}", share(theirs[place]), share(ours), apart, *longer])
    head = ("", "published", "ours", "points", *(() if twice is None else ("ours, twice as long",)))
    return (
        f"{found['model']}, {found['epochs']} epochs, all {found['rows']:,} test images, FGSM at "
        f"eps {EPS:g}, as published:\n\n" + table(head, rows) + f"\n{_differs(found)}"
    )


def _differs(found: Mapping[str, Any]) -> str:
    far = [
        (what, place)
        for what, theirs in PUBLISHED.items()
        for place in (0, 1)
        if abs(found[what][place] - theirs[place]) > _APART
    ]
    before, after = found["error under FGSM"]
    clean, price = found["error, clean"]
    told = (
        f"The error under FGSM {_went(before, after)} by {points(abs(after - before))} (published: "
        f"fell by {points(PUBLISHED['error under FGSM'][0] - PUBLISHED['error under FGSM'][1])}), "
        f"the clean error {_went(clean, price)} by {points(abs(price - clean))}."
    )
    if not far:
        return told
    apart = "; ".join(f"{what} {_HOW[place]} it" for what, place in far)
    return f"{told} More than {points(_APART)} from the published: {apart}. {_reason(found, far)}"


def _reason(found: Mapping[str, Any], far: Sequence[tuple[str, int]]) -> str:
    """What differs from the paper, and what a longer training says of it."""
    network = (
        "The network (maxout with dropout there), its training (there for as long as the error on "
        "attacked validation images fell)"
    )
    twice = found.get("twice")
    if twice is None:
        return f"{network} and the data differ; which of them it is was not measured."
    told = [
        f"{what} {_HOW[place]} it goes to {share(twice[what][place])}, "
        + _nearer(found[what][place], twice[what][place], PUBLISHED[what][place])
        for what, place in far
    ]
    length = f"Trained for twice as long ({twice['epochs']} epochs), {'; '.join(told)}."
    if found["mnist"]:
        differ = f"{network} differ, and the data are the same"
    else:
        differ = f"{network} and the data differ"
    return f"{length} {differ}: of these the length of the training alone was varied."


def _nearer(ours: float, longer: float, theirs: float) -> str:
    """Which way a longer training goes, as far as the published figure is concerned."""
    before, after = abs(ours - theirs), abs(longer - theirs)
    if after <= _APART:
        return f"which is within {points(_APART)} of the published"
    if after < before - _MOVED:
        return f"nearer to the published, and {points(after)} from it still"
    return "no nearer to the published"


def _went(before: float, after: float) -> str:
    return "fell" if after < before else "rose" if after > before else "stayed, so moved"
