"""The page of the MNIST study."""

from collections.abc import Mapping, Sequence
from typing import Any

from deitsec.report.wording import grey_levels, joined, points
from deitsec.studies.failed_defenses_page import notable, verdict
from deitsec.studies.mnist_adversarial_figures import figures_of
from deitsec.studies.mnist_adversarial_options import Options
from deitsec.studies.mnist_adversarial_targeted import LITERAL_RATE, SURE
from deitsec.studies.study import Document, Page
from deitsec.studies.tables import share, table

Found = Mapping[str, Any]

PUBLISHED = {"dense": 0.97, "convolutional": 0.99}
"""Test accuracies of the study; the second is given as about."""
_APART = 0.02
"""A difference from the published that has to be explained."""


def render(document: Document) -> Page:
    """Make the page of a result."""
    options, on_mnist = document["options"], document["data"]["name"] == "mnist"
    found: Found = {**document["found"], "networks": _named(document["found"]["networks"], options)}
    networks = found["networks"]
    second = list(networks)[1]
    figures = figures_of(found, every=options["every"])
    parts = [
        "## Ours beside the published",
        compared(networks) if on_mnist else _NOT_PUBLISHED,
        "Of the study these accuracies, the numbers of steps and lambda were at hand; its widths, "
        "batches and optimizer were not, and its crafted images are pictures without figures.",
        "## The dense network",
        _dense(networks["dense"], options, on_mnist=on_mnist),
        "![loss and accuracy by step](figure:training)",
        f"## The {second} network",
        _second(networks[second], options["network"]),
        "## Right and wrong answers",
        "The first test image of each class that is taken for what it is, and the first that are "
        "not, each with the probability of the answer.",
        "![right and wrong answers](figure:answers)",
        "## One step: FGSM",
        _fgsm(networks, found["class_names"]),
        "![accuracy under FGSM by radius](figure:fgsm)",
    ]
    if "fgsm-examples" in figures:
        parts += [
            f"Images within {grey_levels(options['shown_eps'])}, the first of their class that "
            "fell:",
            "![images of FGSM](figure:fgsm-examples)",
        ]
    parts += [
        "## From noise to any class",
        _noise(networks, options),
        "![images from noise](figure:noise)",
        "## From a digit to any other",
        _targeted(networks, options),
        *(
            f"Looks like the row, and the {name} network takes it for the column; the diagonal has "
            f"the digits themselves, and a frame marks a failure:\n\n"
            f"![source by target, {name}](figure:targeted-{name})"
            for name in networks
        ),
        "## Defenses",
        _defenses(found, options),
    ]
    return Page(markdown="\n\n".join(parts), figures=figures)


def _named(networks: Mapping[str, Found], options: Found) -> dict[str, Found]:
    """The networks by what they are: the second is convolutional, unless another was asked for."""
    chosen = options["network"]
    second = "convolutional" if chosen == Options().network else chosen
    return {"dense": networks["dense"], second: networks["convolutional"]}


_NOT_PUBLISHED = "Nothing was published for these networks on this data."


def compared(networks: Mapping[str, Found]) -> str:
    """The published accuracies beside ours, and whether any is far off."""
    ours = {name: networks[name]["answers"]["accuracy"] for name in PUBLISHED}
    rows = [
        [
            f"test accuracy, {name}",
            f"{'about ' if name == 'convolutional' else ''}{share(published, 0)}",
            share(ours[name]),
            f"{100 * (ours[name] - published):+.2f}",
        ]
        for name, published in PUBLISHED.items()
    ]
    apart = [name for name, value in PUBLISHED.items() if abs(ours[name] - value) > _APART]
    said = (
        f"More than {points(_APART)} apart: {joined(apart)}. The schedule of this run is given "
        "below; of the study's only the number of steps is known here."
        if apart
        else f"No figure is more than {points(_APART)} from the published one."
    )
    return f"{table(('', 'published', 'ours', 'points'), rows)}\n{said}"


def _schedule(training: Found) -> str:
    settings = training["settings"]
    return (
        f"{settings['optimizer']}, rate {settings['lr']:g} ({settings['schedule']}), batches of "
        f"{settings['batch_size']}"
    )


def _dense(network: Found, options: Found, *, on_mnist: bool) -> str:
    training = network["training"]
    rows = [
        [
            str(options["every"] * record["epoch"]),
            f"{record['train_loss']:.4f}",
            f"{record['measured']['test_loss']:.4f}",
            share(record["measured"]["test_accuracy"]),
        ]
        for record in training["epochs"]
    ]
    chosen = on_mnist and options["lr"] == Options().lr
    tried = " (the rate was picked in view of accuracies on the test images)" if chosen else ""
    return (
        f"{options['steps']:,} steps of {_schedule(training)}{tried}. *Training loss* is the mean "
        f"of the steps since the last line; test figures are those of all "
        f"{network['answers']['rows']:,} test images.\n\n"
        + table(("step", "training loss", "test loss", "test accuracy"), rows)
    )


