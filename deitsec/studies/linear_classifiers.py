"""Linear image classifiers, fooled: errors and confidences by radius, and the exact optimum."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deitsec.attacks import FGSM, PGD, LinearL2, LinearLinf
from deitsec.data import to_float
from deitsec.engine import Engine
from deitsec.models import Classifier
from deitsec.report.image_matrix import image_matrix
from deitsec.report.wording import grey_levels, points
from deitsec.studies.attacked_photographs import outcome
from deitsec.studies.picture import packed, unpacked
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table
from deitsec.studies.whole_mnist import is_whole_mnist
from deitsec.training import predict
from deitsec.training.modes import place_of

# Goodfellow et al., arXiv:1412.6572, section 4, on MNIST at eps 0.25: (error, confidence)
PUBLISHED_EPS = 0.25
PUBLISHED: Mapping[str, tuple[str, float, float]] = {
    "logistic_regression": ("shallow softmax", 0.999, 0.793),
    "other": ("maxout network", 0.894, 0.976),
}
_WHAT = ("error", "confidence")
_APART = 0.02
_TOGETHER = 500
# what is left where the data are the published ones
_LEFT: Mapping[str, str] = {
    "logistic_regression": "the rest of its training",
    "other": "the network (maxout there)",
}


def measure_linear(
    run: StudyRun[Any],
    linear: Classifier,
    other: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    trainings: Mapping[str, Mapping[str, Classifier]] | None = None,
) -> dict[str, Any]:
    """Attack a linear classifier, and beside it a network.

    Where the data are those of the published figures, all test images are attacked at their radius.

    Args:
        run: of a study.
        linear: logits affine in the image.
        other: any classifier of the same classes.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        eps: the usual radius of such data; halves of it and the paper's 0.25 are measured too.
        trainings: by model, networks of that kind by how they were trained, to see what their
            confidence depends on.
    """
    points: list[dict[str, Any]] = []
    test_error = {model.name: _test_error(run, model) for model in (linear, other)}
    for model in (linear, other):
        engine = Engine(model, seed=run.seed, stop="never")
        for size in sorted({eps / 4, eps / 2, eps, PUBLISHED_EPS}):
            result = engine.run(FGSM(eps=size), images, labels)
            points.append({"model": model.name, "eps": size, **outcome(result)})
    mnist = is_whole_mnist(run.data)
    asked = _every(run) if mnist else (images, labels)
    nearest: dict[str, float | None] = {}
    for attack in (LinearLinf(), LinearL2()):
        norm = attack.traits.norm
        result = Engine(linear, seed=run.seed).run(attack, images, labels)
        found = result.distance(norm)[result.success & result.clean_correct]
        nearest[norm] = found.double().median().item() if len(found) else None
    row = int((_logits(linear, images).argmax(1) == labels).int().argmax())
    return {
        "rows": len(labels),
        "eps": eps,
        "test_error": test_error,
        "test_rows": len(run.data.test),
        "points": points,
        "mnist": mnist,
        "published": [
            _at_radius(run, model, *asked) for model in ((linear, other) if mnist else ())
        ],
        "trainings": [
            {"model": name, "words": words, **_trained(run, network, *asked)}
            for name, networks in (trainings or {}).items()
            for words, network in networks.items()
        ],
        "nearest": nearest,
        "picture": _picture(run, linear, images[row], int(labels[row])),
    }


def _test_error(run: StudyRun[Any], model: Classifier) -> float:
    right = predict(model, run.data.test).argmax(1) == run.data.test.labels
    return 1 - right.double().mean().item()


def _every(run: StudyRun[Any]) -> tuple[Tensor, Tensor]:
    """All test images and their labels."""
    test = run.data.test
    return to_float(test.images(torch.arange(len(test)))), test.labels


def _at_radius(
    run: StudyRun[Any], model: Classifier, images: Tensor, labels: Tensor
) -> dict[str, Any]:
    """The published attack."""
    result = Engine(model, seed=run.seed, stop="never").run(
        FGSM(eps=PUBLISHED_EPS), images, labels, progress=run.rows(f"FGSM on {model.name}")
    )
    return {"model": model.name, "eps": PUBLISHED_EPS, **outcome(result)}


def _trained(
    run: StudyRun[Any], model: Classifier, images: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Errors, the confidence in wrong answers, and the gap of a clean image's largest logits."""
    found = _at_radius(run, model, images, labels)
    gap = _logits(model, images).double().topk(2).values
    return {
        "test_error": _test_error(run, model),
        "error": found["error"],
        "confidence": found["confidence"],
        "gap": (gap[:, 0] - gap[:, 1]).mean().item(),
    }


