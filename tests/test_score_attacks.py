"""SPSA and NES against their algorithms written plainly."""

import pytest
import torch
from models_for_tests import images_and_labels, mlp, problem
from torch import nn

from deitsec.attacks import create_attack
from deitsec.attacks.draws import normal, signs
from deitsec.engine import Engine, run


def _margin(model, x, labels):
    logits = model(x)
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return other - logits.gather(1, labels[:, None])[:, 0]


def _seen(attack, model, images, labels, targets=None):
    """The iterates that are asked about after each step."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return model(x)

    Engine(Spy(), stop="never", batch_size=len(images)).run(attack, images, labels, targets)
    return seen


@pytest.mark.parametrize("targeted", [False, True])
def test_spsa_is_its_algorithm(targeted):
    model = mlp()
    images, labels = images_and_labels(model, rows=6)
    targets = (labels + 1) % 5 if targeted else None
    aim, sign = (targets, -1) if targeted else (labels, 1)
    attack = create_attack("spsa", eps=0.06, steps=3, samples=4, delta=0.02, lr=0.03)
    seen = _seen(attack, model, images, labels, targets)
    p, x = problem(images, labels), images.clone()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    with torch.no_grad():
        for t in range(1, 4):
            estimate = torch.zeros_like(x)
            for k in range(4):
                clock = torch.full((6,), 4 * (t - 1) + k)
                v = signs(p, x, 2, clock)
                above, below = (x + 0.02 * v).clamp(0, 1), (x - 0.02 * v).clamp(0, 1)
                change = _margin(model, above, aim) - _margin(model, below, aim)
                estimate += sign * change[:, None, None, None] / (above - below) / 4
            first = 0.9 * first + 0.1 * estimate
            second = 0.999 * second + 0.001 * estimate**2
            step = first / (1 - 0.9**t) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
            x = (x + 0.03 * step).clamp(images - 0.06, images + 0.06).clamp(0, 1)
            nearest = min((s - x).abs().max().item() for s in seen if s.shape == x.shape)
            assert nearest < 1e-8  # Adam divides small estimates by themselves


def test_nes_is_its_algorithm():
    model = mlp()
    images, labels = images_and_labels(model, rows=6)
    attack = create_attack("nes", eps=0.06, steps=3, samples=5, delta=0.01, alpha=0.03)
    seen = _seen(attack, model, images, labels)
    p, x = problem(images, labels), images.clone()
    with torch.no_grad():
        for t in range(3):
            estimate = torch.zeros_like(x)
            for k in range(5):
                v = normal(p, x, 2, torch.full((6,), 5 * t + k))
                high, low = (
                    nn.functional.cross_entropy(
                        model((x + s * 0.01 * v).clamp(0, 1)), labels, reduction="none"
                    )
                    for s in (1, -1)
                )
                estimate += (high - low)[:, None, None, None] * v
            x = (x + 0.03 * estimate.sign()).clamp(images - 0.06, images + 0.06).clamp(0, 1)
            assert min((s - x).abs().max().item() for s in seen if s.shape == x.shape) < 1e-10


@pytest.mark.parametrize("name", ["spsa", "nes"])
def test_the_estimate_costs_what_it_says_and_no_gradient(name):
    model = mlp()
    images, labels = images_and_labels(model, rows=4)
    attack = create_attack(name, eps=1 / 255, steps=3, samples=7)
    result = Engine(model, stop="never").run(attack, images, labels)
    # pairs, the iterate, the clean image and the last iterate
    assert (result.queries.forward == 3 * (2 * 7 + 1) + 2).all()
    assert (result.queries.backward == 0).all()


@pytest.mark.parametrize("name", ["spsa", "nes"])
def test_probes_outside_of_the_ball_are_no_candidates(name):
    model = mlp()
    images, labels = images_and_labels(model)
    attack = create_attack(name, eps=0.01, steps=4, samples=8, delta=0.3)
    result = run(attack, model, images, labels)
    assert (result.distance("linf") <= 0.01 + 1e-9).all()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("spsa", {"samples": 0}, "spsa: samples must be at least 1, got 0"),
        ("spsa", {"delta": 0.0}, "spsa: delta must be in"),
        ("spsa", {"lr": -1.0}, "spsa: lr must be > 0"),
        ("nes", {"alpha": 0.0}, "nes: alpha must be in"),
        ("nes", {"eps": 2.0}, "nes: eps must be in"),
    ],
)
def test_bad_options_say_what_is_wrong(name, options, words):
    with pytest.raises(ValueError, match=words):
        create_attack(name, **options)
