"""How little poison a training set needs, and who finds it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deitsec.data import Blend, DataSource, Patch, Poisoned, flip_labels, plant_backdoor
from deitsec.defenses import measure_poisoning, standard_detectors
from deitsec.models import Classifier
from deitsec.report.figure import MARKERS, SERIES, new_figure
from deitsec.studies.study import Document, Page, Study, StudyRun
from deitsec.studies.tables import share, table
from deitsec.training import FitConfig, fit
from deitsec.training.recipes import new_model, recipe

Contaminate = Callable[[DataSource, float, int], Poisoned]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is contaminated, and how much of it.

    Attributes:
        model: that is trained.
        rates: shares of the training set; where only rows of one class are touched, that share of
            the set is taken of it, up to the whole class.
        epochs: of a training; 0 takes the recipe's.
        retrain: whether models are trained again without the flagged rows.

    Raises:
        ValueError: no rate, or one out of range.
    """

    model: str = field(default="small_cnn", metadata={"help": "That is trained."})
    rates: tuple[float, ...] = field(
        default=(0.01, 0.02, 0.05, 0.1), metadata={"help": "Shares of the training set."}
    )
    epochs: int = field(default=0, metadata={"help": "Of a training; 0 takes the recipe's."})
    retrain: bool = field(
        default=True, metadata={"help": "Train again without the rows that are flagged."}
    )

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.rates or not all(0 < rate <= 1 for rate in self.rates):
            raise ValueError(f"rates must be in (0, 1], at least one, got {self.rates}")
        if self.epochs < 0:
            raise ValueError(f"epochs must be >= 0, got {self.epochs}")