@torch.no_grad()
def _logits(model: Classifier, images: Tensor) -> Tensor:
    """(N, K) on the CPU, of images wherever the model is."""
    place = place_of(model)
    return torch.cat([model(part.to(place)).cpu() for part in images.split(_TOGETHER)])


def _picture(run: StudyRun[Any], linear: Classifier, image: Tensor, label: int) -> dict[str, Any]:
    """The weights of each class, and one image that is taken for each."""
    targets = [c for c in range(linear.num_classes) if c != label]
    many = image[None].expand(len(targets), -1, -1, -1)
    labels = torch.full((len(targets),), label)
    result = Engine(linear, seed=run.seed, stop="never").run(
        PGD(eps=PUBLISHED_EPS, steps=20), many, labels, torch.tensor(targets)
    )
    found = dict(zip(targets, zip(result.adv, result.logits, strict=True), strict=True))
    found[label] = (image, _logits(linear, image[None])[0])
    layer = next(module for module in linear.modules() if isinstance(module, nn.Linear))
    weights = layer.weight.detach().cpu().reshape(-1, *image.shape)
    weights = 0.5 + 0.5 * weights / weights.abs().amax()
    return {
        "label": label,
        "weights": [packed(weights[c]) for c in range(linear.num_classes)],
        "images": [packed(found[c][0]) for c in range(linear.num_classes)],
        "answers": [int(found[c][1].argmax()) for c in range(linear.num_classes)],
        "confidence": [
            found[c][1].double().softmax(0).amax().item() for c in range(linear.num_classes)
        ],
    }


def linear_section(found: Mapping[str, Any]) -> str:
    """Errors by radius beside the published ones, the optimum, and the figure `templates`."""
    nearest = found["nearest"]
    optimum = "No image could be brought over the border."
    if nearest["linf"] is not None and nearest["l2"] is not None:
        optimum = (
            "For the linear classifier the nearest adversarial image is known in closed form: half "
            f"of the images need no more than {grey_levels(nearest['linf'])} on every pixel, or an "
            f"L2 distance of {nearest['l2']:.3g}."
        )
    picture = found["picture"]
    taken = sum(place == answer for place, answer in enumerate(picture["answers"]))
    return "\n\n".join(
        [
            f"Attacked: {found['rows']} test images; *error, clean* is that of all "
            f"{found['test_rows']:,}.",
            _by_radius(found),
            _published(found),
            *([] if not found["trainings"] else [_by_training(found)]),
            optimum,
            f"One image, changed by at most {grey_levels(PUBLISHED_EPS)}, towards each class "
            f"({taken} of {len(picture['answers'])} are taken for it, the least sure of them at "
            f"{share(min(picture['confidence']), 2)}). A step of such a change is the sign of a "
            "difference of weights: those of the class aimed at, less those of the classes that "
            "the image is taken for.",
            "![weights, and an image taken for each class](figure:templates)",
        ]
    )


def _by_radius(found: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{point['model']}, eps {255 * point['eps']:.4g}/255",
            share(found["test_error"][point["model"]], 1),
            share(point["error"], 1),
            "-" if point["confidence"] is None else share(point["confidence"], 1),
        ]
        for point in found["points"]
    ]
    return table(("FGSM on", "error, clean", "error", "confidence when wrong"), rows)


