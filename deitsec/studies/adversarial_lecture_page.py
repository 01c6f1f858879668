"""The page of the lecture on adversarial examples: what each topic shows, and says in short."""

from statistics import fmean

from deitsec.report.wording import grey_levels, joined, points
from deitsec.studies.attacked_photographs import attack_strip, outcome_table
from deitsec.studies.destruction import PRINT
from deitsec.studies.destruction_page import (
    destruction_table,
    order_found,
    published_rate,
    size_found,
)
from deitsec.studies.failed_defenses_page import notable
from deitsec.studies.few_labels import METHODS, beside_published, few_labels_table
from deitsec.studies.fooled_by_nothing import fooling_figure, fooling_section, shown_methods
from deitsec.studies.lbfgs_distortions import distortion_section
from deitsec.studies.lecture import Found
from deitsec.studies.linear_classifiers import (
    PUBLISHED,
    PUBLISHED_EPS,
    at_published,
    linear_figure,
    linear_section,
)
from deitsec.studies.photographs import told
from deitsec.studies.published_mixture import EPS as MIXTURE_EPS
from deitsec.studies.published_mixture import PUBLISHED as PUBLISHED_MIXTURE
from deitsec.studies.published_transfer import published_transfer
from deitsec.studies.study import Page
from deitsec.studies.tables import share
from deitsec.studies.transfer_between import (
    failed_sources,
    transfer_figure,
    transfer_section,
)
from deitsec.studies.worked_example import LECTURE, worked_example_table


def show_example(found: Found) -> Page:
    """Ours beside the lecture's."""
    numbers = ", ".join(f"{value:g}" for value in found["moved"])
    return Page(
        markdown=f"w = ({', '.join(map(str, found['weights']))}), "
        f"x = ({', '.join(map(str, found['input']))}), moved to ({numbers}).\n\n"
        + worked_example_table(found)
    )


def short_example(found: Found) -> str:
    """The probability before and after."""
    before, after = found["probability"]
    theirs = LECTURE["probability"]
    same = all(
        f"{ours:.2f}" == f"{value:.2f}" for ours, value in zip((before, after), theirs, strict=True)
    )
    beside = ", ".join(f"{value:g}" for value in theirs)
    return (
        f"The probability goes from {share(before)} to {share(after)}; the lecture has {beside}, "
        f"{'the same' if same else 'not the same'} to two digits."
    )


def show_linear(found: Found) -> Page:
    """Errors by radius, the optimum, and the templates."""
    return Page(
        markdown=linear_section(found),
        figures={"templates": linear_figure(found)},
    )


PUBLISHED_LINEAR = PUBLISHED["logistic_regression"]


def short_linear(found: Found) -> str:
    """The error of the linear classifier at the published radius."""
    point = at_published(found)[0]
    sure = point["confidence"]
    said = "" if sure is None else f", which it is {share(sure, 1)} sure of"
    return (
        f"Within eps {PUBLISHED_EPS:g} a linear classifier gets {share(point['error'], 1)} of "
        f"{point['rows']:,} images wrong{said} (published: {share(PUBLISHED_LINEAR[1], 1)} at "
        f"{share(PUBLISHED_LINEAR[2], 1)})."
    )


def show_distortions(found: Found) -> Page:
    """Ours, and the published table."""
    return Page(markdown=distortion_section(found))


def short_distortions(found: Found) -> str:
    """The least mean distortion."""
    known = [one for one in found["models"] if one["distortion"] is not None]
    if not known:
        return "No image reached its target."
    least = min(known, key=lambda one: one["distortion"])
    return f"{least['name']} needs the least: a mean distortion of {least['distortion']:.3f}."


