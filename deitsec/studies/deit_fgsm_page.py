"""The page of the broken DeiT: tables beside the published figures, confusion, images, curve."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from deitsec.report.example import unpack_examples
from deitsec.report.example_grid import example_grid
from deitsec.report.figure import MARKERS, SERIES, new_figure
from deitsec.report.plots import confusion_matrices
from deitsec.studies.seen_images import why_less_accurate
from deitsec.studies.study import Document, Page
from deitsec.studies.tables import share, table

Found = Mapping[str, Any]

# what the study gives: a DeiT fine-tuned on CIFAR-10, clean and on 1,000 FGSM images
_PUBLISHED_CLEAN = {"precision": 0.9399, "recall": 0.9399, "f1": 0.9399, "accuracy": 0.9399}
_PUBLISHED_FGSM = {"precision": None, "recall": None, "f1": 0.1049, "accuracy": 0.1050}
_MEASURES = ("precision", "recall", "f1", "accuracy")
_FAR = 0.02  # two points: what differs by more is explained


def render(document: Document) -> Page:
    """The page below the head."""
    found = document["found"]
    plain = found["networks"][0]
    weights = found["weights"]
    same = weights["same_sha256"] and weights["same_logits"]
    rows = plain["fgsm"]["rows"]
    parts = [
        f"{plain['architecture']}, {weights['parameters']:,} parameters, {plain['name']} on "
        f"{found['train_rows']:,} images of {document['data']['name']}. Weights extracted: "
        f"{weights['tensors']} tensors, {weights['bytes']:,} bytes of safetensors, sha256 "
        f"`{weights['sha256'][:16]}`; loaded from the file the model gives "
        f"{'the same logits' if same else 'OTHER LOGITS'}.\n",
        "## How it was trained\n",
        _training(document),
        f"## Clean, and on {rows} FGSM images read back from disk\n",
        _side_by_side(document, plain),
        _differences(document, plain),
        "![Confusion on clean images and on FGSM images](figure:confusion)\n",
        "![FGSM images, read back from their shards](figure:examples)\n"
        if plain["fgsm"]["examples"]
        else "No image of the FGSM shards fools the model, so there is none to show.\n",
        "## Stronger attacks, and a hardened DeiT\n",
        _attacks(found),
        f"Accuracy by eps on the {plain['strongest']['rows']} images of "
        f"`{plain['strongest']['spec']}`:\n",
        "![Accuracy under FGSM and PGD by eps](figure:curve)\n",
        _words(found),
    ]
    figures: dict[str, Any] = {"confusion": _confusion(found, plain), "curve": _curve(found)}
    if plain["fgsm"]["examples"]:
        examples = unpack_examples(base64.b64decode(plain["fgsm"]["examples"]))
        figures["examples"] = example_grid(examples, found["class_names"])
    return Page(markdown="\n".join(parts), figures=figures)


def _is_cifar10(document: Document) -> bool:
    return len(document["found"]["class_names"]) == 10 and "cifar10" in document["data"]["name"]


def _side_by_side(document: Document, plain: Found) -> str:
    published = _is_cifar10(document)
    head = ["", "precision", "recall", "F1", "accuracy"]
    rows = [[f"clean, {plain['clean']['rows']:,} images", *_four(plain["clean"])]]
    if published:
        rows.append(["clean, published", *_four(_PUBLISHED_CLEAN)])
    rows.append([f"`{plain['fgsm']['spec']}`", *_four(plain["fgsm"])])
    if published:
        rows.append(["FGSM, published (eps not stated)", *_four(_PUBLISHED_FGSM)])
    return table(head, rows)


def _four(metrics: Mapping[str, Any]) -> list[str]:
    values = (metrics[name] for name in _MEASURES)
    return ["not given" if value is None else f"{value:.4f}" for value in values]


def _differences(document: Document, plain: Found) -> str:
    """Why figures are not the published ones, where they differ by more than two points."""
    found = document["found"]
    if not _is_cifar10(document):
        return (
            f"The study is on CIFAR-10; this run is on {document['data']['name']}, so nothing is "
            "compared with its figures.\n"
        )
    lines: list[str] = []
    clean = plain["clean"]["accuracy"] - _PUBLISHED_CLEAN["accuracy"]
    if abs(clean) > _FAR:
        lines.append(_why_clean(document, plain, clean))
    fallen = plain["fgsm"]["accuracy"]
    published_drop = 100 * (_PUBLISHED_CLEAN["accuracy"] - 0.1050)
    drop = 100 * (plain["fgsm"]["clean_accuracy"] - fallen)
    lines.append(
        f"- FGSM takes {drop:.1f} points of the {plain['fgsm']['rows']} images' clean accuracy "
        f"({share(plain['fgsm']['clean_accuracy'], 1)} to {share(fallen, 1)}); published: "
        f"{published_drop:.1f} points to 10.5%."
    )
    if abs(fallen - 0.1050) > _FAR:
        lines.append(
            "- The study does not state its eps, so one figure cannot be held against the other: "
            f"at eps = {found['eps'] * 255:.3g}/255 this model is at {share(fallen, 1)}, and "
            f"{_crossing(plain['curve'], 0.1050)}"
        )
    return "\n".join(lines) + "\n"


def _why_clean(document: Document, plain: Found, points: float) -> str:
    """What was found about the distance to the published accuracy."""
    found = document["found"]
    start = "published weights" if document["options"]["pretrained"] else "no published weights"
    seen, teacher = found["seen"], found["teacher"]
    words = (
        f"- Clean accuracy is {100 * points:+.1f} points from the published one. It started from "
        f"{start}, has {found['weights']['parameters']:,} parameters and saw "
        f"{found['train_rows']:,} of CIFAR-10's 50,000 training images. On {seen['rows']:,} images "
        f"that it was trained on it has {share(seen['accuracy'], 1)}: "
    )
    published = _PUBLISHED_CLEAN["accuracy"]
    words += why_less_accurate(seen["accuracy"], plain["clean"]["accuracy"], published) + "."
    if teacher is not None:
        words += (
            f" Its teacher, a {teacher['architecture']} trained on the same images, has "
            f"{share(teacher['accuracy'], 1)}."
        )
    return words


def _crossing(curve: Sequence[Found], level: float) -> str:
    """Where accuracy under FGSM falls to a level, between measured radii."""
    radii = [point["eps"] * 255 for point in curve]
    values = [point["fgsm"] for point in curve]
    for place, value in enumerate(values):
        if value > level:
            continue
        if place == 0:
            return f"{share(level, 1)} is reached at {radii[0]:.3g}/255 or below."
        fraction = (values[place - 1] - level) / (values[place - 1] - value)
        eps = radii[place - 1] + fraction * (radii[place] - radii[place - 1])
        return f"{share(level, 1)} is reached at about {eps:.1f}/255, by the curve below."
    return f"{share(level, 1)} is reached at no eps up to {radii[-1]:.3g}/255."


def _training(document: Document) -> str:
    """A row for each network: from what it learnt, how long, and what it is worth."""
    found, models = document["found"], document["models"]
    plain, robust = found["networks"]
    teacher = found["teacher"]
    rows: list[list[str]] = []
    if teacher is not None:
        name = f"teacher, {teacher['architecture']}"
        rows.append(_trained_row(name, "labels", models["teacher"], teacher["accuracy"]))
    how = (
        "labels, from published weights" if teacher is None else "labels and its teacher's answers"
    )
    for one, way in ((plain, how), (robust, "TRADES, from the weights above")):
        accuracy = one["clean"]["accuracy"]
        name = f"{one['name']} {one['architecture']}"
        rows.append(_trained_row(name, way, models[one["model"]], accuracy))
    return table(["network", "learnt from", "epochs", "wall clock, s", "clean accuracy"], rows)


def _trained_row(name: str, way: str, model: Found, accuracy: float) -> list[str]:
    return [name, way, str(model["epochs"]), f"{model['seconds']:.0f}", share(accuracy)]


def _attacks(found: Found) -> str:
    head = ["network", "attack", "images", "clean", "under attack", "F1", "success", "distance"]
    rows: list[list[str]] = []
    for one in found["networks"]:
        for key in ("fgsm", "pgd", "cw", "strongest"):
            hit = one[key]
            distance = hit["median_distance"]
            rows.append(
                [
                    f"{one['name']}",
                    f"`{hit['spec']}`",
                    str(hit["rows"]),
                    share(hit["clean_accuracy"], 1),
                    share(hit["robust_accuracy"], 1),
                    f"{hit['f1']:.4f}",
                    share(hit["success_rate"], 1),
                    "-" if distance is None else f"{hit['norm']} {distance:.3g}",
                ]
            )
    return (
        table(head, rows)
        + "\nEvery row is read back from shards on disk. Success: of the images that were right "
        "before; distance: median of the successes. C&W has no limit: what it costs is the "
        "distance.\n"
    )


def _words(found: Found) -> str:
    plain, robust = found["networks"]
    before, after = plain["strongest"], robust["strongest"]
    cost = 100 * (robust["clean"]["accuracy"] - plain["clean"]["accuracy"])
    differ = sum(
        one[key]["predictions_differ"]
        for one in found["networks"]
        for key in ("fgsm", "pgd", "cw", "strongest")
    )
    chance = 1.5 / len(found["class_names"])
    ended = " It ended at chance: it withstands by answering nothing."
    return (
        f"Under `{before['spec']}`, the attack that decides, the undefended DeiT keeps "
        f"{share(before['robust_accuracy'], 1)} and the adversarially trained one, which the study "
        f"leaves as future work, {share(after['robust_accuracy'], 1)}, at {cost:+.1f} points of "
        f"clean accuracy.{ended if robust['clean']['accuracy'] < chance else ''} Predictions made "
        f"again from the files differ from those in them in {differ} rows.\n"
    )


def _confusion(found: Found, plain: Found) -> Any:
    document = {
        "attacks": [{**plain["fgsm"], "name": "fgsm"}],
        "clean": plain["clean"],
        "data": {"class_names": found["class_names"]},
    }
    return confusion_matrices(document)


def _curve(found: Found) -> Any:
    figure = new_figure(3.0)
    axes = figure.subplots()
    place = 0
    for one in found["networks"]:
        clean = one["strongest"]["clean_accuracy"]
        radii = [0.0, *(point["eps"] * 255 for point in one["curve"])]
        for key, style in (("fgsm", "--"), ("pgd", "-")):
            values = [100 * clean, *(100 * point[key] for point in one["curve"])]
            axes.plot(
                radii,
                values,
                marker=MARKERS[place % len(MARKERS)],
                ms=3.5,
                lw=1.2,
                ls=style,
                color=SERIES[place % len(SERIES)],
                label=f"{one['name']}, {'FGSM' if key == 'fgsm' else 'PGD-20'}",
            )
            place += 1
    axes.set(xlabel="eps, levels of 255", ylabel="accuracy in %", ylim=(-3, 103))
    axes.axhline(100 / len(found["class_names"]), color="#9aa5b1", ls=":", lw=1)
    figure.legend(fontsize=6.5, loc="outside upper center", ncols=2)
    return figure
