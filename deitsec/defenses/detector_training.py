"""A detector trained on clean and adversarial images, with the threshold of a false alarm rate."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import Attack, format_spec
from deitsec.data import ArrayImageSet, DataSource, ImageSet
from deitsec.defenses.detector import Detector
from deitsec.defenses.detector_images import fool, look
from deitsec.defenses.labelled import check_labelled
from deitsec.engine.guard import attack_mode
from deitsec.models import Classifier
from deitsec.training import FitConfig, FitResult, TrainingEvent, fit

Rows = Callable[[str, int, int], object]
Training = Callable[[TrainingEvent], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorConfig:
    """How a detector is trained.

    Attributes:
        fit: the recipe; its validation must be 0, as rows are kept out for the threshold anyway.
        width: of `Detector`.
        rows: training images that are attacked, at most.
        calibration: share of these that is kept out of the training, and sets the threshold by the
            evidence of their clean images, in (0, 1).
        false_positives: share of clean images that may count as adversarial, in (0, 1).
        seed: of the choice of rows, the attacks and the weights.

    Raises:
        ValueError: a value out of its range.
    """

    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            epochs=12, lr=4e-3, warmup_epochs=1, validation=0.0, channels_last=True
        )
    )
    width: int = 16
    rows: int = 4000
    calibration: float = 0.25
    false_positives: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("calibration", "false_positives"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)}")
        for name in ("width", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.fit.validation:
            raise ValueError(f"fit.validation must be 0, got {self.fit.validation}")


@dataclass(frozen=True, kw_only=True)
class TrainedDetector:
    """A detector, and what it learnt from.

    Attributes:
        detector: in eval mode, on the classifier's device.
        seen: specs of the attacks it was trained on, with how many images of each.
        clean: clean images it was trained on.
        calibration: clean images that set the threshold.
        false_positives: the rate that it is set for.
        fit: how the training went.
    """

    detector: Detector
    seen: Mapping[str, int]
    clean: int
    calibration: int
    false_positives: float
    fit: FitResult

    def summary(self) -> dict[str, Any]:
        """What it learnt from, as plain values."""
        return {
            "seen": dict(self.seen),
            "clean": self.clean,
            "calibration": self.calibration,
            "false_positives": self.false_positives,
            "threshold": self.detector.threshold.item(),
            "epochs": len(self.fit.history),
            "train_loss": self.fit.history[-1].train_loss,
            "seconds": self.fit.seconds,
        }


def train_detector(
    classifier: Classifier,
    data: DataSource,
    seen: Sequence[Attack],
    config: DetectorConfig | None = None,
    *,
    rows_done: Rows | None = None,
    progress: Training | None = None,
) -> TrainedDetector:
    """Train a detector for a classifier on the attacks that the defender knows.

    Every seen attack is run on training images; those that fool the classifier are shown as
    adversarial, with as many clean ones for each attack. The test split is not read.

    Args:
        classifier: what is defended; not changed.
        data: its `train` split is used.
        seen: the attacks to learn from, at least one.
        config: how; None takes the defaults.
        rows_done: called with (stage, rows done, rows in all) of each attack.
        progress: told of the training, as `fit` does.

    Raises:
        ValueError: no attack, no training split, one with an unlabelled image, an attack that fools
            nobody, too few rows for the rate of false positives, or what `Engine.run` and `fit`
            raise.
        TrainingDiverged: from `fit`.
    """
    config = DetectorConfig() if config is None else config
    if not seen:
        raise ValueError("seen must hold at least one attack to learn from, got none")
    if data.train is None:
        raise ValueError(f"{data.uri} has no training split: give a source that has one")
    check_labelled(data)
    learn, keep = _split(data.train, config)
    pixels, counts = _adversarial(classifier, data.train, seen, learn, config, rows_done)
    detector = _fresh(data.train.shape, classifier.num_classes, config)
    detector.to(next((p.device for p in classifier.parameters()), None))
    result = _fit(detector, classifier, data, learn, pixels, len(seen), config, progress)
    quiet = look(detector, classifier, data.train.images(keep)).evidence
    detector.threshold.fill_(alarm_threshold(quiet, config.false_positives))
    return TrainedDetector(
        detector=detector.eval(),
        seen=counts,
        clean=len(learn),
        calibration=len(keep),
        false_positives=config.false_positives,
        fit=result,
    )


def alarm_threshold(evidence: Tensor, false_positives: float) -> float:
    """The evidence that a clean image exceeds with a probability of at most `false_positives`.

    The ceil((n + 1)(1 - rate))-th smallest of n clean images: a further one, drawn as they were,
    exceeds it at most at that rate, whatever the distribution (split conformal prediction).

    Args:
        evidence: (N,) of clean images that the detector was not trained on.
        false_positives: the rate, in (0, 1).

    Raises:
        ValueError: fewer images than the rate needs, 1 / rate - 1.
    """
    place = math.ceil((len(evidence) + 1) * (1 - false_positives) - 1e-9)
    if place > len(evidence):
        raise ValueError(
            f"{len(evidence)} clean images are too few for a false positive rate of "
            f"{false_positives:g}: at least {math.ceil(1 / false_positives - 1 - 1e-9)} are needed"
        )
    return evidence.double().sort().values[place - 1].item()


class _TwoWay(nn.Module):
    """The detector as a network of two logits, asking a classifier that is no part of it."""

    def __init__(self, detector: Detector, classifier: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        self._asked = (classifier,)  # in a tuple it is neither trained nor put into train mode

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self._asked[0](images).float()
        evidence = self.detector.evidence(images, logits)
        return torch.stack([torch.zeros_like(evidence), evidence], 1)


def _split(images: ImageSet, config: DetectorConfig) -> tuple[Tensor, Tensor]:
    """Rows to learn from, and rows that set the threshold, each ascending."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))
    order = order[: config.rows]
    count = round(config.calibration * len(order))
    if not 0 < count < len(order):
        raise ValueError(
            f"calibration must leave a row on each side, got {config.calibration} of {len(order)}"
        )
    return order[count:].sort().values, order[:count].sort().values