def show_sizes(found: Found) -> Page:
    """The three methods on photographs and on the data."""
    photographs, data = found["photographs"], found["data"]
    parts = [
        f"At most {grey_levels(found['eps'])}, in images of 8 bits, each method to the highest "
        "loss that it finds; the iterative ones take steps of one level.",
        "![a photograph under each method](figure:strip)",
        f"Photographs: {told(photographs['subject'], option='--photo-model')}",
        outcome_table([(one["name"], one) for one in photographs["attacks"]]),
        f"{data['model']} on {data['attacks'][0]['rows']} images of {data['data']}; *error, clean* "
        f"is of all {data['test_rows']:,} test images:",
        outcome_table(
            [(one["name"], {**one, "clean_error": data["test_error"]}) for one in data["attacks"]]
        ),
    ]
    figures = {"strip": attack_strip(photographs["example"])}
    return Page(markdown="\n\n".join(parts), figures=figures)


def short_sizes(found: Found) -> str:
    """The error of photographs by method."""
    said = ", ".join(
        f"{one['name']} {share(one['error'], 1)}" for one in found["photographs"]["attacks"]
    )
    return f"Error of photographs at 32/255: {said}."


def show_destruction(found: Found) -> Page:
    """Rates on photographs and on the data, and what is known of their order."""
    photographs, data, name = found["photographs"], found["data"], found["name"]
    parts = [
        f"Photographs. {destruction_table(photographs)}",
        size_found(photographs),
        order_found("On photographs", photographs),
        f"{name.capitalize()}. {destruction_table(data)}",
        order_found(f"On {name}", data),
    ]
    return Page(markdown="\n\n".join(parts))


def short_destruction(found: Found) -> str:
    """What the simulated print takes back of each method, beside the published."""
    said: list[str] = []
    photographs = found["photographs"]
    for method in photographs["methods"]:
        rate = method["rates"][PRINT]
        theirs = published_rate(method["name"], photographs["eps"])
        beside = "" if theirs is None else f" (published {share(theirs, 1)})"
        said.append(f"{method['name']} {'-' if rate is None else share(rate, 1)}{beside}")
    return f"A simulated print and photograph takes back: {', '.join(said)}. " + order_found(
        "On photographs", photographs, short=True
    )


def show_fooling(found: Found) -> Page:
    """The fooling images."""
    return Page(
        markdown=f"{found['model']}:\n\n{fooling_section(found)}",
        figures={"nothing": fooling_figure(found, found["class_names"])},
    )


def short_fooling(found: Found) -> str:
    """Classes reached by each method."""
    said = ", ".join(
        f"{one['name']} {one['fooled']} of {one['classes']}" for one in shown_methods(found)
    )
    return f"Classes with a fooling image at 99% or more: {said}."


def short_failed(found: Found) -> str:
    """How many defenses are left, and by how much the plain attack flattered the worst."""
    base, *others = found["defenses"]
    flattered = max(others, key=lambda one: one["plain"] - one["adaptive"])
    best = max(others, key=lambda one: one["adaptive"])
    gap = flattered["plain"] - flattered["adaptive"]
    least = notable(found["rows"])
    told = (
        f"the plain attack flatters {flattered['name']} most ({share(flattered['plain'], 1)} "
        f"against {share(flattered['adaptive'], 1)})"
        if gap > least
        else f"no defense is flattered by the plain attack by more than {points(least)}"
    )
    return (
        f"On {found['rows']} images: undefended {share(base['adaptive'], 1)} are left; {told}; "
        f"{best['name']} holds most, {share(best['adaptive'], 1)}."
    )


def short_adversarial(found: Found) -> str:
    """Clean accuracy and the strongest attack's, by method."""
    said = "; ".join(
        f"{one['method']} {share(one['clean'], 1)} and "
        f"{share(min(one[name] for name in ('fgsm', 'pgd', 'strong')), 1)}"
        for one in found["methods"]
    )
    return f"Clean accuracy, and what the strongest attack leaves: {said}."


