"""The deterministic attacks against a float64 recursion, and against peers.

`golden/digits.npz` holds a small network and what torchattacks, foolbox and ART make of it, so that
their images are a test where they are not installed. `golden/make.py` makes it.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.network import digits, network
from golden.peers import ALPHA, EPS, STEPS, peers
from torch import Tensor, nn
from torch.nn import functional

from deitsec.attacks import create_attack
from deitsec.engine import Engine

FILE = Path(__file__).parent / "golden" / "digits.npz"
DETERMINISTIC = {
    "fgsm": {},
    "bim": {"alpha": ALPHA, "steps": STEPS},
    "illc": {"alpha": ALPHA, "steps": STEPS},
    "mifgsm": {"alpha": ALPHA, "steps": STEPS},
}
# of a row's largest: what an fp32 forward and backward pass may be off by
ROUNDING = 2e-6


class Watched(nn.Module):
    """Remembers the images that it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[Tensor] = []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return self.model(images)


def _trained(sharpness: float) -> nn.Module:
    """The network of the file; a sharper one is as accurate, and surer."""
    stored = np.load(FILE)
    model = network()
    prefix = "weight/"
    model.load_state_dict(
        {k.removeprefix(prefix): torch.from_numpy(stored[k]) for k in stored if prefix in k}
    )
    with torch.no_grad():
        model[-1].weight.mul_(sharpness)
        model[-1].bias.mul_(sharpness)
    return model.eval()


