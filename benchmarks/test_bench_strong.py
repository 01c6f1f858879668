"""JSMA, C&W, FAB and AutoAttack beside their peers; what the cheap evaluation costs and finds."""

import dataclasses
import functools
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.interleave import Interleaved, Side
from benchmarks.models import NETWORKS, QUICK, Network, Subject
from benchmarks.record import Record
from benchmarks.settings import Settings
from benchmarks.strong import (
    Contest,
    foolbox_attack,
    installed,
    measure,
    reference_autoattack,
    torchattack,
)
from benchmarks.strong_targets import reliable_targets, saliency_targets
from benchmarks.trained import STURDY
from deitsec import ops
from deitsec.attacks import create_attack
from deitsec.engine import Engine
from deitsec.engine.memory import PeakMemory
from deitsec.models import load_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IS_QUICK = Settings.found().quick
SEED = 0
MNIST_EPS = 0.3  # the radius of Madry et al. and of the leaderboards on MNIST
PHOTOGRAPH = 3 * 224 * 224
CW_SEARCHES, CW_STEPS = 9, 100
# pixels of MNIST lie at the border of the box, which the variable leaves at long steps only
CW_LR = 0.01 if IS_QUICK else 0.1
UNDEFENDED, DEFENDED = ("undefended", "adversarially trained")
# about half of the rows withstand there: where all fall or none does, agreement proves nothing
HALFWAY = {UNDEFENDED: 0.04, DEFENDED: 0.18, "adversarially trained at 0.2": 0.22}
CASES: dict[str, Network] = (
    {UNDEFENDED: QUICK, DEFENDED: QUICK}
    if IS_QUICK
    else {
        UNDEFENDED: NETWORKS["small_cnn 28"],
        DEFENDED: NETWORKS["small_cnn 28 adversarial"],
        "adversarially trained at 0.2": Network(
            name="small_cnn 28 sturdy", recipe=STURDY, eps=0.15, rows=(256, 1000)
        ),
    }
)


@functools.cache
def subject(name: str, rows: int) -> Subject:
    """A network with some of its images."""
    return CASES[name].subject(DEVICE, 8 if IS_QUICK else rows)


def saliency() -> Contest:
    """JSMA, 100 images, one target each."""
    given = subject(UNDEFENDED, 100)
    targets = (given.labels + 1) % 10
    peers: dict[str, Callable[[], Tensor]] = {}
    if installed("torchattacks"):
        peers["torchattacks"] = torchattack("JSMA", given, 100, theta=1.0, gamma=0.145)
    return Contest(
        name="JSMA, 28 pixels, one target",
        attack=create_attack("jsma", round_up=True, skip_saturated=True),  # as theirs
        subject=given,
        batch=100,
        targets=targets,
        peers=peers,
        norm="l0",
        backwards_a_forward=2,
        floor=True,
    )


def carlini_wagner() -> Contest:
    """C&W L2 with as many searches and steps as foolbox's."""
    given = subject(UNDEFENDED, 128)
    peers: dict[str, Callable[[], Tensor]] = {}
    if installed("foolbox"):
        library: Any = import_module("foolbox")
        theirs = library.attacks.L2CarliniWagnerAttack(
            binary_search_steps=CW_SEARCHES, steps=CW_STEPS, stepsize=CW_LR, initial_const=1.0
        )
        peers["foolbox"] = foolbox_attack(theirs, given, 128)
    return Contest(
        name=f"C&W L2, {CW_SEARCHES} searches of {CW_STEPS} steps",
        attack=create_attack(
            "cw", search_steps=CW_SEARCHES, steps=CW_STEPS, lr=CW_LR, initial_const=1.0
        ),
        subject=given,
        batch=128,
        peers=peers,
        norm="l2",
        floor=True,
    )


def autoattack(network: str, rows: int, eps: float | None = None) -> Contest:
    """The standard protocol beside the authors' code, and torchattacks with 10 steps of APGD."""
    given = subject(network, rows)
    given = dataclasses.replace(given, eps=eps or given.eps)
    options = {"norm": "Linf", "eps": given.eps, "version": "standard", "n_classes": 10}
    peers: dict[str, Callable[[], Tensor]] = {}
    if installed("torchattacks"):
        peers["torchattacks"] = torchattack("AutoAttack", given, rows, seed=SEED, **options)
    if installed("pyautoattack"):
        peers["pyautoattack"] = reference_autoattack(given, rows, SEED)
    return Contest(
        name=f"AutoAttack standard, {network}, eps {given.eps:g}",
        attack=create_attack("autoattack", eps=given.eps),
        subject=given,
        batch=rows,
        peers=peers,
        norm="linf",
        radius=given.eps,
    )


