"""A lecture on adversarial examples: from a linear classifier to poisoned training sets."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor

from deitsec.attacks import BIM, FGSM, ILLC, PGD, Attack
from deitsec.engine import Engine
from deitsec.studies.adversarial_lecture_bench import DENSE, LINEAR, Bench, Options
from deitsec.studies.adversarial_lecture_page import (
    short_adversarial,
    short_destruction,
    short_distortions,
    short_example,
    short_failed,
    short_few_labels,
    short_fooling,
    short_linear,
    short_mixture,
    short_other_models,
    short_poisoning,
    short_sizes,
    show_destruction,
    show_distortions,
    show_example,
    show_few_labels,
    show_fooling,
    show_linear,
    show_other_models,
    show_sizes,
)
from deitsec.studies.attacked_photographs import attack_photographs, outcome
from deitsec.studies.destruction import measure_destruction
from deitsec.studies.few_labels import measure_few_labels
from deitsec.studies.fooled_by_nothing import measure_fooling
from deitsec.studies.lbfgs_distortions import measure_distortions
from deitsec.studies.lecture import Topic, check_topics, measure_topics, render_topics, study_topic
from deitsec.studies.linear_classifiers import measure_linear
from deitsec.studies.published_mixture import measure_mixture, mixture_section
from deitsec.studies.published_transfer import EPS as PUBLISHED_TRANSFER_EPS
from deitsec.studies.study import Document, Page, Study, StudyRun
from deitsec.studies.transfer_between import fit_kinds, transfer_between
from deitsec.studies.whole_mnist import is_whole_mnist
from deitsec.studies.worked_example import worked_example
from deitsec.training import predict
from deitsec.verification.protocol import choose_rows

LECTURE_EPS = 32 / 255
PRINTED_EPS = 16 / 255


def _methods(eps: float) -> dict[str, Attack]:
    """Fast, basic iterative and least-likely class, as Kurakin et al. have them."""
    return {
        "fast": FGSM(eps=eps),
        "basic iterative": BIM(eps=eps),
        "least likely": ILLC(eps=eps),
    }


def _example(bench: Bench) -> dict[str, Any]:
    return worked_example()


def _linear(bench: Bench) -> dict[str, Any]:
    images, labels = bench.rows(bench.run.options.per_class)
    networks, other = bench.networks, bench.network
    trainings = bench.trained_otherwise
    return bench.run.part(
        "linear",
        lambda: measure_linear(
            bench.run,
            networks[LINEAR],
            other,
            images,
            labels,
            eps=bench.eps,
            trainings=trainings,
        ),
    )


def _distortions(bench: Bench) -> dict[str, Any]:
    options = bench.run.options
    images, labels = bench.rows(options.lbfgs_per_class)
    networks, trainings = bench.networks, bench.trained_otherwise[LINEAR]
    return bench.run.part(
        "distortions",
        lambda: measure_distortions(
            bench.run,
            networks,
            images,
            labels,
            steps=options.lbfgs_steps,
            trainings=trainings,
        ),
    )


def _sizes(bench: Bench) -> dict[str, Any]:
    """The three methods at the lecture's radius, on photographs and on the data."""
    run, subject, network = bench.run, bench.subject, bench.network
    images, labels = bench.rows(run.options.per_class)

    def on_data() -> dict[str, Any]:
        engine = Engine(network, seed=run.seed, stop="never", quantize=True)
        found: list[dict[str, Any]] = []
        for name, attack in _methods(LECTURE_EPS).items():
            result = engine.run(attack, images, labels, progress=run.rows(f"{name} on the data"))
            found.append({"name": name, **outcome(result)})
        right = predict(network, run.data.test).argmax(1) == run.data.test.labels
        return {
            "model": network.name,
            "data": run.data.name,
            "test_error": 1 - right.double().mean().item(),
            "test_rows": len(right),
            "attacks": found,
        }

    return {
        "eps": LECTURE_EPS,
        "photographs": run.part(
            "photographs-attacked",
            lambda: attack_photographs(run, subject, _methods(LECTURE_EPS), looks=False),
        ),
        "data": run.part("data-attacked", on_data),
    }


