"""DeepFool against its algorithm written plainly, a closed-form optimum, and foolbox."""

import math

import pytest
import torch
from models_for_tests import Linear, conv, images_and_labels, mlp
from torch import nn

from deitsec.attacks import create_attack
from deitsec.attacks.deepfool import DeepFool, DeepFoolLinf
from deitsec.engine import Engine, run

NORMS = {"deepfool": "l2", "deepfool_linf": "linf"}
NAMES = list(NORMS)


def plain_deepfool(model, image, label, norm, *, candidates=10, steps=50, overshoot=0.02):
    """Algorithm 2 for one image, with the authors' 1e-4, in the box."""
    logits = model(image[None])[0]
    classes = [k for k in logits.argsort(descending=True).tolist() if k != label]
    classes = classes[: candidates - 1]
    total, x = torch.zeros_like(image), image
    for _ in range(steps):
        leaf = x.clone().requires_grad_()
        logits = model(leaf[None])[0]
        if int(logits.argmax()) != label:
            break
        best = math.inf
        for k in classes:
            value = logits[k] - logits[label]
            (slope,) = torch.autograd.grad(value, leaf, retain_graph=True)
            size = slope.abs().sum() if norm == "linf" else slope.norm()
            distance = float((value.abs() / size).detach())
            if distance < best:
                best = distance
                unit = slope.sign() if norm == "linf" else slope / size
        total = total + (best + 1e-4) * unit
        x = (image + (1 + overshoot) * total).clamp(0, 1)
    return x


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("candidates", [2, 3, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_algorithm_row_by_row(name, candidates, seed):
    model = mlp(seed=seed)
    images, labels = images_and_labels(model, rows=12)
    attack = create_attack(name, candidates=candidates)
    result = run(attack, model, images, labels)
    for row in range(len(images)):
        expected = plain_deepfool(
            model, images[row], labels[row], NORMS[name], candidates=candidates
        )
        fell = model(expected[None]).argmax() != labels[row]
        assert result.success[row] == fell
        if fell:
            torch.testing.assert_close(result.adv[row], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_linear_model_falls_within_the_overshoot(name, classes):
    generator = torch.Generator().manual_seed(0)
    images = 0.4 + 0.2 * torch.rand(64, 1, 6, 6, dtype=torch.float64, generator=generator)
    if classes == 2:
        weight = torch.randn(1, 6, 6, dtype=torch.float64, generator=generator)
        model = Linear(weight, bias=-float((weight * 0.5).sum()))
        slopes = torch.stack([weight.flatten() / 2, -weight.flatten() / 2])
    else:
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, classes)).double()
        slopes = model[1].weight.detach()
    labels = model(images).argmax(1)
    logits = model(images).detach()
    gaps = logits.gather(1, labels[:, None]) - logits
    dual = 1 if name == "deepfool_linf" else 2
    sizes = torch.linalg.vector_norm(slopes[labels][:, None] - slopes, dual, dim=2)
    distances = (gaps / sizes).nan_to_num(math.inf)
    optimum = distances.scatter(1, labels[:, None], math.inf).amin(1)
    result = run(create_attack(name), model, images, labels)
    distance = result.distance(NORMS[name])
    assert result.success.all()
    assert (distance >= optimum * (1 - 1e-9)).all()
    assert (distance <= 1.02 * (optimum + 1.0001e-4) * (1 + 1e-6)).all()
    far = optimum > 0.011  # so that the authors' 1e-4 is small beside it
    assert far.any()
    assert (distance / optimum)[far].max() <= 1.03


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_fell_leaves(name):
    model = mlp()
    images, labels = images_and_labels(model)
    result = Engine(model).run(create_attack(name, steps=200), images, labels)
    assert result.success.all()
    assert (result.queries.forward < 50).all()


@pytest.mark.parametrize("name", NAMES)
def test_eps_decides_what_counts(name):
    model = mlp()
    images, labels = images_and_labels(model)
    free = run(create_attack(name), model, images, labels).distance(NORMS[name])
    eps = float(free.median())
    bound = run(create_attack(name, eps=eps), model, images, labels)
    assert torch.equal(bound.success, free <= eps)


@pytest.mark.parametrize("name", NAMES)
def test_classes_without_a_gradient_are_passed_over(name):
    class OneWay(nn.Module):
        """Class 1 is level with class 0, and flat; class 2 can be reached."""

        def forward(self, x):
            mean = x.flatten(1).mean(1)
            return torch.stack([mean * 0 + 1, mean * 0 + 0.999, 1.5 * mean], 1)

    images = torch.full((3, 3, 5, 7), 0.6)
    result = run(create_attack(name), OneWay(), images, torch.zeros(3, dtype=torch.long))
    assert result.success.all()
    assert (result.logits.argmax(1) == 2).all()
    assert result.adv.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_a_gradient_gives_no_nan(name):
    class Flat(nn.Module):
        def forward(self, x):
            total = x.flatten(1).sum(1)
            return torch.stack([total * 0 + 1, total * 0], 1)

    images = torch.rand(3, 1, 6, 6)
    result = run(create_attack(name, steps=3), Flat(), images, torch.zeros(3, dtype=torch.long))
    assert torch.equal(result.adv, images)
    assert not result.success.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_images_are_attacked(name, dtype):
    model = conv().to(dtype)
    images = torch.rand(8, 1, 6, 6).to(dtype)
    labels = model(images).argmax(1)
    result = run(create_attack(name), model, images, labels)
    assert result.adv.dtype == dtype
    assert result.success.float().mean() >= 0.75


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": 0.0}, "eps must be > 0 and finite, got 0.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"candidates": 1}, "candidates must be at least 2, got 1"),
        ({"overshoot": -0.1}, "overshoot must be >= 0"),
    ],
)
def test_bad_options_are_named(options, words):
    for cls in (DeepFool, DeepFoolLinf):
        with pytest.raises(ValueError, match=f"{cls.name}: {words}"):
            cls(**options)
    with pytest.raises(ValueError, match="cannot aim at a class"):
        DeepFool(target="next")


@pytest.mark.parametrize("name", NAMES)
def test_no_weaker_than_foolbox(name):
    foolbox = pytest.importorskip("foolbox")
    model = conv()
    images = torch.rand(40, 1, 6, 6)
    labels = model(images).argmax(1)
    peers = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}
    peer = peers[NORMS[name]](steps=50, candidates=10, overshoot=0.02)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs, _, _ = peer(wrapped, images, labels, epsilons=None)
    fell = model(theirs).argmax(1) != labels
    change = (theirs - images).flatten(1)
    distance = change.abs().amax(1) if NORMS[name] == "linf" else change.norm(dim=1)
    result = run(create_attack(name), model, images, labels)
    assert result.success.sum() >= fell.sum()
    both = fell & result.success
    assert result.distance(NORMS[name])[both].median() <= 1.02 * distance[both].median()
