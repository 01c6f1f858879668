"""The page of the study of the generator."""

from typing import Any

from deitsec.report.figure import FAINT, SERIES, new_figure
from deitsec.studies.study import Document, Page
from deitsec.studies.tables import seconds, share, table

_NAMES = {"random_search": "noise", "advgan": "AdvGAN", "fgsm": "FGSM", "pgd": "PGD-10"}


def render(document: Document) -> Page:
    """Make the page of a result."""
    found, options = document["found"], document["options"]
    subjects = found["subjects"]
    parts = [
        "A generator is trained once against each model, on training images. Of a test image it "
        "then makes an adversarial one in one forward pass of its own, within the same L-infinity "
        "radius as FGSM (a gradient of the model) and PGD-10 (ten of them). *Noise* is a random "
        "corner and a random point of the ball. No generator learnt from the test images, and the "
        "epoch of a generator was picked on images kept out of its training. Options "
        f"(kappa {options['kappa']:g}, discriminator's weight {options['gan_weight']:g}, learning "
        f"rate {options['lr']:g}) were chosen by success on validation images of the digits; "
        "figures on their test images had been seen too.",
        "## Success",
        "Of the images that the model has right, the share that it has wrong after the attack.",
        table(
            ("model", "eps", "test images", "right", *_NAMES.values()),
            [
                [
                    _label(subject),
                    f"{subject['eps']:.4g}",
                    str(subject["rows"]),
                    share(subject["accuracy"]),
                    *(share(_of(subject, name)["success_rate"]) for name in _NAMES),
                ]
                for subject in subjects
            ],
        ),
        "![Success by attack](figure:success)",
        "## Images per second",
        "The attacks took turns on the same images; medians of "
        f"{len(subjects[0]['attacks'][0]['seconds'])} runs of the engine, judging included. *Made "
        f"alone* is the generator without anybody asking the model. {_load(subjects)}",
        table(
            ("model", *_NAMES.values(), "AdvGAN, made alone"),
            [
                [
                    _label(subject),
                    *(f"{_of(subject, name)['images_per_second']:.0f}" for name in _NAMES),
                    f"{subject['generated_per_second']:.0f}",
                ]
                for subject in subjects
            ],
        ),
        "## What the generators cost",
        table(
            ("against", "parameters", "training images", "epochs", "best epoch", "training"),
            [
                [
                    _label(subject),
                    f"{subject['generator']['parameters']:,}",
                    str(subject["generator"]["rows"]),
                    str(subject["generator"]["epochs"]),
                    str(subject["generator"]["best_epoch"]),
                    seconds(subject["generator"]["seconds"]),
                ]
                for subject in subjects
            ],
        ),
    ]
    if len(found["transfer"]["names"]) > 1:
        parts += ["## On another model", _transfer(found["transfer"])]
    return Page(markdown="\n\n".join(parts), figures={"success": _figure(subjects)})


def _load(subjects: Any) -> str:
    loads = [subject["load"] for subject in subjects if subject["load"] is not None]
    if not loads:
        return ""
    return f"Load average of the machine meanwhile: {min(loads):.1f} to {max(loads):.1f}."


def _label(subject: Any) -> str:
    return f"{subject['model']} on {subject['data']}"


def _of(subject: Any, name: str) -> Any:
    return next(attack for attack in subject["attacks"] if attack["name"] == name)


def _transfer(matrix: Any) -> str:
    rows = [
        [f"trained against {name}", *(share(value) for value in row)]
        for name, row in zip(matrix["names"], matrix["rate"], strict=True)
    ]
    said = (
        "The generators of the digits on each model: of the images that the asked model has right, "
        "the share that it has wrong after the attack."
    )
    return f"{said}\n\n{table(('generator', *matrix['names']), rows)}"


def _figure(subjects: Any) -> Any:
    figure = new_figure(2.6)
    axes = figure.add_subplot()
    width = 0.8 / len(_NAMES)
    for number, (name, label) in enumerate(_NAMES.items()):
        places = [i + (number - (len(_NAMES) - 1) / 2) * width for i in range(len(subjects))]
        rates = [100 * (_of(subject, name)["success_rate"] or 0.0) for subject in subjects]
        colour = FAINT if name == "random_search" else SERIES[number - 1]
        axes.bar(places, rates, width, label=label, color=colour)
    axes.set_xticks(range(len(subjects)), [_label(s).replace(" on ", "\n") for s in subjects])
    axes.set(ylabel="success, %", ylim=(0, 105))
    axes.grid(True, axis="y")
    axes.legend(fontsize=7, ncols=len(_NAMES), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