def _destruction(bench: Bench) -> dict[str, Any]:
    run, subject, network = bench.run, bench.subject, bench.network
    images, labels = bench.rows(run.options.per_class)
    draws = run.options.draws

    def rates(model: Any, x: Tensor, y: Tensor, eps: float) -> dict[str, Any]:
        return measure_destruction(run, model, x, y, _methods(eps), eps=eps, draws=draws)

    return {
        "photographs": run.part(
            "photographs-printed",
            lambda: rates(subject.model, subject.images, subject.labels, PRINTED_EPS),
        ),
        "data": run.part("data-printed", lambda: rates(network, images, labels, bench.eps)),
        "name": run.data.name,
    }


def _fooling(bench: Bench) -> dict[str, Any]:
    run, network = bench.run, bench.network
    others = {name: model for name, model in bench.networks.items() if model is not network}
    found = measure_fooling(
        run,
        network,
        others,
        generations=run.options.generations,
        steps=run.options.fooling_steps,
    )
    return {"model": network.name, "class_names": list(run.data.class_names), **found}


def _few_labels(bench: Bench) -> dict[str, Any]:
    options = bench.run.options
    return measure_few_labels(
        bench.run,
        model=options.virtual_model,
        labelled=options.labelled,
        epochs=options.virtual_epochs,
        eps=options.virtual_eps,
        seeds=options.seeds,
    )


def _other_models(bench: Bench) -> dict[str, Any]:
    """The transfer matrix at a radius at which every attack can succeed, and at the usual one.

    Where the data are those of the published matrix, by its attack and radius too.
    """
    run, options = bench.run, bench.run.options
    networks = bench.networks
    kinds = cache(lambda: fit_kinds(run, options.estimators, rows=options.estimator_rows))

    def matrix(attack: Attack) -> dict[str, Any]:
        return transfer_between(
            run,
            {name: networks[name] for name in dict.fromkeys((options.network, DENSE))},
            kinds(),
            choose_rows(run.data, options.per_class),
            attack=attack,
            queries=options.queries,
        )

    def at(name: str, eps: float) -> dict[str, Any]:
        return run.part(name, lambda: matrix(PGD(eps=eps, steps=20)))

    chosen = at("other-models", options.transfer_eps)
    same = options.transfer_eps == bench.eps
    usual = chosen if same else at("other-models-usual-eps", bench.eps)
    found = {"matrix": chosen, "usual": usual}
    if is_whole_mnist(run.data):
        published = FGSM(eps=PUBLISHED_TRANSFER_EPS)
        found["published"] = run.part("other-models-published", lambda: matrix(published))
    return found


def _mixture(bench: Bench) -> dict[str, Any]:
    return measure_mixture(
        bench.run, bench.networks[DENSE], name=DENSE, epochs=bench.run.options.epochs
    )


def _of_failed_defenses(options: Options) -> Mapping[str, Any]:
    return {
        "model": DENSE,
        "epochs": options.epochs,
        "per_class": options.per_class,
        "steps": options.steps,
        "adaptive_steps": 2 * options.steps,
        "draws": options.draws,
        "members": options.members,
        "eps": options.defense_eps,
    }


def _of_adversarial_training(options: Options) -> Mapping[str, Any]:
    return {
        "methods": ("mixture", "pgd"),
        "steps": options.steps,
        "per_class": options.per_class,
        "model": DENSE,  # the mixture's authors trained a dense network too
        "epochs": options.epochs,
        "curve_rows": 100,
        "eps": options.defense_eps,
    }


def _of_poisoning(options: Options) -> Mapping[str, Any]:
    return {
        "model": DENSE,
        "rates": options.rates,
        "epochs": options.poison_epochs,
        "retrain": False,
    }