def _kinds(data: DataSource) -> dict[str, tuple[str, Contaminate]]:
    """The contaminations: a name, what it is called, and what makes it."""
    target, source = 0, min(3, data.num_classes - 1)

    def in_class(rate: float) -> float:
        """The share of one class that comes to about as many rows."""
        return min(1.0, rate * data.num_classes)

    patch = Patch(size=max(1, min(data.test.shape[1:]) // 8))
    return {
        "patch": (
            "patch in the corner",
            lambda d, r, s: plant_backdoor(d, rate=r, target=target, trigger=patch, seed=s),
        ),
        "blend": (
            "pattern blended in",
            lambda d, r, s: plant_backdoor(d, rate=r, target=target, trigger=Blend(), seed=s),
        ),
        "clean-label": (
            "patch, labels kept",
            lambda d, r, s: plant_backdoor(
                d, rate=in_class(r), target=target, trigger=patch, clean_label=True, seed=s
            ),
        ),
        "flip": ("labels at random", lambda d, r, s: flip_labels(d, rate=r, seed=s)),
        "flip-one": (
            f"labels {source} to {target}",
            lambda d, r, s: flip_labels(d, rate=in_class(r), source=source, target=target, seed=s),
        ),
    }


def measure(run: StudyRun[Options]) -> dict[str, Any]:
    """Train on every contamination at every rate, and look for the poison."""
    options, data = run.options, run.data
    config = recipe(data, options.model, seed=run.seed).fit.with_epochs(options.epochs)
    clean = run.network(
        "clean",
        lambda: new_model(options.model, data, seed=run.seed).to(run.device),
        lambda model, **more: fit(model, data, config, **more),
    )
    trials: list[dict[str, Any]] = []
    for kind, (words, contaminate) in _kinds(data).items():
        for rate in options.rates:
            try:
                poisoned = contaminate(data, rate, run.seed)
            except ValueError as error:  # the rate comes to no row of a class
                trials.append({"kind": kind, "words": words, "rate": rate, "skipped": str(error)})
                continue
            name = f"{kind}-{rate:g}"
            found = run.part(name, _trial(run, poisoned, config, clean, name))
            trials.append({"kind": kind, "words": words, "rate": rate, **found})
    return {"epochs": config.epochs, "trials": trials}


def _trial(
    run: StudyRun[Options], poisoned: Poisoned, config: FitConfig, clean: Classifier, name: str
) -> Callable[[], dict[str, Any]]:
    def train(stage: str, source: DataSource) -> Classifier:
        if stage == "clean":
            return clean
        model = new_model(run.options.model, source, seed=run.seed).to(run.device)
        told = f"{name} {stage}"
        fit(model, source, config, progress=lambda event: run.shown.training(told, event))
        return model.eval()

    return lambda: measure_poisoning(
        run.data,
        poisoned,
        train,
        detectors=standard_detectors(poisoned, seed=run.seed),
        retrain=run.options.retrain,
    )


def render(document: Document) -> Page:
    """The page: the effect by rate, and what each detector finds."""
    found = document["found"]
    trials = [trial for trial in found["trials"] if "skipped" not in trial]
    skipped = [trial for trial in found["trials"] if "skipped" in trial]
    parts = [
        f"A {document['options']['model']} is trained for {found['epochs']} epochs on contaminated "
        "images; the test images are clean. *Attack*: of a backdoor, test images of other classes "
        "with the trigger that are taken for the target; of labels flipped from one class to "
        "another, test images of that class taken for the other.\n",
        "## The effect\n\n![attack by rate](figure:attack)\n",
        _effects(trials),
        "## Who finds it\n\nSpectral signatures are told the largest share of a class that is "
        "poisoned, and flag 1.5 times as many rows of *every* class, since nobody tells them which "
        "one: their precision is low by construction, and AUROC tells how well they rank. "
        "AUROC pools the rows of all classes; those of a class that a detector gives no judgement "
        "on rank last. *Of a class* is the largest share of a class that is poisoned: at 100% the "
        "class is poison throughout, and there is no clean row in it to be told from. "
        "Activation clustering is told nothing. Both assume that the poison is the smaller part of "
        "its class, and that it shares something which random flips do not.\n",
        _detections(trials),
    ]
    parts += [
        f"{trial['words']} at {share(trial['rate'], 0)} was left out: {trial['skipped']}.\n"
        for trial in skipped
    ]
    return Page(markdown="\n".join(parts), figures={"attack": _figure(trials)})


def _effects(trials: list[dict[str, Any]]) -> str:
    rows = [
        [
            trial["words"],
            share(trial["rate"], 1),
            f"{trial['contamination']['poisoned']} of {trial['contamination']['rows']}",
            share(trial["clean"]["accuracy"]),
            share(trial["poisoned"]["accuracy"]),
            _attack(trial["clean"]),
            _attack(trial["poisoned"]),
        ]
        for trial in trials
    ]
    head = ("contamination", "rate", "rows", "accuracy, clean", "poisoned", "attack, clean")
    return table((*head, "poisoned"), rows)


def _detections(trials: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{trial['words']} {share(trial['rate'], 1)}, {found['name']}",
            share(trial["contamination"].get("largest_share"), 1),
            str(found["flagged"]),
            share(found["recall"], 1),
            share(found["precision"], 1),
            "-" if found["auroc"] is None else f"{found['auroc']:.3f}",
            share(found["without"]["accuracy"]) if "without" in found else "-",
            _attack(found["without"]) if "without" in found else "-",
        ]
        for trial in trials
        for found in trial["detectors"]
    ]
    head = ("contamination and detector", "of a class", "flagged", "recall", "precision", "AUROC")
    return table((*head, "accuracy without them", "attack without them"), rows)


def _attack(effect: Mapping[str, float | None]) -> str:
    value = effect["attack_success"] if effect["flipped"] is None else effect["flipped"]
    return "-" if value is None else share(value, 1)


def _figure(trials: list[dict[str, Any]]) -> Any:
    """Attack success by rate, one line a backdoor; accuracy of random flips beside it."""
    figure = new_figure(3.0)
    axes = figure.add_subplot()
    kinds = list(dict.fromkeys(trial["kind"] for trial in trials))
    for number, kind in enumerate(kinds):
        own = [trial for trial in trials if trial["kind"] == kind]
        plain = kind == "flip"
        heights = [
            trial["poisoned"]["accuracy"]
            if plain
            else trial["poisoned"]["flipped" if kind == "flip-one" else "attack_success"]
            for trial in own
        ]
        line = ":" if plain else "-"
        axes.plot(
            [100 * trial["rate"] for trial in own],
            [100 * height for height in heights],
            label=own[0]["words"] + (" (accuracy)" if plain else ""),
            color=SERIES[number % len(SERIES)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=line if len(own) > 2 else "",  # two points are no course
        )
    axes.set(xlabel="rate, %", ylabel="attack succeeds, %", ylim=(-2, 102))
    axes.set_xlim(left=0)
    axes.grid(True)
    axes.legend(fontsize=7)
    return figure


STUDY = Study(
    name="poisoning",
    title="Poisoned training sets: flipped labels and backdoors",
    source=(
        "Gu et al., BadNets (arXiv:1708.06733); Chen et al., blended injection (arXiv:1712.05526); "
        "found by spectral signatures (Tran et al., arXiv:1811.00636) and activation clustering "
        "(Chen et al., arXiv:1811.03728)"
    ),
    data="digits",
    options=Options,
    quick={"model": "mnist_dense", "rates": (0.05,), "epochs": 8, "retrain": False},
    measure=measure,
    render=render,
)