def _second(network: Found, name: str) -> str:
    training = network["training"]
    rows = [
        [
            str(record["epoch"]),
            f"{record['train_loss']:.4f}",
            f"{record['measured']['test_loss']:.4f}",
            share(record["measured"]["test_accuracy"]),
        ]
        for record in training["epochs"]
    ]
    moved = " on moved images" if training["settings"]["augmentation"] else ""
    held = (
        f"; {share(training['settings']['validation'], 0)} of the training images are held out and "
        f"pick the epoch, number {training['best_epoch']}"
        if training["settings"]["validation"]
        else ""
    )
    return f"A {name}, {_schedule(training)}{moved}{held}.\n\n" + table(
        ("epoch", "training loss", "test loss", "test accuracy"), rows
    )


def _fgsm(networks: Mapping[str, Found], names: Sequence[str]) -> str:
    found = {name: one["fgsm"] for name, one in networks.items()}
    first = next(iter(found.values()))
    rows = [["clean", *(cell for one in found.values() for cell in (share(one["clean"], 1), "-"))]]
    for k, point in enumerate(first["points"]):
        row = [f"eps = {point['eps']:g}"]
        for one in found.values():
            sure = one["points"][k]["wrong_confidence"]
            row += [
                share(one["points"][k]["accuracy"], 1),
                "-" if sure is None else share(sure, 0),
            ]
        rows.append(row)
    head = [
        "",
        *(
            cell
            for name in found
            for cell in (f"{name}: right", "mean confidence of the wrong answers")
        ),
    ]
    return (
        f"Accuracy on {first['rows']:,} test images after one step of x + eps sign(grad), and the "
        "mean probability of the wrong answers.\n\n"
        + table(head, rows)
        + f"\n{_commonest(found, names)}"
    )


def _commonest(found: Mapping[str, Found], names: Sequence[str]) -> str:
    """What the farthest step ends in: one class for nearly all is no robustness of that class."""
    said = [
        f"the {name} network takes {share(one['points'][-1]['commonest_share'], 1)} of the images "
        f"for class {names[one['points'][-1]['commonest']]}"
        for name, one in found.items()
    ]
    eps = next(iter(found.values()))["points"][-1]["eps"]
    return (
        f"At eps = {eps:g} {joined(said)}. Where that is nearly all of them, the images of the "
        "class that stay right are no sign of strength."
    )


def _noise(networks: Mapping[str, Found], options: Found) -> str:
    rows: list[list[str]] = []
    for name, one in networks.items():
        for kind, words in (("sharpened", ""), ("literal", ", plain gradient descent")):
            found = one["noise"][kind]
            first = found["median_first_step"]
            rows.append(
                [
                    f"{name}{words}",
                    f"{round(found['reached'] * found['rows'])} of {found['rows']}",
                    share(found["confidence"], 1),
                    "never" if first is None else f"{first:g}",
                    f"{found['distance']:.2f}",
                ]
            )
    head = ("network", "taken for the goal", "confidence", "median step of the first", "L2 moved")
    return (
        f"From noise around mid-grey, {options['crafting_steps']} steps down 1/2 ||y_goal - "
        f"softmax||^2 for each class, from {options['noises']} noises a class; the first is shown. "
        "A goal counts as reached from a probability of 99%, after rounding to 8 bits. Steps take "
        "the direction of the gradient; in *plain gradient descent* it is that of the formula, and "
        "else it is sharpened while the goal is far behind.\n\n" + table(head, rows)
    )


