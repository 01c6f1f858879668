"""What the MNIST study shows of a network: its answers, FGSM, and images crafted from noise."""

import math
from typing import Any

import torch
from torch import Tensor

from deitsec.attacks import FGSM
from deitsec.attacks.fooling import Fooling
from deitsec.data import ImageSet, to_float
from deitsec.engine import AttackResult, Engine
from deitsec.engine.fooling import fooling_images
from deitsec.models import Classifier
from deitsec.studies.mnist_adversarial_options import Options
from deitsec.studies.pictures import packed
from deitsec.studies.study import StudyRun
from deitsec.training import predict
from deitsec.verification.protocol import choose_rows

Piece = dict[str, Any]

SURE = 0.99
"""Softmax of the goal that counts as crafted from noise."""
_SHOWN = 10
_EXAMPLES = 3


def answers(network: Classifier, test: ImageSet) -> Piece:
    """Accuracy on all test images, and pictures: one right of each class, and wrong ones."""
    logits, labels = predict(network, test), test.labels
    right = logits.argmax(1) == labels
    first = [rows[0] for k in range(logits.shape[1]) if len(rows := _where(right & (labels == k)))]
    return {
        "rows": len(labels),
        "accuracy": _mean(right),
        "right": _predictions(test, torch.tensor(first[:_SHOWN], dtype=torch.int64), logits),
        "wrong": _predictions(test, torch.tensor(_where(~right)[:_SHOWN]).long(), logits),
    }


def fast_gradient_sign(run: StudyRun[Options], network: Classifier) -> Piece:
    """Accuracy by radius, and pictures of one radius."""
    rows = choose_rows(run.data, run.options.per_class)
    images, labels = _images(run, rows)
    engine = Engine(network, seed=run.seed)
    points: list[Piece] = []
    told = run.rows("fgsm")
    for done, eps in enumerate(run.options.radii, start=1):
        found = engine.run(FGSM(eps=eps), images, labels, sample_ids=rows)
        wrong = found.clean_correct & (found.logits.argmax(1) != found.labels)
        sure = found.logits.softmax(1).amax(1)[wrong]
        confidence = sure.double().mean().item() if len(sure) else None
        answered = found.logits.argmax(1).bincount(minlength=run.data.num_classes)
        points.append(
            {
                "eps": eps,
                "accuracy": found.robust_accuracy,
                "wrong_confidence": confidence,
                "commonest": int(answered.argmax()),
                "commonest_share": int(answered.max()) / len(rows),
            }
        )
        told(done * len(rows), len(run.options.radii) * len(rows))
    attack = FGSM(eps=run.options.shown_eps)
    shown = Engine(network, seed=run.seed, quantize=True).run(
        attack, images, labels, sample_ids=rows
    )
    clean = _mean(shown.clean_correct)
    return {"rows": len(rows), "clean": clean, "points": points, "examples": _examples(shown)}


def from_noise(run: StudyRun[Options], network: Classifier) -> Piece:
    """Images for every class from noise, all steps taken; and by plain gradient descent."""
    found: Piece = {}
    for name, gap in (("sharpened", Fooling().gap), ("literal", math.inf)):
        result = fooling_images(
            network,
            per_class=run.options.noises,
            image_shape=run.data.test.shape,
            attack=Fooling(steps=run.options.crafting_steps, confidence=SURE, gap=gap),
            seed=run.seed,
            stop="never",
            quantize=True,
            progress=run.rows(f"noise, {name}"),
        )
        assert result.targets is not None
        firsts = result.steps[result.success].double()
        found[name] = {
            "rows": len(result.adv),
            "reached": _mean(result.success),
            "confidence": _confidence(result).double().mean().item(),
            "median_first_step": firsts.median().item() if len(firsts) else None,
            "distance": result.distance("l2").double().mean().item(),
        }
        if name == "sharpened":
            shown = slice(None, None, run.options.noises)
            found["starts"] = packed(result.clean[shown])
            found["images"] = packed(result.adv[shown])
            found["shown_reached"] = result.success[shown].tolist()
            found["shown_confidence"] = _confidence(result)[shown].tolist()
    return found


def _images(run: StudyRun[Options], rows: Tensor) -> tuple[Tensor, Tensor]:
    test = run.data.test
    return to_float(test.images(rows)).to(run.device), test.labels[rows].to(run.device)


def _predictions(test: ImageSet, rows: Tensor, logits: Tensor) -> Piece:
    sure = logits[rows].softmax(1).max(1)
    return {
        "row": rows.tolist(),
        "label": test.labels[rows].tolist(),
        "predicted": sure.indices.tolist(),
        "confidence": sure.values.tolist(),
        "pictures": packed(test.images(rows)) if len(rows) else None,
    }


def _examples(result: AttackResult) -> Piece:
    """Images that fell, of a class each."""
    fell = result.clean_correct & (result.logits.argmax(1) != result.labels)
    firsts = dict[int, int]()
    for row in _where(fell.cpu()):
        firsts.setdefault(int(result.labels[row]), row)
    rows = torch.tensor(list(firsts.values())[:_EXAMPLES], dtype=torch.int64)
    rows = rows.to(result.adv.device)
    before = result.clean_logits[rows].float().softmax(1).max(1)
    after = result.logits[rows].float().softmax(1).max(1)
    return {
        "row": result.sample_ids[rows].tolist(),
        "label": result.labels[rows].tolist(),
        "clean": packed(result.clean[rows]) if len(rows) else None,
        "adversarial": packed(result.adv[rows]) if len(rows) else None,
        "clean_prediction": before.indices.tolist(),
        "clean_confidence": before.values.tolist(),
        "adversarial_prediction": after.indices.tolist(),
        "adversarial_confidence": after.values.tolist(),
    }


def _confidence(result: AttackResult) -> Tensor:
    """(B,) softmax of each row's target."""
    assert result.targets is not None
    return result.logits.float().softmax(1).gather(1, result.targets[:, None])[:, 0]


def _where(rows: Tensor) -> list[int]:
    return rows.nonzero()[:, 0].tolist()


def _mean(rows: Tensor) -> float:
    return rows.to(torch.float64).mean().item()