def _adversarial(
    classifier: Classifier,
    images: ImageSet,
    seen: Sequence[Attack],
    rows: Tensor,
    config: DetectorConfig,
    rows_done: Rows | None,
) -> tuple[Tensor, dict[str, int]]:
    found: dict[str, Tensor] = {}
    for attack in seen:
        spec = format_spec(attack)

        def tell(done: int, total: int, spec: str = spec) -> None:
            if rows_done is not None:
                rows_done(f"{spec}, to learn from", done, total)

        fooled = fool(classifier, attack, images, rows, seed=config.seed, progress=tell)
        if not fooled.fooled.any():
            raise ValueError(
                f"{spec} fools {classifier.name} on none of {len(rows)} images, so that there is "
                "nothing to learn from: give a stronger attack"
            )
        found[spec] = fooled.adversarial
    return torch.cat(list(found.values())), {spec: len(some) for spec, some in found.items()}


def _fresh(shape: tuple[int, int, int], num_classes: int, config: DetectorConfig) -> Detector:
    fork_rng: Any = torch.random.fork_rng  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    with fork_rng([]):
        torch.default_generator.manual_seed(config.seed)
        return Detector(shape, num_classes, width=config.width)


def _fit(
    detector: Detector,
    classifier: Classifier,
    data: DataSource,
    rows: Tensor,
    adversarial: Tensor,
    times: int,
    config: DetectorConfig,
    progress: Training | None,
) -> FitResult:
    """Train by the usual loop, on a data source of two classes."""
    assert data.train is not None
    clean = data.train.images(rows).repeat(times, 1, 1, 1)
    labels = torch.tensor([0] * len(clean) + [1] * len(adversarial))
    images = ArrayImageSet(pixels=torch.cat([clean, adversarial]), labels=labels)
    source = DataSource(
        uri=data.uri,
        name=f"{data.name}, clean and adversarial",
        train=images,
        test=images,
        class_names=("clean", "adversarial"),
    )
    network = Classifier(
        _TwoWay(detector, classifier),
        name="detector",
        num_classes=2,
        in_chans=None,
        input_size=None,
        mean=(0.0,),
        std=(1.0,),
    )
    with attack_mode(classifier):
        return fit(network, source, replace(config.fit, seed=config.seed), progress=progress)
