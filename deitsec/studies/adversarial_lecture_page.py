"""The page of the lecture on adversarial examples: what each topic shows, and says in short."""

from statistics import fmean

from deitsec.report.wording import grey_levels
from deitsec.studies.attacked_photographs import attack_strip, outcome_table
from deitsec.studies.destruction import PRINT, destruction_table
from deitsec.studies.few_labels import METHODS, few_labels_table
from deitsec.studies.fooled_by_nothing import fooling_figure, fooling_section
from deitsec.studies.lbfgs_distortions import distortion_section
from deitsec.studies.lecture import Found
from deitsec.studies.linear_classifiers import PUBLISHED_EPS, linear_figure, linear_section
from deitsec.studies.photographs import told
from deitsec.studies.study import Page
from deitsec.studies.tables import share
from deitsec.studies.transfer_between import transfer_figure, transfer_section
from deitsec.studies.worked_example import worked_example_table


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
    return f"The probability goes from {share(before)} to {share(after)}, as the lecture has it."


def show_linear(found: Found) -> Page:
    """Errors by radius, the optimum, and the templates."""
    return Page(
        markdown=f"{found['rows']} test images.\n\n{linear_section(found)}",
        figures={"templates": linear_figure(found)},
    )


def short_linear(found: Found) -> str:
    """The error of the linear classifier at the published radius."""
    point = next(one for one in found["points"] if one["eps"] == PUBLISHED_EPS)
    sure = point["confidence"]
    said = "" if sure is None else f", which it is {share(sure, 1)} sure of"
    return f"Within eps 0.25 a linear classifier gets {share(point['error'], 1)} wrong{said}."


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
        f"Photographs: {told(photographs['subject']).replace('--model', '--photo-model')}",
        outcome_table([(one["name"], one) for one in photographs["attacks"]]),
        f"{data['model']} on {data['attacks'][0]['rows']} images of {data['data']}:",
        outcome_table([(one["name"], one) for one in data["attacks"]]),
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
    """Rates on photographs and on the data."""
    return Page(
        markdown="Photographs. " + destruction_table(found["photographs"]) + "\nThe published "
        "rates are of real prints of ImageNet images that Inception v3 got wrong, photographed by "
        "a phone; ours are of a simulation of it. What differs beside that: a small classifier of "
        "a few classes that never saw a blurred or turned image goes by what is fine in the "
        "image, and so do the attacks on it; the simulation blurs by up to a pixel of 224, a print "
        "by less of a larger image; and each attack here goes on to the highest loss, so that the "
        "iterative ones are surer of their answer than the fast one, and outlast more.\n\n"
        f"{found['name']}. " + destruction_table(found["data"])
    )


def short_destruction(found: Found) -> str:
    """What the simulated print takes back of each method."""
    said: list[str] = []
    for method in found["photographs"]["methods"]:
        rate = method["rates"][PRINT]
        said.append(f"{method['name']} {'-' if rate is None else share(rate, 1)}")
    return f"A simulated print and photograph take back: {', '.join(said)}."


def show_fooling(found: Found) -> Page:
    """The images of nothing."""
    return Page(
        markdown=f"{found['model']}:\n\n{fooling_section(found)}",
        figures={"nothing": fooling_figure(found, found["class_names"])},
    )


def short_fooling(found: Found) -> str:
    """Classes reached by each method."""
    said = ", ".join(
        f"{one['name']} {one['fooled']} of {one['classes']}" for one in found["methods"]
    )
    return f"Classes with an image of nothing at 99% or more: {said}."


def short_failed(found: Found) -> str:
    """How many defenses are left, and by how much the plain attack flattered the worst."""
    base, *others = found["defenses"]
    flattered = max(others, key=lambda one: one["plain"] - one["adaptive"])
    best = max(others, key=lambda one: one["adaptive"])
    return (
        f"Undefended {share(base['adaptive'], 1)} are left; the plain attack flatters "
        f"{flattered['name']} most ({share(flattered['plain'], 1)} against "
        f"{share(flattered['adaptive'], 1)}); {best['name']} holds most, "
        f"{share(best['adaptive'], 1)}."
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
        f"run{'' if seeds == 1 else 's'}.\n\n" + few_labels_table(found)
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
    return (
        f"With {fewest} labels of each class {virtual} are right, and {alone} without the "
        "unlabelled images."
    )


def show_other_models(found: Found) -> Page:
    """The transfer matrix."""
    return Page(
        markdown="\n\n".join(transfer_section(found)),
        figures={"transfer": transfer_figure(found)},
    )


def short_other_models(found: Found) -> str:
    """What images made on the dense network do to the estimators."""
    source = found["names"].index("mnist_dense")
    said = ", ".join(
        f"{name} {share(found['rate'][source][place], 1)}"
        for place, name in enumerate(found["names"])
        if place != source
    )
    return f"Images made on mnist_dense fool: {said}."


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
