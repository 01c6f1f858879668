"""The page of the study of the detector."""

from typing import Any

from deitsec.report.roc_curves import roc_curves
from deitsec.studies.study import Document, Page
from deitsec.studies.tables import share, table


def render(document: Document) -> Page:
    """Make the page of a result."""
    found, options = document["found"], document["options"]
    learnt = found["detector"]
    images = ", ".join(f"{count} of {spec}" for spec, count in learnt["seen"].items())
    strongest = max(found["adaptive"], key=lambda attack: attack["success"])
    parts = [
        f"A second network beside {found['model']} looks at the image and at the classifier's "
        f"logits. It learnt from {learnt['clean']} clean images and adversarial ones ({images}), "
        f"and its threshold is set on {learnt['calibration']} further clean images for a false "
        f"positive rate of {share(options['false_positives'], 0)}. The classifier has learnt from "
        "these images itself, so the rate on new ones may be higher. All images are of 8 bits.",
        _verdict(found, strongest),
        "## Clean images",
        table(
            ("test images", "detected", "right", "right and accepted"),
            [
                [
                    str(found["rows"]),
                    share(found["false_positive_rate"]),
                    share(found["accuracy"]),
                    share(found["accuracy_accepted"]),
                ]
            ],
        ),
        "## An attacker who does not know of it",
        "*Fools*: the classifier is wrong after the attack. *Evades*: it is wrong, and the image "
        "is not detected. Shares are of the images that the classifier has right.",
        _table(found["attacks"], [attack["kind"] for attack in found["attacks"]]),
        "![ROC by attack](figure:roc)",
        "## An attacker who knows it",
        "The same attacks on classifier and detector together: what they climb is wrong only where "
        "the classifier errs and the detector is silent; *weight* is that of the detector in it.",
        _table(found["adaptive"], [f"weight {attack['weight']:g}" for attack in found["adaptive"]]),
    ]
    drawn = [*found["attacks"], strongest]
    figure = roc_curves(drawn, false_positives=found["false_positive_rate"])
    return Page(markdown="\n\n".join(parts), figures={"roc": figure})


def _verdict(found: Any, strongest: Any) -> str:
    naive = max(found["attacks"], key=lambda attack: attack["success"])
    said = (
        f"Of those who do not know it, {naive['spec']} gets furthest: {share(naive['success'])} "
        f"evade. Who knows it evades with {share(strongest['success'])} ({strongest['spec']}, the "
        "best of these attacks)"
    )
    if (evaded := _by_any(found["adaptive"])) is not None:
        said += f", and with {share(evaded)} by whichever of them does on each image"
    before, after = naive["auroc"], strongest["auroc"]
    if before is not None and after is not None:
        how = "falls" if after < before else "does not fall"
        said += f"; the area under the ROC {how}, from {_area(before)} to {_area(after)}"
    return f"**{said}.**"


def _by_any(attacks: Any) -> float | None:
    """The share of rows that one attack or another evades with; None where rows were not kept."""
    if not all("evaded_rows" in attack for attack in attacks):
        return None
    rows = {row for attack in attacks for row in attack["evaded_rows"]}
    return len(rows) / attacks[0]["rows"]


def _table(attacks: Any, notes: list[str]) -> str:
    rows = [
        [
            attack["spec"],
            note,
            share(attack["success_undefended"]),
            share(attack["detected"]),
            share(attack["success"]),
            _area(attack["auroc"]),
        ]
        for attack, note in zip(attacks, notes, strict=True)
    ]
    return table(("attack", "", "fools", "detected", "evades", "AUROC"), rows)


def _area(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
