"""Training on clean and adversarial images at the published radius, beside the published errors."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from deitsec.attacks import FGSM
from deitsec.data import to_float
from deitsec.engine import Engine
from deitsec.models import Classifier
from deitsec.report.wording import points
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table
from deitsec.training import adversarial_fit, adversarial_recipe
from deitsec.training.recipes import new_model

EPS = 0.25
# Goodfellow et al., arXiv:1412.6572, section 6: a maxout network on MNIST, without and with
PUBLISHED: Mapping[str, tuple[float, float]] = {
    "error, clean": (0.0094, 0.0084),
    "error under FGSM": (0.894, 0.179),
}
_APART = 0.02


def measure_mixture(
    run: StudyRun[Any], undefended: Classifier, *, name: str, epochs: int
) -> dict[str, Any]:
    """Train a network by the mixture at eps 0.25, and attack both by FGSM on all test images.

    Args:
        run: of a study.
        undefended: a network trained on clean images alone.
        name: of its architecture.
        epochs: of the training; 0 takes the recipe's.
    """
    data = run.data
    plan = adversarial_recipe(data, name, method="mixture", eps=EPS, seed=run.seed)
    plan = replace(plan, fit=plan.fit.with_epochs(epochs), curve_every=None)
    trained = run.network(
        "mixture-published-eps",
        lambda: new_model(name, data, seed=run.seed).to(run.device),
        lambda network, **more: adversarial_fit(network, data, plan, **more),
    )

    def errors() -> dict[str, Any]:
        images = to_float(data.test.images(torch.arange(len(data.test))))
        found: dict[str, Any] = {"model": name, "rows": len(images), "epochs": plan.fit.epochs}
        found |= {what: [] for what in PUBLISHED}
        for network in (undefended, trained):
            result = Engine(network, seed=run.seed, stop="never").run(
                FGSM(eps=EPS), images, data.test.labels
            )
            wrong = (result.logits.argmax(1) != result.labels).double()
            found["error, clean"].append(1 - result.clean_correct.double().mean().item())
            found["error under FGSM"].append(wrong.mean().item())
        return found

    return run.part("mixture-errors", errors)


def mixture_section(found: Mapping[str, Any]) -> str:
    """Ours beside the published, and what differs."""
    rows: list[list[str]] = []
    for what, theirs in PUBLISHED.items():
        for place, how in enumerate(("trained on clean images", "trained on the mixture")):
            ours = found[what][place]
            apart = f"{100 * (ours - theirs[place]):+.1f}"
            rows.append([f"{what}, {how}", share(theirs[place]), share(ours), apart])
    return (
        f"{found['model']}, {found['epochs']} epochs, all {found['rows']:,} test images, FGSM at "
        f"eps {EPS:g}, as published:\n\n"
        + table(("", "published", "ours", "points"), rows)
        + f"\n{_differs(found)}"
    )


def _differs(found: Mapping[str, Any]) -> str:
    apart = [
        f"{what} {('without', 'with')[place]} it"
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
    if not apart:
        return told
    return (
        f"{told} More than {points(_APART)} from the published: {'; '.join(apart)}. The network "
        "(maxout with dropout there), its training (there for as long as the error on attacked "
        "validation images fell) and the data differ; which of them it is was not measured."
    )


def _went(before: float, after: float) -> str:
    return "fell" if after < before else "rose" if after > before else "stayed, so moved"
