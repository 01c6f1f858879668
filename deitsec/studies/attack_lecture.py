"""A lecture on attacks: a photograph changed, goals, and each prevention with its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from deitsec.attacks import BIM, FGSM, PGD, Attack
from deitsec.data import to_float
from deitsec.models import Classifier
from deitsec.studies.attack_lecture_page import (
    short_adversarial,
    short_detector,
    short_goals,
    short_hidden_data,
    short_hidden_model,
    short_noise,
    short_photograph,
    show_goals,
    show_hidden_data,
    show_photograph,
)
from deitsec.studies.attacked_photographs import attack_photographs
from deitsec.studies.hidden_data import measure_hidden_data
from deitsec.studies.impersonation import measure_impersonation
from deitsec.studies.lecture import Topic, check_topics, measure_topics, render_topics, study_topic
from deitsec.studies.photographs import Subject, photograph_classifier
from deitsec.studies.plain_network import plain_network
from deitsec.studies.pretrained_photographs import check_pretrained
from deitsec.studies.study import Document, Page, Study, StudyRun
from deitsec.verification.protocol import choose_rows
from deitsec.verification.suite import suite_eps


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the study goes."""

    topics: tuple[str, ...] = field(
        default=(), metadata={"help": "Those to measure; all where none is named."}
    )
    model: str = field(
        default="test_resnet", metadata={"help": "Of the photographs: a timm model."}
    )
    pretrained: bool = field(
        default=False, metadata={"help": "Take its published weights instead of training it."}
    )
    photo_weights: str | None = field(
        default=None,
        metadata={"help": "Take published weights from this file, by name or in order."},
    )
    photos: str | None = field(
        default=None, metadata={"help": "With published weights: a data source of photographs."}
    )
    photo_eps: float = field(
        default=8 / 255, metadata={"help": "L-infinity radius on photographs."}
    )
    photo_epochs: int = field(default=8, metadata={"help": "Of the photographs' training."})
    photo_train: int = field(default=48, metadata={"help": "Training crops of a photograph."})
    photo_test: int = field(default=12, metadata={"help": "Test crops, or views, of a photograph."})
    side: int = field(
        default=224, metadata={"help": "Of a crop, in pixels; published weights have theirs."}
    )
    network: str = field(default="small_cnn", metadata={"help": "Of the data."})
    epochs: int = field(default=0, metadata={"help": "Of its trainings; 0 takes the recipes'."})
    per_class: int = field(default=20, metadata={"help": "Test images of each class."})
    steps: int = field(default=20, metadata={"help": "Of PGD."})
    thresholds: tuple[float, ...] = field(
        default=(0.0, 0.9, 0.99), metadata={"help": "Least confidence of an impersonation."}
    )
    rounds: int = field(default=3, metadata={"help": "Of the substitute attack."})
    queries: int = field(
        default=300, metadata={"help": "Of an image, on a source without gradients."}
    )
    draws: int = field(default=4, metadata={"help": "Of noise, by who knows of it."})
    detector_rows: int = field(default=600, metadata={"help": "Images a detector learns from."})
    detector_epochs: int = field(default=8, metadata={"help": "Of the detector's training."})

    def __post_init__(self) -> None:
        """Validate what no piece does.

        Raises:
            ValueError: an option out of its range.
        """
        for name in ("photo_epochs", "per_class", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_pretrained(self.pretrained, self.photo_weights, self.photos, self.photo_test)
        if not self.thresholds or not all(0 <= value < 1 for value in self.thresholds):
            raise ValueError(f"thresholds must be in [0, 1), got {self.thresholds}")
        if not 0 < self.photo_eps <= 1 or self.epochs < 0:
            raise ValueError("photo_eps must be in (0, 1] and epochs at least 0")


class Bench:
    """The models that several topics attack, each trained once.

    Args:
        run: of the study.
    """

    def __init__(self, run: StudyRun[Options]) -> None:
        self.run = run

    @cached_property
    def subject(self) -> Subject:
        """The classifier of photographs."""
        options = self.run.options
        return photograph_classifier(
            self.run,
            model=options.model,
            pretrained=options.pretrained,
            weights=options.photo_weights,
            photos=options.photos,
            epochs=options.photo_epochs,
            train=options.photo_train,
            test=options.photo_test,
            side=options.side,
        )

    @cached_property
    def network(self) -> Classifier:
        """The classifier of the data."""
        options = self.run.options
        return plain_network(self.run, "network", options.network, epochs=options.epochs)


def _measure_photograph(bench: Bench) -> dict[str, Any]:
    options = bench.run.options
    eps, subject = options.photo_eps, bench.subject
    attacks: dict[str, Attack] = {
        "FGSM": FGSM(eps=eps),
        "I-FGSM": BIM(eps=eps),
        "FGSM-LL": FGSM(eps=eps, target="least-likely"),
        "PGD": PGD(eps=eps, alpha=eps / 4, steps=options.steps),
    }
    found = bench.run.part(
        "photographs-attacked", lambda: attack_photographs(bench.run, subject, attacks)
    )
    return {"eps": eps, **found}


def _measure_goals(bench: Bench) -> dict[str, Any]:
    """Both goals, on photographs, the whole ones where there are such, and on the data."""
    options, data, subject = bench.run.options, bench.run.data, bench.subject
    rows = choose_rows(data, options.per_class)
    whole = slice(None) if subject.whole is None else list(subject.whole)
    asked = {
        "photographs": (
            subject.model,
            subject.images[whole],
            subject.labels[whole],
            options.photo_eps,
        ),
        data.name: (
            bench.network,
            to_float(data.test.images(rows)),
            data.test.labels[rows],
            suite_eps(data),
        ),
    }

    def goals(name: str) -> dict[str, Any]:
        model, images, labels, eps = asked[name]
        return measure_impersonation(
            bench.run,
            model,
            images,
            labels,
            name=name,
            eps=eps / 2,
            steps=options.steps,
            thresholds=options.thresholds,
        )

    return {
        "goals": [
            bench.run.part(f"goals-{place}", partial(goals, name))
            for place, name in enumerate(asked)
        ]
    }


def _hidden_data(bench: Bench) -> dict[str, Any]:
    options = bench.run.options
    return measure_hidden_data(
        bench.run,
        network=options.network,
        epochs=options.epochs,
        per_class=options.per_class,
        eps=suite_eps(bench.run.data),
    )


def _of_hidden_model(options: Options) -> Mapping[str, Any]:
    return {
        "model": options.network,
        "substitutes": tuple(dict.fromkeys(("mnist_dense", options.network))),
        "others": ("mnist_dense",),
        "estimators": ("tree",),
        "first": min(10, 2 * options.per_class),
        "rounds": options.rounds,
        "epochs": 10,
        "networks_epochs": options.epochs,
        "per_class": options.per_class,
        "queries": options.queries,
    }


def _of_adversarial(options: Options) -> Mapping[str, Any]:
    return {
        "methods": ("pgd",),
        "steps": options.steps,
        "per_class": options.per_class,
        "model": options.network,
        "epochs": options.epochs,
        "curve_rows": 100,
    }


def _of_noise(options: Options) -> Mapping[str, Any]:
    return {
        "defenses": ("noise at train time", "noise at test time"),
        "model": options.network,
        "epochs": options.epochs,
        "per_class": options.per_class,
        "steps": options.steps,
        "adaptive_steps": options.steps,
        "draws": options.draws,
    }


def _of_detector(options: Options) -> Mapping[str, Any]:
    return {
        "unseen": ("bim",),
        "adaptive": (f"pgd:steps={2 * options.steps}", f"apgd:steps={2 * options.steps}"),
        "weights": (1.0,),
        "train_rows": options.detector_rows,
        "epochs": options.detector_epochs,
        "per_class": options.per_class,
        "model": options.network,
    }


TOPICS: tuple[Topic[Bench], ...] = (
    Topic(
        name="photograph",
        title="A photograph, changed",
        says="The lecture says that a change which nobody sees makes a classifier of photographs "
        "say something else, and say it with confidence.",
        measure=_measure_photograph,
        show=show_photograph,
        short=short_photograph,
    ),
    Topic(
        name="goals",
        title="Denial of service and impersonation",
        says="Any other answer denies the service; a chosen one impersonates, and may have to pass "
        "a threshold of confidence.",
        measure=_measure_goals,
        show=show_goals,
        short=short_goals,
    ),
    study_topic(
        "hidden-model",
        title="Prevention: hide the model",
        says="Without the weights there is no gradient. The answer: train a substitute on the "
        "model's answers, and attack that.",
        options=_of_hidden_model,
        short=short_hidden_model,
    ),
    Topic(
        name="hidden-data",
        title="Prevention: hide the training data",
        says="Without the data nobody can train the same model. The lecture answers that other "
        "data of the same kind do. Here the data are cut in two halves that share no image; the "
        "model learns one.",
        measure=_hidden_data,
        show=show_hidden_data,
        short=short_hidden_data,
    ),
    study_topic(
        "adversarial-training",
        title="Prevention: train on adversarial images",
        says="The model learns the attacked images with their labels. The lecture says that the "
        "answer is a stronger attack, and the price clean accuracy, and time.",
        options=_of_adversarial,
        short=short_adversarial,
    ),
    study_topic(
        "failed-defenses",
        title="Prevention: Gaussian noise",
        says="Noise on the images while training, or on each image before it is classified. The "
        "answer: average the gradient over the noise.",
        options=_of_noise,
        short=short_noise,
    ),
    study_topic(
        "detector",
        title="Prevention: a discriminator",
        says="A second network is to tell adversarial images from clean ones. The answer: attack "
        "both.",
        options=_of_detector,
        short=short_detector,
    ),
)


def measure(run: StudyRun[Options]) -> dict[str, Any]:
    """Attack photographs, both goals, and each prevention."""
    return measure_topics(Bench(run), TOPICS)


def render(document: Document) -> Page:
    """Make the page of a result."""
    page = render_topics(document, TOPICS)
    return replace(page, markdown=f"{_NO_FIGURES}\n\n{page.markdown}")


_NO_FIGURES = (
    "The lecture gives no figures, so that ours have none of its own to stand beside them; what it "
    "says is told as such, and what was measured after it."
)


STUDY = Study(
    name="attack-lecture",
    title="A lecture on adversarial attacks, measured",
    source="a lecture on attacks on neural networks: FGSM (Goodfellow et al., arXiv:1412.6572), "
    "I-FGSM and least-likely class (Kurakin et al., arXiv:1607.02533), PGD (Madry et al., "
    "arXiv:1706.06083), saliency (Simonyan et al., arXiv:1312.6034); preventions attacked as in "
    "Athalye et al., arXiv:1802.00420, and Carlini and Wagner, arXiv:1705.07263",
    data="digits",
    options=Options,
    quick={
        "photo_epochs": 3,
        "photo_train": 8,
        "photo_test": 4,
        "side": 64,
        "network": "mnist_dense",
        "epochs": 4,
        "per_class": 2,
        "steps": 6,
        "thresholds": (0.0, 0.9),
        "rounds": 1,
        "queries": 50,
        "detector_rows": 100,
        "detector_epochs": 2,
    },
    measure=measure,
    render=render,
    free=("topics",),
    check=lambda options: check_topics(options, TOPICS),
)
