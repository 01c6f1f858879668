"""A detector of adversarial images: what it tells apart, and what one who knows it gets past it."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from deitsec.attacks import Attack, format_spec
from deitsec.defenses.detector import RejectingClassifier
from deitsec.defenses.detector_checkpoint import load_detector, save_detector
from deitsec.defenses.detector_evaluation import check_kinds, evaluate_detector
from deitsec.defenses.detector_training import DetectorConfig, train_detector
from deitsec.models import Classifier
from deitsec.studies.detector_page import render
from deitsec.studies.study import Study, StudyRun
from deitsec.training import fit
from deitsec.training.recipes import new_model, recipe
from deitsec.verification.protocol import choose_rows
from deitsec.verification.suite import parse_attacks, suite_eps


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the study goes; attacks are specs of one option at most, with commas between them."""

    seen: tuple[str, ...] = field(
        default=("fgsm", "pgd"), metadata={"help": "Attacks that the detector learns from."}
    )
    unseen: tuple[str, ...] = field(
        default=("bim", "mifgsm", "apgd", "pgd_l2:eps=2", "deepfool", "cw:steps=200"),
        metadata={"help": "Attacks that are held out."},
    )
    adaptive: tuple[str, ...] = field(
        default=("pgd:steps=100", "apgd:steps=100", "cw:steps=200"),
        metadata={"help": "Attacks on classifier and detector together."},
    )
    weights: tuple[float, ...] = field(
        default=(0.3, 1.0, 3.0), metadata={"help": "Of the detector in what these climb."}
    )
    false_positives: float = field(
        default=0.05, metadata={"help": "Share of clean images that may be detected."}
    )
    train_rows: int = field(default=2000, metadata={"help": "Training images to attack."})
    epochs: int = field(default=12, metadata={"help": "Of the detector's training."})
    per_class: int = field(default=10, metadata={"help": "Test images of each class."})
    model: str = field(default="small_cnn", metadata={"help": "The classifier."})

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            ValueError: an option out of its range.
        """
        if not self.seen or not self.adaptive or not self.weights:
            raise ValueError("seen, adaptive and weights must hold at least one entry each")
        if any(not 0 < weight < float("inf") for weight in self.weights):
            raise ValueError(f"weights must be > 0 and finite, got {self.weights}")
        if self.per_class < 1:
            raise ValueError(f"per_class must be at least 1, got {self.per_class}")
        self.config(seed=0)

    def config(self, seed: int) -> DetectorConfig:
        """How the detector is trained."""
        return DetectorConfig(
            fit=replace(DetectorConfig().fit, epochs=self.epochs),
            rows=self.train_rows,
            false_positives=self.false_positives,
            seed=seed,
        )


def measure(run: StudyRun[Options]) -> dict[str, Any]:
    """Train classifier and detector, and attack them, apart and together."""
    options = run.options
    eps = suite_eps(run.data)
    seen, unseen, adaptive = (
        parse_attacks(specs, eps=eps) for specs in (options.seen, options.unseen, options.adaptive)
    )
    check_kinds(seen, unseen)
    classifier = _classifier(run)
    trained = run.part("detector", partial(_train, run, classifier, seen))
    detector = load_detector(_path(run), classifier)
    rows = choose_rows(run.data, options.per_class)

    def part(name: str, weight: float = 1.0, **attacks: tuple[Attack, ...]) -> dict[str, Any]:
        defended = RejectingClassifier(classifier, detector, weight=weight)
        return run.part(name, partial(_evaluate, run, defended, rows, attacks))

    found = [part(f"seen-{i}", seen=(attack,)) for i, attack in enumerate(seen)]
    found += [part(f"unseen-{i}", unseen=(attack,)) for i, attack in enumerate(unseen)]
    return {
        "model": options.model,
        "eps": eps,
        "detector": trained,
        **{key: value for key, value in found[0].items() if key != "attacks"},
        "attacks": [attack for piece in found for attack in piece["attacks"]],
        "adaptive": [
            {
                "spec": format_spec(attack),
                "weight": weight,
                **part(f"adaptive-{i}-{weight:g}", weight, adaptive=(attack,))["attacks"][0],
            }
            for i, attack in enumerate(adaptive)
            for weight in options.weights
        ],
    }


def _classifier(run: StudyRun[Options]) -> Classifier:
    name, data = run.options.model, run.data
    config = recipe(data, name, seed=run.seed).fit

    def train(network: Classifier, **more: Any) -> Any:
        return fit(network.to(run.device), data, config, **more)

    return run.network("classifier", lambda: new_model(name, data, seed=run.seed), train)


def _path(run: StudyRun[Options]) -> Any:
    return run.workbook.folder / "detector.safetensors"


def _train(
    run: StudyRun[Options], classifier: Classifier, seen: tuple[Attack, ...]
) -> dict[str, Any]:
    """Train the detector; its file is whole before the part says that it is done."""
    trained = train_detector(
        classifier,
        run.data,
        seen,
        run.options.config(run.seed),
        rows_done=run.shown.rows,
        progress=lambda event: run.shown.training("training the detector", event),
    )
    summary = trained.summary()
    save_detector(trained.detector, _path(run), classifier=classifier, training=summary)
    return summary


def _evaluate(
    run: StudyRun[Options],
    defended: RejectingClassifier,
    rows: Tensor,
    attacks: dict[str, tuple[Attack, ...]],
) -> dict[str, Any]:
    report = evaluate_detector(
        defended, run.data, rows, **attacks, seed=run.seed, progress=run.shown.rows
    )
    return report.summary()


STUDY = Study(
    name="detector",
    title="A detector of adversarial images, and the attack on both",
    source="Metzen et al., On Detecting Adversarial Perturbations, arXiv:1702.04267, and Gong et "
    "al., arXiv:1704.04960; attacked as in Carlini and Wagner, Adversarial Examples Are Not Easily "
    "Detected, arXiv:1705.07263",
    data="mnist",
    options=Options,
    quick={
        "unseen": ("mifgsm",),
        "adaptive": ("pgd:steps=40",),
        "weights": (1.0,),
        "train_rows": 240,
        "epochs": 4,
        "per_class": 2,
    },
    measure=measure,
    render=render,
)
