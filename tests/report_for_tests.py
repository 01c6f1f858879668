"""A made-up report whose figures agree with each other, and examples for its picture grid."""

from dataclasses import asdict

import numpy as np
import torch

from deitsec.metrics import classification_metrics, distance_summary, per_class_vulnerability
from deitsec.report import SCHEMA, Example, judge, sanity_checks


def _predict(rng, labels, num_classes, accuracy):
    wrong = (labels + rng.integers(1, num_classes, len(labels))) % num_classes
    return torch.from_numpy(np.where(rng.random(len(labels)) < accuracy, labels, wrong))


def _attack(rng, name, labels, clean, num_classes, accuracy, *, norm="linf", eps=8 / 255):
    true = torch.from_numpy(labels)
    adv = _predict(rng, labels, num_classes, accuracy)
    metrics = asdict(classification_metrics(adv, true, num_classes, torch.rand(len(labels))))
    right = clean == true
    robust = right & (adv == true)
    rows = len(labels)
    distances = {key: distance_summary(torch.rand(rows)) for key in ("linf", "l2", "l1", "l0")}
    return adv, metrics | {
        "name": name,
        "spec": f"{name}:eps=8/255",
        "norm": norm,
        "eps": eps,
        "goal": "untargeted",
        "robust_accuracy": float(robust.double().mean()),
        "success_rate": float(1 - robust.sum() / right.sum()),
        "distances": distances,
        "queries": {"forward": 21 * rows, "backward": 20 * rows},
        "non_finite": 0,
        "zero_gradients": 0,
        "seconds": 3.25,
        "images_per_second": rows / 3.25,
        "lost_in_rounding": 0.0,
        "disagreement": None,
        "command": f"deitsec attack --attack {name}:eps=8/255",
    }


def build_document(num_classes=10, *, rows=300, names=None, accuracy=0.05):
    """A made-up run whose figures agree with each other: fgsm, pgd and an unlimited cw."""
    rng = np.random.default_rng(0)
    names = list(names or (f"class {k}" for k in range(num_classes)))
    labels = np.arange(rows) % num_classes
    true = torch.from_numpy(labels)
    predicted = _predict(rng, labels, num_classes, 0.94)
    clean = asdict(classification_metrics(predicted, true, num_classes, torch.rand(rows)))
    given = (
        ("fgsm", accuracy + 0.1, {}),
        ("pgd", accuracy, {}),
        ("cw", accuracy / 2, {"norm": "l2", "eps": None}),
    )
    made = [_attack(rng, n, labels, predicted, num_classes, a, **more) for n, a, more in given]
    attacks = [attack for _, attack in made]
    robust = predicted == true
    for adv, _ in made:
        robust &= adv == true
    worst_case = {
        "robust_accuracy": float(robust.double().mean()),
        "attacks": [attack["name"] for attack in attacks],
    }
    falling = [(1, 0.6), (2, 0.4), (4, 0.2), (8, 0.05), (16, 0.0)]
    points = [
        {"eps": e / 255, "accuracy": a, "robust_accuracy": a, "success_rate": 1 - a}
        for e, a in falling
    ]
    sweeps = [{"attack": "pgd", "points": points}]
    data = {
        "uri": "digits",
        "name": "digits",
        "sha256": "ab" * 32,
        "split": "test",
        "rows": rows,
        "per_class": rows // num_classes,
        "image_shape": [1, 8, 8],
        "class_names": names,
    }
    checks = sanity_checks(clean=clean, attacks=attacks, sweeps=sweeps)
    gate = {
        "min_robust_accuracy": 0.4,
        "robust_accuracy": worst_case["robust_accuracy"],
        "passed": worst_case["robust_accuracy"] >= 0.4,
    }
    software = dict.fromkeys(("deitsec", "python", "torch", "timm", "numpy"), "1.2.3")
    return {
        "schema": SCHEMA,
        "created": "2026-01-02T03:04:05Z",
        "command": "deitsec verify --data digits",
        "seed": 0,
        "environment": software
        | {"triton": None, "platform": "Linux", "cpu": "x86", "threads": 2, "device": "cpu"},
        "engine": {
            "precision": "bf16",
            "compile": False,
            "decisions": {
                "precision": "bf16 (a copy of the weights)",
                "batch_size": "64: as asked",
            },
        },
        "model": {
            "name": "deit_micro",
            "sha256": "cd" * 32,
            "parameters": 123_456,
            "num_classes": num_classes,
            "head": None,
            "input_size": [8, 8],
            "mean": [0.5],
            "std": [0.25],
            "origin": "trained",
            "training": {"epochs": 5},
        },
        "data": data,
        "clean": clean,
        "attacks": attacks,
        "worst_case": worst_case,
        "sweeps": sweeps,
        "per_class": per_class_vulnerability(true, predicted, made[1][0], names),
        "checks": checks,
        "verdict": judge(
            clean=clean,
            attacks=attacks,
            worst_case=worst_case,
            data=data,
            checks=checks,
            gate=gate,
        ),
        "gate": gate,
        "seconds": 12.5,
    }


def build_examples(count=2, shape=(8, 8, 1), num_classes=10, maps=0):
    rng = np.random.default_rng(1)
    clean = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    moved = np.clip(clean.astype(int) + rng.choice([-8, 8], clean.shape), 0, 255).astype(np.uint8)
    looks = rng.integers(0, 256, (count, maps, 2, *shape[:2]), dtype=np.uint8)
    return [
        Example(
            row=row,
            label=row % num_classes,
            clean=clean[row],
            adversarial=moved[row],
            clean_prediction=row % num_classes,
            clean_confidence=0.9,
            adversarial_prediction=(row + 1) % num_classes,
            adversarial_confidence=0.8,
            attack="pgd",
            looks=looks[row],
        )
        for row in range(count)
    ]