TOPICS: tuple[Topic[Bench], ...] = (
    Topic(
        name="example",
        title="The worked example",
        says="Ten weights of size 1, and half a step along their signs: every value moves a "
        "little, and the score by ten times as much.",
        measure=_example,
        show=show_example,
        short=short_example,
    ),
    Topic(
        name="linear",
        title="Linear image classifiers",
        says="The same on images, where there are hundreds of values. The lecture says that "
        "linear classifiers fall because they are linear, and networks because they are nearly "
        "so.",
        measure=_linear,
        show=show_linear,
        short=short_linear,
    ),
    Topic(
        name="distortions",
        title="L-BFGS: how little it takes",
        says="The first adversarial examples of networks were the nearest that box-constrained "
        "L-BFGS found (Szegedy et al.).",
        measure=_distortions,
        show=show_distortions,
        short=short_distortions,
    ),
    Topic(
        name="methods",
        title="Fast, basic iterative, least likely",
        says="One step, many small ones, and many towards the class that the model finds least "
        "likely, at the lecture's 32/255.",
        measure=_sizes,
        show=show_sizes,
        short=short_sizes,
    ),
    Topic(
        name="destruction",
        title="In the physical world",
        says="Adversarial images are printed and photographed. The destruction rate is the share "
        "of those misclassified that is right again.",
        measure=_destruction,
        show=show_destruction,
        short=short_destruction,
    ),
    Topic(
        name="nothing",
        title="Fooling images",
        says="The lecture says that from noise one comes to an image that is no digit to anybody, "
        "and that the model is more than 99% sure of: by gradient, and by evolution, which needs "
        "scores only.",
        measure=_fooling,
        show=show_fooling,
        short=short_fooling,
    ),
    study_topic(
        "failed-defenses",
        title="Defenses that failed",
        says="What was hoped to help, attacked plainly and then by somebody who knows it. The "
        "network here is a dense one, for its cost, and that of the whole study convolutional: the "
        "two pages differ for it.",
        options=_of_failed_defenses,
        short=short_failed,
    ),
    study_topic(
        "adversarial-training",
        title="Adversarial training, and its learning curves",
        says="Training and test images, clean and attacked.",
        options=_of_adversarial_training,
        short=short_adversarial,
    ),
    Topic(
        name="published-mixture",
        title="Adversarial training at the published radius",
        says="Goodfellow et al. (arXiv:1412.6572, section 6) trained a maxout network on MNIST by "
        "the mixture of clean and FGSM's images.",
        measure=_mixture,
        show=lambda found: Page(markdown=mixture_section(found)),
        short=short_mixture,
    ),
    Topic(
        name="few-labels",
        title="Virtual adversarial training with few labels",
        says="Where there is no label, the model's own answer takes its place: it is to stay the "
        "same around every image.",
        measure=_few_labels,
        show=show_few_labels,
        short=short_few_labels,
    ),
    Topic(
        name="other-models",
        title="Nearest neighbours, support vectors, trees, logistic regression",
        says="Whether adversarial images transfer between models that have little in common.",
        measure=_other_models,
        show=show_other_models,
        short=short_other_models,
    ),
    study_topic(
        "poisoning",
        title="Poisoned training sets",
        says="The lecture says that who may add to the training set needs no access to the model.",
        options=_of_poisoning,
        short=short_poisoning,
    ),
)


def measure(run: StudyRun[Options]) -> dict[str, Any]:
    """Measure each topic of the lecture."""
    return measure_topics(Bench(run), TOPICS)


def render(document: Document) -> Page:
    """Make the page of a result."""
    return render_topics(document, TOPICS)


STUDY = Study(
    name="adversarial-lecture",
    title="A lecture on adversarial examples, measured",
    source="a lecture on adversarial examples and adversarial training: Szegedy et al. "
    "(arXiv:1312.6199), Goodfellow et al. (arXiv:1412.6572), Nguyen et al. (arXiv:1412.1897), "
    "Kurakin et al. (arXiv:1607.02533), Papernot et al. (arXiv:1605.07277), Miyato et al. "
    "(arXiv:1704.03976), Gu et al. (arXiv:1708.06733)",
    data="digits",
    options=Options,
    quick={
        "photo_epochs": 2,
        "photo_train": 6,
        "photo_test": 2,
        "side": 64,
        "network": "mnist_dense",
        "epochs": 3,
        "per_class": 1,
        "steps": 5,
        "lbfgs_steps": 15,
        "lbfgs_per_class": 1,
        "generations": (5, 10),
        "fooling_steps": 40,
        "draws": 2,
        "members": 1,
        "labelled": (5,),
        "virtual_epochs": 4,
        "seeds": 1,
        "estimators": ("logistic", "knn"),
        "queries": 30,
        "rates": (0.1,),
        "poison_epochs": 3,
    },
    measure=measure,
    render=render,
    free=("topics",),
    check=lambda options: check_topics(options, TOPICS),
)