def _targeted(networks: Mapping[str, Found], options: Found) -> str:
    rows: list[list[str]] = []
    for name, one in networks.items():
        kinds = (("", one["targeted"]), (f", {share(SURE, 0)} sure", one["targeted_sure"]))
        rows += [
            [
                f"{name}{words}",
                f"{round(found['reached'] * found['rows'])} of {found['rows']}",
                str(round(found["kept"] * found["rows"])),
                _figure(found["distance"]),
                share(found["confidence"], 1) if found["confidence"] is not None else "-",
                _figure(found["objective"]),
                share(found["below_source"], 1),
            ]
            for words, found in kinds
        ]
    head = (
        "network",
        "at the goal",
        "in 8 bits",
        "L2",
        "confidence",
        "objective",
    )
    literal = [
        [
            f"{name}, from {'noise' if start == 'noise' else 'the digit'}",
            share(one["targeted_literal"][start]["reached"], 1),
            share(one["targeted_literal"][start]["ever"], 1),
            _figure(one["targeted_literal"][start]["distance"]),
        ]
        for name, one in networks.items()
        for start in ("noise", "source")
    ]
    source = max(one["targeted"]["objective_of_source"] for one in networks.values())
    return (
        f"1/2 ||y_goal - softmax(x)||^2 + {options['weight']:g} ||x - x_target||^2 over "
        f"{options['crafting_steps']} steps, from the first test image of each class that the "
        "network gets right to every other class. Distance and confidence are means over the "
        "images that reach the goal, which is to be the network's answer, or to have that "
        f"probability. {_rounded(networks)}\n\n"
        + table((*head, "objective lower than the unchanged digit's"), rows)
        + f"\nThe first term is at most 1, and at the digit itself it is {source:.2f} at most on "
        f"average. So with lambda = {options['weight']:g} an image farther than "
        f"{(1 / options['weight']) ** 0.5:.2f} from its digit costs more than the digit left "
        "alone; the last column says how many crafted images cost less than that. "
        "`fooling_lookalike` walks to the goal first and takes the least objective among the "
        f"images that reach it. {_plain(networks)}\n\n"
        + table(
            ("plain gradient descent", "at the goal in the end", "ever", "L2 in the end"), literal
        )
    )


def _rounded(networks: Mapping[str, Found]) -> str:
    """What rounding to 8 bits, as in the pictures, loses."""
    both = [one[kind] for one in networks.values() for kind in ("targeted", "targeted_sure")]
    reached, kept = (
        sum(round(found[key] * found["rows"]) for found in both) for key in ("reached", "kept")
    )
    if kept == reached:
        return f"All {reached} that reach it are still there after rounding to 8 bits."
    return (
        f"Of the {reached} that reach it, rounding to 8 bits, as in the pictures, loses "
        f"{reached - kept}."
    )


def _plain(networks: Mapping[str, Found]) -> str:
    """How plain gradient descent on the same formula compares."""
    starts = [
        start["reached"] for one in networks.values() for start in one["targeted_literal"].values()
    ]
    ours = min(one["targeted"]["reached"] for one in networks.values())
    least, most = share(min(starts), 1), share(max(starts), 1)
    told = (
        f"Plain gradient descent on the formula (rate {LITERAL_RATE:g}) ends at the goal for "
        f"{least} to {most} of the pairs"
    )
    if ours > max(starts):
        return (
            f"{told}, fewer than `fooling_lookalike` ({share(ours, 1)} at least); why was not "
            "measured:"
        )
    return f"{told}, `fooling_lookalike` for {share(ours, 1)} at least:"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _defenses(found: Found, options: Found) -> str:
    defenses = found["defenses"]
    base, count = defenses[0], defenses[0]["rows"]
    least = notable(count)
    # the verdict is by all attacks together, and what PGD alone would have said beside it
    judged = [{**entry, "plain": entry["pgd"], "adaptive": entry["all"]} for entry in defenses]
    rows = [
        [
            entry["name"],
            *(share(entry[key], 1) for key in ("clean", "fgsm", "pgd", "adaptive", "all")),
            verdict(judge, judged[0], least),
        ]
        for entry, judge in zip(defenses, judged, strict=True)
    ]
    head = ("defense", "clean", "FGSM", "PGD", "adaptive", "withstand all", "verdict")
    flattered = max(defenses, key=lambda entry: entry["fgsm"] - entry["all"])
    how = table(
        ("defense", "what the adaptive attack is", "trained"),
        [[entry["name"], entry["words"], _trained(entry, options)] for entry in defenses],
    )
    return (
        f"The {options['network']} defended in three ways, and {count} test images of which no "
        f"value may change by more than {grey_levels(found['eps'])}. FGSM and PGD "
        f"({options['attack_steps']} steps) know of no defense: they follow the model as it "
        "answers. Every success is judged by the defended model, with random numbers that the "
        "attack has not seen. The figure to believe is *withstand all*, and it is still an upper "
        f"bound.\n\n{table(head, rows)}\nFGSM alone would have flattered {flattered['name']} most: "
        f"by {points(flattered['fgsm'] - flattered['all'])}. Undefended, "
        f"{share(base['all'], 1)} withstand all attacks.\n\n{how}"
    )


def _trained(entry: Found, options: Found) -> str:
    settings = entry["settings"]
    if not settings:
        return "the second network above"
    epochs = settings["epochs"] if "epochs" in settings else settings["fit"]["epochs"]
    extra = {
        "adversarial training": f", on PGD of {options['adversarial_steps']} steps",
        "defensive distillation": f", twice, at T = {options['temperature']:g}",
        "input noise": f", with noise of deviation {options['noise']:g}, as at test time",
    }[entry["name"]]
    return f"{epochs} epochs{extra}"
