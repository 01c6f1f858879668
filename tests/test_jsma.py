"""JSMA against the algorithm of its paper, written plainly."""

import itertools
import math

import pytest
import torch
from models_for_tests import Counting, mlp
from torch import Tensor, nn

from deitsec.attacks.jsma import JSMA
from deitsec.attacks.registry import create_attack
from deitsec.engine import Engine, run


def net(seed: int, side: int, classes: int = 6, channels: int = 1) -> nn.Module:
    """A float64 network whose pixels differ in what they do to each class."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * side * side, classes),
    )
    return model.double().eval()


def paper(
    model: nn.Module, x: Tensor, target: int, theta: float, most: int, free: Tensor
) -> tuple[Tensor, int]:
    """Algorithms 2 and 3 of arXiv:1511.07528 on one image: the image, and the pairs it took."""
    x, free, taken = x.clone(), free.clone(), 0
    while int(model(x[None]).argmax()) != target and taken < most:
        jacobian = torch.autograd.functional.jacobian(lambda v: model(v[None])[0], x).flatten(1)
        alpha = jacobian[target] * math.copysign(1, theta)
        others = [k for k in range(len(jacobian)) if k != target]
        beta = jacobian[others].sum(0) * math.copysign(1, theta)
        best, pair = 0.0, None
        sum_a, sum_b = alpha[:, None] + alpha, beta[:, None] + beta
        gain = torch.where((sum_a > 0) & (sum_b < 0), -sum_a * sum_b, 0.0)
        gain = gain * (free[:, None] & free)
        for i in range(len(alpha)):
            for_i = gain[i, i + 1 :]
            if len(for_i) and float(for_i.max()) > best:
                best, pair = float(for_i.max()), (i, i + 1 + int(for_i.argmax()))
        if pair is None:
            break
        for at in pair:
            flat = x.view(-1)
            flat[at] = (flat[at] + theta).clamp(0, 1)
            if flat[at] == (1 if theta > 0 else 0):
                free[at] = False
        taken += 1
    return x, taken


@pytest.mark.parametrize(
    ("seed", "theta", "side", "channels"),
    [(0, 1.0, 28, 1), (1, -1.0, 28, 1), (2, 0.5, 10, 1), (3, -0.3, 7, 3), (4, 1.0, 9, 2)],
)
def test_jsma_changes_the_papers_pixels(seed, theta, side, channels):
    model = net(seed, side, channels=channels)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, channels, side, side, dtype=torch.float64, generator=generator)
    images = (images * 1.4 - 0.2).clamp(0, 1)
    images[:, :, 0, :] = 1 if theta > 0 else 0  # saturated, and in the search all the same
    labels = model(images).argmax(1)
    targets = (labels + 1 + torch.arange(4) % 4) % 6
    gamma = 0.06 if side == 28 else 0.145
    result = run(JSMA(theta=theta, gamma=gamma), model, images, labels, targets)
    features = images[0].numel()
    most = math.floor(features * gamma / 2)
    compared = 0
    for row, target in enumerate(targets.tolist()):
        free = torch.ones(features, dtype=torch.bool)
        expected, taken = paper(model, images[row], target, theta, most, free)
        assert taken > 0
        if taken < most:  # else the engine keeps the image of highest loss, not the last
            assert torch.equal(result.adv[row], expected), f"row {row}"
            compared += 1
        assert bool(result.success[row]) == (int(model(expected[None]).argmax()) == target)
    assert compared
    assert (result.distance("l0") <= 2 * most).all()


def test_jsma_takes_the_conventions_of_other_libraries():
    model = net(5, 6)
    images = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    images[:, :, :3] = 0.995
    labels = model(images).argmax(1)
    attack = JSMA(gamma=0.2, skip_saturated=True, round_up=True)
    result = run(attack, model, images, labels, (labels + 1) % 6)
    assert torch.equal(result.adv[:, :, :3], images[:, :, :3])
    assert JSMA(gamma=0.2, round_up=True).most_pairs(36) == 4
    assert JSMA(gamma=0.2).most_pairs(36) == 3
    assert JSMA().most_pairs(784) == 56


def test_a_step_costs_one_forward_and_two_backward_passes():
    model = net(6, 6)
    counting = Counting(model)
    images = torch.rand(5, 1, 6, 6, dtype=torch.float64) * 0.5
    labels = model(images).argmax(1)
    attack = JSMA(gamma=0.3, theta=0.01)
    result = Engine(counting).run(attack, images, labels, (labels + 1) % 6)
    steps = attack.most_pairs(36)
    held = ~result.success
    assert (result.queries.backward[held] == 2 * steps).all()
    assert (result.queries.forward[held] <= steps + 2).all()


@pytest.mark.parametrize("compaction", [True, False])
def test_rows_end_by_themselves_and_do_not_know_each_other(compaction):
    model = mlp()
    images = torch.rand(12, 1, 6, 6, dtype=torch.float64)
    labels = model(images).argmax(1)
    targets = (labels + 2) % 5
    ids = torch.arange(12)
    whole = Engine(model, compaction=compaction).run(
        JSMA(gamma=0.9), images, labels, targets, sample_ids=ids
    )
    order = torch.randperm(12)
    mixed = Engine(model, batch_size=5, compaction=compaction).run(
        JSMA(gamma=0.9), images[order], labels[order], targets[order], sample_ids=ids[order]
    )
    assert torch.equal(mixed.adv, whole.adv[order])
    assert torch.equal(mixed.success, whole.success[order])
    assert whole.success.any()


def test_no_pair_that_helps_leaves_the_image_as_it_is():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], 1)

    images = torch.rand(2, 1, 4, 4)
    result = run(JSMA(), Constant(), images, torch.zeros(2).long(), torch.ones(2).long())
    assert not result.success.any()
    assert torch.equal(result.adv, images)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"theta": 0.0}, "theta must be in"),
        ({"theta": 1.5}, "1.5"),
        ({"gamma": 0}, "gamma must be"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        create_attack("jsma", **options)


def test_two_class_models_and_single_features():
    model = net(7, 3, classes=2)
    images = torch.rand(4, 1, 3, 3, dtype=torch.float64)
    labels = model(images).argmax(1)
    result = run(JSMA(gamma=1.0), model, images, labels, 1 - labels)
    assert (result.distance("l0") <= 8).all()
    for theta, side in itertools.product((1.0, -1.0), (1,)):
        lone = torch.rand(2, 1, side, side, dtype=torch.float64)
        one = net(8, side, classes=2)
        truth = one(lone).argmax(1)
        assert torch.equal(run(JSMA(theta=theta), one, lone, truth, 1 - truth).adv, lone)
