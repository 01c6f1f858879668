"""How well a detector tells attacks apart from clean images, and what an attack on both leaves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from deitsec.attacks import Attack, format_spec
from deitsec.data import DataSource
from deitsec.defenses.detector import RejectingClassifier
from deitsec.defenses.detector_images import Looked, fool, look
from deitsec.defenses.evasion import Evasion

Kind = Literal["seen", "unseen", "adaptive"]
Curve = list[tuple[float, float]]
Progress = Callable[[str, int, int], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One attack, and the detector on its images; rows are those that the classifier has right.

    Attributes:
        spec: the attack.
        kind: `seen` in training or `unseen`, run on the classifier alone; or `adaptive`, run on
            classifier and detector together (`Evasion`).
        rows: how many.
        fooled: of them, images that the classifier gets wrong after the attack.
        evaded: of these, images that are not detected either: what the attacker wants.
        evaded_rows: which, in ascending order: (evaded,) rows of the test split.
        auroc: area under the ROC of images that fool against clean ones: 1 tells all apart, 1/2
            none; None where no image fools.
        curve: (false positive rate, true positive rate) of that ROC.
    """

    spec: str
    kind: Kind
    rows: int
    fooled: int
    evaded: int
    evaded_rows: tuple[int, ...]
    auroc: float | None
    curve: Curve

    def summary(self) -> dict[str, Any]:
        """The figures as plain values; shares are of the rows, `detected` of those that fool."""
        fooled = self.fooled
        return {
            "spec": self.spec,
            "kind": self.kind,
            "rows": self.rows,
            "success_undefended": fooled / self.rows,
            "detected": (fooled - self.evaded) / fooled if fooled else None,
            "success": self.evaded / self.rows,
            "evaded_rows": list(self.evaded_rows),
            "auroc": self.auroc,
            "curve": self.curve,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorReport:
    """A detector measured on test images.

    Attributes:
        rows: clean images that were looked at.
        false_positive_rate: share of them that were detected.
        accuracy: share of them that the classifier has right.
        accuracy_accepted: share that it has right and that are not detected.
        detections: one for each attack.
    """

    rows: int
    false_positive_rate: float
    accuracy: float
    accuracy_accepted: float
    detections: tuple[Detection, ...]

    def summary(self) -> dict[str, Any]:
        """The figures, as plain values."""
        return {
            "rows": self.rows,
            "false_positive_rate": self.false_positive_rate,
            "accuracy": self.accuracy,
            "accuracy_accepted": self.accuracy_accepted,
            "attacks": [detection.summary() for detection in self.detections],
        }


def evaluate_detector(
    defended: RejectingClassifier,
    data: DataSource,
    rows: Tensor,
    *,
    seen: Sequence[Attack] = (),
    unseen: Sequence[Attack] = (),
    adaptive: Sequence[Attack] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> DetectorReport:
    """Measure a detector on test images, clean and attacked, by whom knows it and who does not.

    Every attack's images count as they would be read from a file, of 8 bits.

    Args:
        defended: classifier and detector, with its threshold.
        data: its test split is attacked.
        rows: (N,) int64 rows of the test split.
        seen: attacks that the detector was trained on.
        unseen: attacks that it was not.
        adaptive: attacks to run on classifier and detector together (Carlini and Wagner,
            arXiv:1705.07263): without this, nothing is known of an attacker who knows.
        seed: of the attacks.
        progress: called with (stage, rows done, rows in all).

    Raises:
        ValueError: no row that the classifier has right, an attack that is seen and unseen, or what
            `Engine.run` raises.
    """
    check_kinds(seen, unseen)
    labels = data.test.labels[rows]
    clean = look(
        defended.detector, defended.classifier, data.test.images(rows), sample_ids=rows, seed=seed
    )
    right = clean.predicted == labels
    if not right.any():
        raise ValueError(f"the classifier has none of {len(rows)} images right: nothing to attack")
    kinds: tuple[tuple[Kind, Sequence[Attack]], ...] = (
        ("seen", seen),
        ("unseen", unseen),
        ("adaptive", adaptive),
    )
    found = [
        _detection(defended, data, rows, clean, attack, kind, seed, progress)
        for kind, attacks in kinds
        for attack in attacks
    ]
    accepted = right & ~clean.detected
    return DetectorReport(
        rows=len(rows),
        false_positive_rate=_share(clean.detected),
        accuracy=_share(right),
        accuracy_accepted=_share(accepted),
        detections=tuple(found),
    )


def check_kinds(seen: Sequence[Attack], unseen: Sequence[Attack]) -> None:
    """Raise a ValueError for an attack that is both seen and unseen."""
    specs = {format_spec(attack) for attack in seen}
    if both := specs & {format_spec(attack) for attack in unseen}:
        raise ValueError(f"an attack is either seen or unseen, got both: {', '.join(sorted(both))}")


def _detection(
    defended: RejectingClassifier,
    data: DataSource,
    rows: Tensor,
    clean: Looked,
    attack: Attack,
    kind: Kind,
    seed: int,
    progress: Progress | None,
) -> Detection:
    labels, spec = data.test.labels[rows], format_spec(attack)
    adaptive = kind == "adaptive"
    model = Evasion(defended, labels, rows) if adaptive else defended.classifier
    stage = f"{spec} on classifier and detector" if adaptive else spec

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)

    pixels = fool(model, attack, data.test, rows, seed=seed, progress=tell).pixels
    seen = look(defended.detector, defended.classifier, pixels, sample_ids=rows, seed=seed)
    right = clean.predicted == labels
    fooled = right & (seen.predicted != labels)
    evaded = fooled & ~seen.detected
    auroc, curve = roc(clean.evidence, seen.evidence[fooled])
    return Detection(
        spec=spec,
        kind=kind,
        rows=int(right.sum()),
        fooled=int(fooled.sum()),
        evaded=int(evaded.sum()),
        evaded_rows=tuple(sorted(rows[evaded].tolist())),
        auroc=auroc,
        curve=curve,
    )


def roc(clean: Tensor, adversarial: Tensor) -> tuple[float | None, Curve]:
    """The area under the ROC, and its corners (false positive rate, true positive rate).

    Args:
        clean: (N,) evidence of clean images, N >= 1.
        adversarial: (M,) evidence of adversarial ones; without any there is no curve.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    if not len(adversarial):
        return None, []
    labels = torch.cat([torch.zeros(len(clean)), torch.ones(len(adversarial))]).numpy()
    scores = torch.cat([clean, adversarial]).double().numpy()
    area: Any = roc_auc_score(labels, scores)
    corners: Any = roc_curve(labels, scores)
    return float(area), list(zip(corners[0].tolist(), corners[1].tolist(), strict=True))


def _share(rows: Tensor) -> float:
    return rows.double().mean().item()
