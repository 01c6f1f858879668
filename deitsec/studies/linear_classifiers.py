"""Linear image classifiers, fooled: errors and confidences by radius, and the exact optimum."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deitsec.attacks import FGSM, PGD, LinearL2, LinearLinf
from deitsec.engine import Engine
from deitsec.models import Classifier
from deitsec.report.image_matrix import image_matrix
from deitsec.report.wording import grey_levels
from deitsec.studies.attacked_photographs import outcome
from deitsec.studies.picture import packed, unpacked
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table

# Goodfellow et al., arXiv:1412.6572, section 4, on MNIST at eps 0.25: (error, confidence)
PUBLISHED_EPS = 0.25
PUBLISHED: Mapping[str, tuple[str, float, float]] = {
    "logistic_regression": ("shallow softmax", 0.999, 0.793),
    "other": ("maxout network", 0.894, 0.976),
}


def measure_linear(
    run: StudyRun[Any],
    linear: Classifier,
    other: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
) -> dict[str, Any]:
    """Attack a linear classifier, and beside it a network.

    Args:
        run: of a study.
        linear: logits affine in the image.
        other: any classifier of the same classes.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        eps: the usual radius of such data; halves of it and the paper's 0.25 are measured too.
    """
    points: list[dict[str, Any]] = []
    for model in (linear, other):
        engine = Engine(model, seed=run.seed, stop="never")
        for size in sorted({eps / 4, eps / 2, eps, PUBLISHED_EPS}):
            result = engine.run(FGSM(eps=size), images, labels)
            points.append({"model": model.name, "eps": size, **outcome(result)})
    nearest: dict[str, float | None] = {}
    for attack in (LinearLinf(), LinearL2()):
        norm = attack.traits.norm
        result = Engine(linear, seed=run.seed).run(attack, images, labels)
        found = result.distance(norm)[result.success & result.clean_correct]
        nearest[norm] = found.double().median().item() if len(found) else None
    row = int((linear(images).argmax(1) == labels).int().argmax())
    return {
        "rows": len(labels),
        "eps": eps,
        "points": points,
        "nearest": nearest,
        "picture": _picture(run, linear, images[row], int(labels[row])),
    }


def _picture(run: StudyRun[Any], linear: Classifier, image: Tensor, label: int) -> dict[str, Any]:
    """The weights of each class, and one image that is taken for each."""
    targets = [c for c in range(linear.num_classes) if c != label]
    many = image[None].expand(len(targets), -1, -1, -1)
    labels = torch.full((len(targets),), label)
    result = Engine(linear, seed=run.seed, stop="never").run(
        PGD(eps=PUBLISHED_EPS, steps=20), many, labels, torch.tensor(targets)
    )
    found = dict(zip(targets, zip(result.adv, result.logits, strict=True), strict=True))
    found[label] = (image, linear(image[None])[0].detach())
    layer = next(module for module in linear.modules() if isinstance(module, nn.Linear))
    weights = layer.weight.detach().reshape(-1, *image.shape)
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
    rows: list[list[str]] = []
    for point in found["points"]:
        kind = "logistic_regression" if point["model"] == "logistic_regression" else "other"
        same = point["eps"] == PUBLISHED_EPS
        name, error, confidence = PUBLISHED[kind]
        rows.append(
            [
                f"{point['model']}, eps {255 * point['eps']:.4g}/255",
                share(point["clean_error"], 1),
                share(point["error"], 1),
                "-" if point["confidence"] is None else share(point["confidence"], 1),
                f"{share(error, 1)} at {share(confidence, 1)} ({name}, MNIST)" if same else "-",
            ]
        )
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
    head = ("FGSM on", "error, clean", "error", "confidence when wrong", "published")
    return "\n\n".join(
        [
            table(head, rows),
            "The published figures are of the 10,000 test images of MNIST. Confidence hangs on how "
            "long the weights are, so on epochs and weight decay, and on how many values an image "
            "has: a step moves the score by eps times the sum of all magnitudes.",
            optimum,
            f"One image, changed by at most {grey_levels(PUBLISHED_EPS)}, towards each class "
            f"({taken} of {len(picture['answers'])} are taken for it, the least sure of them at "
            f"{share(min(picture['confidence']), 2)}): the change is the class's weights.",
            "![weights, and an image taken for each class](figure:templates)",
        ]
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