CONTESTS: dict[str, Callable[[], Contest]] = {
    "jsma": saliency,
    "cw": carlini_wagner,
    "autoattack-undefended": lambda: autoattack(UNDEFENDED, 256, MNIST_EPS),
    "autoattack-undefended-small-radius": lambda: autoattack(UNDEFENDED, 128),
    "autoattack-adversarially-trained": lambda: autoattack(DEFENDED, 32),
}


@pytest.mark.parametrize("name", CONTESTS)
def test_contest(name: str, record: Record, settings: Settings) -> None:
    """One attack, ours and theirs."""
    row = measure(CONTESTS[name](), settings.rounds)
    record.add(row)
    assert row["gate"]["passed"], f"no speed is reported: {row['gate']['faults']}"


@pytest.mark.parametrize("name", CASES, ids=lambda name: name.replace(" ", "-"))
def test_reliable(name: str, record: Record) -> None:
    """What the cheap evaluation finds, and its forward passes, beside the whole protocol."""
    given = subject(name, 64)
    given = dataclasses.replace(given, eps=given.eps if IS_QUICK else HALFWAY[name])
    found: dict[str, dict[str, Any]] = {}
    for attack in ("autoattack", "reliable"):
        engine = Engine(given.model, batch_size=len(given.labels))
        result = engine.run(create_attack(attack, eps=given.eps), given.images, given.labels)
        found[attack] = {
            "robust_accuracy": result.robust_accuracy,
            "forwards": int(result.queries.forward.sum()),
            "backwards": int(result.queries.backward.sum()),
            "seconds": result.seconds,
        }
    row = {
        "kind": "reliable",
        "case": name,
        "attack": "reliable",
        "device": given.images.device.type,
        "rows": len(given.labels),
        "eps": given.eps,
        "weights": given.weights,
        "sides": found,
    }
    record.add(row)
    short = [target.what for target in reliable_targets([row]) if not target.met]
    assert IS_QUICK or not short, short


def jsma_at(size: int) -> dict[str, Any]:
    """JSMA on one image of size x size x 3, and the memory that it takes beyond the model's."""
    torch.manual_seed(SEED)
    model = load_model("small_cnn", in_chans=3, image_size=size, num_classes=10).eval().to(DEVICE)
    images = torch.rand(1, 3, size, size, device=DEVICE)
    labels = model(images).argmax(1)
    attack = dataclasses.replace(create_attack("jsma"), gamma=1e-3)
    before = PeakMemory(images.device).bytes()
    result = Engine(model).run(attack, images, labels, (labels + 1) % 10)
    assert before > 0, "the system does not say how much memory is in use"
    return {
        "kind": "saliency memory",
        "case": f"JSMA, {size} x {size} x 3",
        "device": images.device.type,
        "extra_bytes": result.peak_memory - before,
        "seconds": result.seconds,
        "pairs": int(result.queries.backward.max()) // 2,
    }


def test_saliency_of_a_photograph(record: Record) -> None:
    """That JSMA runs at 224 x 224 x 3, and in how much memory."""
    # a process of its own: freed memory that an earlier run left behind would hide what it takes
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        row = process.submit(jsma_at, 16 if IS_QUICK else 224).result()
    record.add(row)
    assert all(target.met for target in saliency_targets([row]))


def gradients_at_random(size: int) -> tuple[Tensor, Tensor]:
    """As of any network: few pairs come near the best."""
    return torch.randn(1, size), torch.randn(1, size)


def gradients_on_a_front(size: int) -> tuple[Tensor, Tensor]:
    """Of which none beats another in both ways: the front is all there is."""
    angle = torch.rand(1, size) * math.pi / 2
    return angle.cos(), -angle.sin()


def gradients_in_a_cloud(size: int) -> tuple[Tensor, Tensor]:
    """A front with noise, so that no order of the features is one of the pairs."""
    alpha, beta = gradients_on_a_front(size)
    return alpha + 0.01 * torch.randn(1, size), beta + 0.01 * torch.randn(1, size)


GRADIENTS = (gradients_at_random, gradients_on_a_front, gradients_in_a_cloud)


@pytest.mark.parametrize("gradients", GRADIENTS, ids=lambda made: made.__name__)
def test_saliency_pair(
    gradients: Callable[[int], tuple[Tensor, Tensor]], record: Record, settings: Settings
) -> None:
    """The best of eleven thousand million pairs."""
    torch.manual_seed(SEED)
    size = 1000 if IS_QUICK else PHOTOGRAPH
    alpha, beta = (part.to(DEVICE) for part in gradients(size))
    allowed = torch.ones_like(alpha, dtype=torch.bool)
    timing = Interleaved({"ours": Side(run=lambda: ops.saliency_pair(alpha, beta, allowed))})
    for _ in range(settings.rounds):
        timing.round()
    row = {
        "kind": "saliency pair",
        "case": f"{size:,} features, {gradients.__name__.replace('_', ' ')}",
        "device": alpha.device.type,
        "seconds": timing.medians()["ours"],
        "times": timing.times,
    }
    record.add(row)