def _kind(model: str) -> str:
    return model if model in PUBLISHED else "other"


def at_published(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Ours at the published radius: of all test images where those are the published ones."""
    some = [point for point in found["points"] if point["eps"] == PUBLISHED_EPS]
    return found.get("published") or some


def _published(found: Mapping[str, Any]) -> str:
    """Ours beside the published at its radius, which is of MNIST."""
    rows: list[list[str]] = []
    for point in at_published(found):
        name, *published = PUBLISHED[_kind(point["model"])]
        for what, theirs in zip(_WHAT, published, strict=True):
            value = point[what]
            rows.append(
                [
                    f"{what}: {point['model']}; {name}",
                    share(theirs, 1),
                    "-" if value is None else share(value, 1),
                    "-" if value is None else f"{100 * (value - theirs):+.1f}",
                ]
            )
    same = ", and ours too" if found.get("published") else ""
    return (
        f"Beside the figures of Goodfellow et al. at eps {PUBLISHED_EPS:g}, which are of the "
        f"10,000 test images of MNIST{same}:\n\n" + table(("", "published", "ours", "points"), rows)
    )


def _by_training(found: Mapping[str, Any]) -> str:
    """What training alone does to what is far from the published, and whether it reaches that."""
    rows = [
        [
            f"{one['model']}, {one['words']}",
            share(one["test_error"], 1),
            share(one["error"], 1),
            "-" if one["confidence"] is None else share(one["confidence"], 1),
            f"{one['gap']:.1f}",
        ]
        for one in found["trainings"]
    ]
    said = [
        _explained(found, point["model"], what, point[what], theirs)
        for point in at_published(found)
        for what, theirs in zip(_WHAT, PUBLISHED[_kind(point["model"])][1:], strict=True)
    ]
    many = ", on all test images" if found.get("published") else ""
    head = ("at eps 0.25", "error, clean", "error", "confidence when wrong", "mean gap of logits")
    return (
        f"The same networks trained for longer and for shorter{many}; the gap is that of the two "
        f"largest logits of clean images:\n\n{table(head, rows)}\n{' '.join(filter(None, said))}"
    )


def _explained(
    found: Mapping[str, Any], model: str, what: str, ours: float | None, theirs: float
) -> str:
    """Whether the length of training reaches a published figure that ours is far from."""
    own = [one for one in found["trainings"] if one["model"] == model]
    known = [one[what] for one in own if one[what] is not None]
    if ours is None or len(known) < 2:
        return ""
    if abs(ours - theirs) <= _APART:
        if what == "error":
            return ""
        return f"The confidence of {model} is within {points(_APART)} of the published."
    in_order = sorted(own, key=lambda one: one["gap"])
    grows = what == "confidence" and all(
        (a[what] or 0) <= (b[what] or 0) for a, b in pairwise(in_order)
    )
    if min(known) <= theirs <= max(known):
        verdict = "lies between, so that the length of training is enough to explain the difference"
    else:
        verdict = "lies outside, so that it does not explain the difference"
        verdict += (
            f". The data are the same; what else differs, {_LEFT[_kind(model)]} among it, was not "
            "varied"
            if found.get("mnist")
            else ". What else differs, the data among it, was not varied"
        )
    return (
        f"By the length of the training alone the {what} of {model} runs from "
        f"{share(min(known), 1)} to {share(max(known), 1)}"
        f"{', and grows with the gap of its logits' if grows else ''}; the published "
        f"{share(theirs, 1)} {verdict}."
    )


def linear_figure(found: Mapping[str, Any]) -> Any:
    """Weights of each class above the image that is taken for it."""
    picture = found["picture"]
    shown = [[unpacked(text) for text in picture[key]] for key in ("weights", "images")]
    wrong = [place != answer for place, answer in enumerate(picture["answers"])]
    return image_matrix(
        shown,
        rows=("weights", "image"),
        columns=[str(c) for c in range(len(picture["answers"]))],
        marked=np.array([[False] * len(wrong), wrong]),
    )
