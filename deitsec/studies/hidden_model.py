"""What hiding a model is worth: the substitute attack, and transfer between kinds of models."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from deitsec.attacks import FGSM, PGD
from deitsec.defenses import SubstituteAttack, attack_hidden
from deitsec.defenses.hidden_attack import split_rows
from deitsec.models import Classifier, LabelsOnly
from deitsec.report.figure import ATTACKED, CLEAN, new_figure
from deitsec.studies.study import Document, Page, Study, StudyRun
from deitsec.studies.tables import share, table
from deitsec.studies.transfer_between import (
    fit_kinds,
    transfer_between,
    transfer_figure,
    transfer_section,
)
from deitsec.training import fit
from deitsec.training.recipes import new_model, recipe
from deitsec.verification.suite import suite_eps


@dataclass(frozen=True, kw_only=True)
class Options:
    """Who is hidden, who attacks, and by how many questions.

    Attributes:
        model: the hidden model, and the first of the transfer matrix.
        substitutes: models of the attacker.
        others: networks of the transfer matrix.
        estimators: of scikit-learn, in the transfer matrix.
        first: images of each class that the attacker starts from.
        rounds: times that they are augmented.
        epochs: of a round's training.
        networks_epochs: of the networks; 0 takes their recipes'.
        per_class: images of each class that measure.
        queries: of an image, on a source that gives no gradients.

    Raises:
        ValueError: a number out of range.
    """

    model: str = field(default="small_cnn", metadata={"help": "The hidden model."})
    substitutes: tuple[str, ...] = field(
        default=("logistic_regression", "mnist_dense", "small_cnn"),
        metadata={"help": "Models of the attacker."},
    )
    others: tuple[str, ...] = field(
        default=("deit_micro", "logistic_regression"),
        metadata={"help": "More networks of the transfer matrix."},
    )
    estimators: tuple[str, ...] = field(
        default=("tree", "knn", "svm"),
        metadata={"help": "Estimators of scikit-learn in the transfer matrix."},
    )
    first: int = field(default=10, metadata={"help": "First images of each class."})
    rounds: int = field(default=4, metadata={"help": "Times that they are augmented."})
    epochs: int = field(default=10, metadata={"help": "Of the training of a round."})
    networks_epochs: int = field(
        default=0, metadata={"help": "Of the networks; 0 takes their recipes'."}
    )
    per_class: int = field(default=20, metadata={"help": "Images of each class that measure."})
    queries: int = field(
        default=1000, metadata={"help": "Of an image, on a source without gradients."}
    )

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("first", "epochs", "per_class", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("rounds", "networks_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


def measure(run: StudyRun[Options]) -> dict[str, Any]:
    """Attack the hidden model by each substitute, and every model by every other."""
    options = run.options
    eps = suite_eps(run.data)
    networks = {options.model: _network(run, options.model)}
    networks |= {name: _network(run, name) for name in options.others if name not in networks}
    model = networks[options.model]
    attacks = [
        run.part(f"substitute-{name}", lambda name=name: _substitute(run, model, name, eps))
        for name in options.substitutes
    ]
    return {
        "eps": eps,
        "substitutes": [
            {"name": name, **found}
            for name, found in zip(options.substitutes, attacks, strict=True)
        ],
        "matrix": run.part("matrix", lambda: _matrix(run, networks, eps)),
    }


def _network(run: StudyRun[Options], name: str) -> Classifier:
    config = recipe(run.data, name, seed=run.seed).fit
    config = config.with_epochs(run.options.networks_epochs)
    return run.network(
        name,
        lambda: new_model(name, run.data, seed=run.seed).to(run.device),
        lambda model, **more: fit(model, run.data, config, **more),
    )


def _substitute(run: StudyRun[Options], model: Classifier, name: str, eps: float) -> dict[str, Any]:
    """The attack by one substitute; the attacker trains without warmup, on batches of 32."""
    options = run.options
    plan = replace(
        recipe(run.data, name, seed=run.seed).fit,
        epochs=options.epochs,
        warmup_epochs=0.0,
        validation=0.0,
        patience=None,
        batch_size=32,
    )
    found = attack_hidden(
        model,
        LabelsOnly(model, num_classes=run.data.num_classes),
        new_model(name, run.data, seed=run.seed + 1).to(run.device),
        run.data,
        SubstituteAttack(rounds=options.rounds, fit=plan, seed=run.seed),
        [FGSM(eps=eps), PGD(eps=eps, steps=20)],
        first=options.first,
        per_class=options.per_class,
        progress=lambda number, event: run.shown.training(f"{name} round {number}", event),
        told=lambda stage, done, total: run.shown.rows(f"{name}: {stage}", done, total),
    )
    return {**found, "fit": asdict(plan)}


def _matrix(run: StudyRun[Options], networks: dict[str, Classifier], eps: float) -> dict[str, Any]:
    options, classes = run.options, run.data.num_classes
    _, held = split_rows(run.data.test.labels, options.first, options.per_class, classes)
    return transfer_between(
        run,
        networks,
        fit_kinds(run, options.estimators, twins=False),
        held,
        attack=PGD(eps=eps, steps=20),
        queries=options.queries,
    )


def render(document: Document) -> Page:
    """The page: substitutes, agreement by queries, and the transfer matrix."""
    found, options = document["found"], document["options"]
    matrix = found["matrix"]
    parts = [
        f"The attacker sees labels of a {options['model']} and nothing else. "
        f"{options['first']} test images of each class are the start; each round doubles them by "
        f"x + lambda sgn(dF_label/dx). Images within eps = {255 * found['eps']:.0f}/255 of their "
        "clean ones are then made on the substitute. *Agreement* is a share of all images that "
        "measure; *transfer*, *white box* and *noise* are shares of those that the hidden model "
        "got right, *on the substitute* of those that the substitute got right, and a share of "
        "the matrix below of those that the model shown them got right. Noise is the perturbation "
        "itself, shuffled over the image with "
        "random signs: what transfers is what is above it.\n",
        "## The substitute attack\n\n![agreement by queries](figure:agreement)\n",
        _attacks(found["substitutes"]),
        "Papernot et al. report that a hosted network (MetaMind, MNIST) got 84.24% of such images "
        "wrong: other data, another oracle and another eps than here.\n",
        "## Transfer between kinds of models\n",
        *transfer_section(matrix),
    ]
    figures = {
        "agreement": _agreement(found["substitutes"]),
        "transfer": transfer_figure(matrix),
    }
    return Page(markdown="\n".join(parts), figures=figures)


def _attacks(substitutes: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{one['name']}, {attack['spec']}",
            str(one["queries"]),
            share(one["agreement"], 1),
            share(attack["transfer"], 1),
            share(attack["white_box"], 1),
            share(attack["noise"], 1),
            share(attack["on_substitute"], 1),
        ]
        for one in substitutes
        for attack in one["attacks"]
    ]
    head = ("substitute and attack", "queries", "agreement", "transfer", "white box", "noise")
    return table((*head, "on the substitute"), rows)


def _agreement(substitutes: list[dict[str, Any]]) -> Any:
    figure = new_figure(2.8)
    axes = figure.add_subplot()
    for one, colour in zip(substitutes, (CLEAN, ATTACKED, "#009E73") * 4, strict=False):
        points = [(record["queries"], 100 * record["agreement"]) for record in one["rounds"]]
        axes.plot(*zip(*points, strict=True), marker="o", label=one["name"], color=colour)
    axes.set(xlabel="queries", ylabel="agrees with the model, %", ylim=(-2, 102), xscale="log")
    asked = sorted({record["queries"] for one in substitutes for record in one["rounds"]})
    axes.set_xticks(asked, map(str, asked))  # the log axis' own are formulas, which are off here
    axes.set_xticks([], minor=True)
    axes.grid(True)
    axes.legend(fontsize=7)
    return figure


STUDY = Study(
    name="hidden-model",
    title="A hidden model: the substitute attack and transfer",
    source=(
        "Papernot et al., Practical black-box attacks against machine learning (arXiv:1602.02697), "
        "and Transferability in machine learning (arXiv:1605.07277)"
    ),
    data="digits",
    options=Options,
    quick={
        "model": "mnist_dense",
        "substitutes": ("logistic_regression",),
        "others": ("logistic_regression",),
        "estimators": ("tree",),
        "first": 5,
        "rounds": 2,
        "epochs": 5,
        "networks_epochs": 6,
        "per_class": 4,
        "queries": 60,
    },
    measure=measure,
    render=render,
)
