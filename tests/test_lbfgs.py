"""L-BFGS in batches against scipy's, one image after the other."""

import numpy as np
import pytest
import torch
from models_for_tests import Counting, Linear, images_and_labels, mlp
from torch.nn import functional

from deitsec.attacks import create_attack
from deitsec.attacks.lbfgs import LBFGS
from deitsec.engine import Engine

MODEL = mlp()
IMAGES, LABELS = images_and_labels(MODEL, rows=6)
TARGETS = (LABELS + 2) % 5


def scipys(image, target, searches, const=1e-2):
    """The nearest of the minimisers that are taken for the target, and every c that was tried."""
    optimize = pytest.importorskip("scipy.optimize")
    shape, clean = image.shape, image.flatten().numpy()
    lower, upper, best, tried = 0.0, np.inf, np.inf, []

    def objective(flat, c):
        x = torch.from_numpy(flat).view(1, *shape).requires_grad_()
        value = (x - image).square().sum() + c * functional.cross_entropy(MODEL(x), target[None])
        (grad,) = torch.autograd.grad(value, x)
        return float(value.detach()), grad.flatten().numpy()

    for _ in range(searches):
        tried.append(const)
        found, _, _ = optimize.fmin_l_bfgs_b(
            objective, clean, args=(const,), bounds=[(0, 1)] * len(clean), m=10
        )
        with torch.no_grad():
            won = int(MODEL(torch.from_numpy(found).view(1, *shape)).argmax()) == int(target)
        if won:
            best, upper = min(best, float(np.linalg.norm(found - clean))), min(upper, const)
        else:
            lower = max(lower, const)
        const = (lower + upper) / 2 if upper < np.inf else const * 10
    return best, tried


def test_it_comes_as_near_as_scipys():
    tried = [[] for _ in IMAGES]

    class Spied(LBFGS):
        def _next_const(self, s, over):
            for row in over.nonzero()[:, 0].tolist():
                tried[row].append(float(s.c[row]))
            return LBFGS._next_const(self, s, over)

    engine = Engine(MODEL, compaction=False, batch_size=len(IMAGES))
    result = engine.run(Spied(search_steps=8), IMAGES, LABELS, TARGETS)
    assert result.success.all()
    for row in range(len(IMAGES)):
        best, expected = scipys(IMAGES[row], TARGETS[row], 8)
        assert tried[row] == pytest.approx(expected)
        assert float(result.distance("l2")[row]) <= best * 1.001


@pytest.mark.parametrize("border", [False, True])
def test_on_a_linear_model_it_comes_to_the_boundary(border):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, 7, dtype=torch.float64, generator=generator)
    images = torch.rand(12, 3, 5, 7, dtype=torch.float64, generator=generator)
    images = images.clamp(0.1, 0.3) - 0.1 if border else 0.3 + 0.4 * images
    model = Linear(weight, bias=-float((weight * images.mean()).sum()))
    labels = model(images).argmax(1)
    result = Engine(model).run(LBFGS(), images, labels, 1 - labels)
    margin = model.margin(images).detach()
    assert result.success.all()
    # the optimum in the box moves along the weight, clipped: found by bisection of the multiplier
    low, high = torch.zeros(12, dtype=torch.float64), torch.full((12,), 1e3, dtype=torch.float64)
    for _ in range(100):
        middle = (low + high) / 2
        along = (-margin.sign() * middle).view(-1, 1, 1, 1) * weight
        crossed = model.margin((images + along).clamp(0, 1)) * margin.sign() < 0
        low, high = torch.where(crossed, low, middle), torch.where(crossed, middle, high)
    along = (-margin.sign() * high).view(-1, 1, 1, 1) * weight
    nearest = ((images + along).clamp(0, 1) - images).flatten(1).norm(dim=1)
    ratio = result.distance("l2") / nearest
    assert (ratio >= 1 - 1e-9).all()
    assert ratio.max() < 1.05
    assert ratio.median() < 1.01


def test_rows_at_a_minimum_go_on_at_once_and_leave():
    images, labels = images_and_labels(MODEL, rows=24)
    seen = []
    for compaction in (True, False):
        model = Counting(MODEL)
        engine = Engine(model, compaction=compaction, channels_last=False, batch_size=24)
        seen.append((engine.run(LBFGS(steps=30), images, labels), sum(model.sizes)))
    (left, few), (stayed, many) = seen
    assert few < many / 2
    assert torch.equal(left.success, stayed.success)
    torch.testing.assert_close(left.adv, stayed.adv, rtol=0, atol=1e-6)


def test_the_likeliest_other_class_makes_it_untargeted():
    attack = create_attack("lbfgs", target=None, num_targets=1)
    one = Engine(MODEL).run(attack, IMAGES, LABELS)
    with torch.no_grad():
        assert (MODEL(one.adv).argmax(1) != LABELS).all()
    assert one.targets is None
    far = Engine(MODEL).run(create_attack("lbfgs", target="least-likely"), IMAGES, LABELS)
    assert one.distance("l2").mean() < far.distance("l2").mean()


@pytest.mark.parametrize("history", [1, 3])
def test_a_short_history_comes_to_the_same(history):
    short, long = (
        Engine(MODEL).run(LBFGS(history=m), IMAGES, LABELS, TARGETS).distance("l2")
        for m in (history, 10)
    )
    torch.testing.assert_close(short, long, rtol=0.02, atol=0)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="lbfgs: history must be at least 1, got 0"):
        LBFGS(history=0)