def show_few_labels(found: Found) -> Page:
    """Accuracy by labels."""
    seeds = len(found["points"][0]["accuracies"])
    return Page(
        markdown=f"{found['model']}, {found['epochs']} epochs over {found['images']} images, "
        f"perturbations of L2 length {found['eps']:g}; test accuracy, the mean of {seeds} "
        f"run{'' if seeds == 1 else 's'}.\n\n"
        + f"{few_labels_table(found)}\n{beside_published(found)}"
    )


def short_few_labels(found: Found) -> str:
    """What the unlabelled images are worth where labels are fewest."""
    fewest = min(point["labelled"] for point in found["points"])
    means = {
        point["method"]: fmean(point["accuracies"])
        for point in found["points"]
        if point["labelled"] == fewest
    }
    alone, virtual = (share(means[name], 1) for name in METHODS)
    runs = len(found["points"][0]["accuracies"])
    return (
        f"With {fewest} labels of each class {virtual} of the test images are right, and {alone} "
        f"without the unlabelled images (means of {runs} run{'' if runs == 1 else 's'})."
    )


def show_other_models(found: Found) -> Page:
    """The transfer matrix, beside the published, and the usual radius."""
    matrix = found["matrix"]
    beside = published_transfer(matrix, found.get("published"))
    parts = [_radius(matrix, found["usual"]), *transfer_section(matrix), beside]
    return Page(markdown="\n\n".join(parts), figures={"transfer": transfer_figure(matrix)})


def _radius(matrix: Found, usual: Found) -> str:
    """The radius, and what the attacks reach at the usual one of such data."""
    said = f"At most {grey_levels(matrix['eps'])}"
    if matrix["eps"] == usual["eps"]:
        return f"{said}, the usual radius of such images."
    held = ", ".join(
        f"{name} {share(usual['rate'][place][place], 1)}"
        for place, name in enumerate(usual["names"])
    )
    weak = failed_sources(usual)
    if matrix["eps"] < usual["eps"]:
        said += f". At the usual radius, {grey_levels(usual['eps'])}"
    else:
        said += f". This radius was chosen after seeing the usual one, {grey_levels(usual['eps'])}"
    said += f", where the same attacks succeed on their own models with: {held}"
    return said + (f"; so {joined(weak)} would say nothing of transfer there." if weak else ".")


def short_other_models(found: Found) -> str:
    """What images made on the dense network do to the others, beside shuffled noise."""
    matrix = found["matrix"]
    source = matrix["names"].index("mnist_dense")
    if "mnist_dense" in failed_sources(matrix):
        return "On mnist_dense the attack failed on its own model: no transfer figure."
    said = ", ".join(
        f"{name} {_share(matrix['rate'][source][place])} ({_share(matrix['noise'][source][place])})"
        for place, name in enumerate(matrix["names"])
        if place != source
    )
    return (
        f"Images made on mnist_dense within {grey_levels(matrix['eps'])} fool, and in brackets the "
        f"same change shuffled: {said}."
    )


def _share(value: float | None) -> str:
    return "-" if value is None else share(value, 1)


def short_mixture(found: Found) -> str:
    """The errors under FGSM without and with it."""
    before, after = found["error under FGSM"]
    theirs = PUBLISHED_MIXTURE["error under FGSM"]
    return (
        f"At eps {MIXTURE_EPS:g} FGSM gets {share(before, 1)} wrong without it and "
        f"{share(after, 1)} with it (published: {share(theirs[0], 1)} and {share(theirs[1], 1)})."
    )


def short_poisoning(found: Found) -> str:
    """The strongest backdoor at the least rate."""
    trials = [
        one
        for one in found["trials"]
        if "skipped" not in one and one["poisoned"]["attack_success"] is not None
    ]
    rate = min(one["rate"] for one in trials)
    best = max(
        (one for one in trials if one["rate"] == rate),
        key=lambda one: one["poisoned"]["attack_success"],
    )
    return (
        f"At {share(rate, 0)} of the training set, *{best['words']}* succeeds with "
        f"{share(best['poisoned']['attack_success'], 1)}, at a clean accuracy of "
        f"{share(best['poisoned']['accuracy'], 1)}."
    )