def _trajectory(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Every iterate of our attack, the clean images first."""
    attack = create_attack(name, eps=EPS, **DETERMINISTIC[name])
    watched = Watched(model)
    engine = Engine(watched, batch_size=len(images), compaction=False, deterministic=True)
    engine.run(attack, images, labels)
    return watched.seen[-1 - sum(times for _, times in attack.plan()) :]


def _slopes(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient of cross-entropy, all of it in one dtype, with the same weights."""
    wide = network().to(dtype)
    wide.load_state_dict(model.state_dict())
    leaf = x.to(dtype).requires_grad_()
    logits = wide.eval()(leaf)
    if dtype == torch.float64:
        # softmax - onehot cancels in float64 too, where the model is sure by 37 and more
        away = (logits - logits.gather(1, y[:, None])).exp()
        loss = away.scatter(1, y[:, None], 0.0).sum(1).log1p().sum()
    else:
        loss = functional.cross_entropy(logits, y, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


@dataclass
class Reference:
    """A recursion: its last image, and where it may go either way.

    Attributes:
        x: (B, C, H, W).
        doubtful: (B,) some value that a sign was taken of was within rounding of zero.
        signs: what the signs were taken of, step by step.
    """

    x: Tensor
    doubtful: Tensor
    signs: list[Tensor]


def _reference(name: str, model: nn.Module, images: Tensor, labels: Tensor, dtype) -> Reference:
    """The recursions of the papers, written plainly."""
    with torch.no_grad():
        y = model(images).argmin(1) if name == "illc" else labels
    way = -1.0 if name == "illc" else 1.0
    alpha, steps = (EPS, 1) if name == "fgsm" else (ALPHA, STEPS)
    clean = images.to(dtype)
    x, momentum = clean.clone(), torch.zeros_like(clean)
    doubtful, signs = torch.zeros(len(x), dtype=torch.bool), []
    for _ in range(steps):
        ascent = way * _slopes(model, x, y, dtype)
        if name == "mifgsm":
            momentum = momentum + ascent / ascent.abs().sum((1, 2, 3), keepdim=True)
            ascent = momentum
        doubtful |= _near_zero(ascent).flatten(1).any(1)
        signs.append(ascent.sign())
        x = (x + alpha * ascent.sign()).clamp(clean - EPS, clean + EPS).clamp(0, 1)
    return Reference(x, doubtful, signs)


def _near_zero(values: Tensor) -> Tensor:
    size = values.abs()
    return (size <= ROUNDING * size.amax((1, 2, 3), keepdim=True)) & (size > 0)


@pytest.fixture(scope="module")
def rows():
    images, labels = digits()
    return images[1000:1200], labels[1000:1200]


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_step_is_that_of_a_float64_gradient(name, sharpness, rows):
    """From each of our own iterates: all pixels but those whose float64 value is about zero."""
    images, labels = rows
    model = _trained(sharpness)
    path = _trajectory(name, model, images, labels)
    with torch.no_grad():
        y = model(images).argmin(1) if name == "illc" else labels
    way = -1.0 if name == "illc" else 1.0
    alpha = EPS if name == "fgsm" else ALPHA
    momentum, off, unsure = 0.0, 0, 0
    assert torch.equal(path[0], images)
    for x, following in itertools.pairwise(path):
        ascent = way * _slopes(model, x, y, torch.float64)
        if name == "mifgsm":
            momentum = momentum + ascent / ascent.abs().sum((1, 2, 3), keepdim=True)
            ascent = momentum
        clean = images.double()
        expected = x.double() + alpha * ascent.sign()
        expected = expected.clamp(clean - EPS, clean + EPS).clamp(0, 1)
        wrong = (following.double() - expected).abs() > 1e-6
        doubtful = _near_zero(ascent)
        assert not (wrong & ~doubtful).any()
        off, unsure = off + int(wrong.sum()), unsure + int(doubtful.sum())
    pixels = images.numel() * (len(path) - 1)
    assert off <= unsure <= 2e-4 * pixels
    assert off <= 5e-5 * pixels


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_last_image_is_that_of_a_float64_trajectory(name, sharpness, rows):
    images, labels = rows
    model = _trained(sharpness)
    ours = _trajectory(name, model, images, labels)[-1].double()
    reference = _reference(name, model, images, labels, torch.float64)
    equal = (ours - reference.x).abs().flatten(1).amax(1) <= 1e-6
    assert equal[~reference.doubtful].all()
    assert reference.doubtful.float().mean() <= 0.08


def _agreeing(name, model, images, labels) -> Tensor:
    """(B,) rows whose plain fp32 loss takes every step that a float64 one takes."""
    exact = _reference(name, model, images, labels, torch.float64)
    plain = _reference(name, model, images, labels, torch.float32)
    alike = torch.stack(
        [(a == b).flatten(1).all(1) for a, b in zip(exact.signs, plain.signs, strict=True)]
    ).all(0)
    return alike & ~exact.doubtful


@pytest.mark.parametrize(("library", "name"), list(peers()))
def test_stored_images_of_peers_are_ours(library, name):
    stored = np.load(FILE)
    images, labels = (torch.from_numpy(stored[key]) for key in ("images", "labels"))
    theirs = torch.from_numpy(stored[f"adv/{library}/{name}"])
    model = _trained(1.0)
    ours = _trajectory(name, model, images, labels)[-1]
    agreeing = _agreeing(name, model, images, labels)
    assert agreeing.float().mean() >= 0.5
    assert (ours - theirs)[agreeing].abs().max() <= 1e-6


@pytest.mark.parametrize(("library", "name"), list(peers()))
def test_images_of_peers_are_ours_wherever_fp32_is_right(library, name, rows):
    pytest.importorskip(library)
    images, labels = rows
    model = _trained(1.0)
    theirs = torch.from_numpy(peers()[library, name](model, images, labels))
    ours = _trajectory(name, model, images, labels)[-1]
    agreeing = _agreeing(name, model, images, labels)
    assert agreeing.float().mean() >= 0.5
    assert (ours - theirs)[agreeing].abs().max() <= 1e-6


def test_plain_fp32_loss_goes_astray_where_the_model_is_sure(rows):
    """Why the peers are no reference there: softmax - onehot cancels."""
    images, labels = rows
    model = _trained(3.0)
    exact = _reference("fgsm", model, images, labels, torch.float64)
    plain = _reference("fgsm", model, images, labels, torch.float32)
    ours = _trajectory("fgsm", model, images, labels)[-1].double()
    sure = ~exact.doubtful
    wrong = ((plain.x - exact.x).abs() > 1e-6)[sure]
    assert wrong.float().mean() > 0.01
    assert ((ours - exact.x).abs()[sure] <= 1e-6).all()
