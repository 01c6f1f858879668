"""Carlini and Wagner's attacks against their code told again, image by image, and known optima."""

import math

import pytest
import torch
from models_for_tests import Counting, Linear, images_and_labels, mlp, problem
from torch import Tensor

from deitsec.attacks import create_attack
from deitsec.attacks.cw import CW
from deitsec.attacks.cw_linf import CWLinf
from deitsec.engine import Engine
from deitsec.types import Goal

MODEL = mlp()
IMAGES, LABELS = images_and_labels(MODEL, rows=6)


def descend(adam: torch.optim.Adam, loss: Tensor) -> None:
    adam.zero_grad()
    loss.backward()
    adam.step()


def leads(logits, y, targeted, kappa):
    """max(0, f), and whether the class wins or loses once kappa is given to the other side."""
    others = logits.clone()
    others[y] = -torch.inf
    behind = others.max() - logits[y] if targeted else logits[y] - others.max()
    shifted = logits.detach().clone()
    shifted[y] += -kappa if targeted else kappa
    won = (int(shifted.argmax()) == y) == targeted
    return (behind + kappa).clamp_min(0), won


def carlini(model, image, y, *, targeted, steps, searches, kappa, lr=1e-2, abort=True):
    """One image, as the code of the paper goes: its nearest success and every c that it tried."""
    lower, upper, c = 0.0, 1e10, 1e-3
    best, tried = math.inf, []
    start = torch.atanh((2 * image - 1) * 0.999999)
    anchor = (start.tanh() + 1) / 2
    for search in range(searches):
        if searches >= 10 and search == searches - 1:
            c = upper
        tried.append(c)
        w = start.clone().requires_grad_()
        adam, previous, fell = torch.optim.Adam([w], lr=lr), math.inf, False
        for iteration in range(steps):
            x = (w.tanh() + 1) / 2
            square = (x - anchor).square().sum()
            hinge, won = leads(model(x[None])[0], y, targeted, kappa)
            loss = square + c * hinge
            value = float(loss.detach())
            if won:  # the code leaves out the image that ends a search; nothing is lost by it
                best = min(best, float((x - image).detach().norm()))
            if abort and iteration % (steps // 10) == 0:
                if value > previous * 0.9999:
                    break
                previous = value
            fell = fell or won
            descend(adam, loss)
        if fell:
            upper = min(upper, c)
        else:
            lower = max(lower, c)
        c = (lower + upper) / 2 if upper < 1e9 else c * 10
    return best, tried


def consts_of(attack, model, images, labels, targets=None):
    """What the attack came to, and every c that each row tried."""
    tried = [[] for _ in images]

    class Spied(CW):
        def _next_const(self, s, over, fell):
            for row in over.nonzero()[:, 0].tolist():
                tried[row].append(float(s.c[row]))
            return CW._next_const(self, s, over, fell)

    options = {name: getattr(attack, name) for name in attack.__slots__}
    engine = Engine(model, compaction=False, batch_size=len(images))
    return engine.run(Spied(**options), images, labels, targets), tried


@pytest.mark.parametrize(
    ("targeted", "searches", "options"),
    [
        (False, 9, {}),
        (True, 9, {}),
        (False, 10, {"kappa": 1.0}),
        (True, 5, {"kappa": 0.5, "abort_early": False}),
    ],
    ids=["untargeted", "targeted", "repeat-kappa", "kappa-whole"],
)
def test_it_is_the_papers_code_row_by_row(targeted, searches, options):
    attack = CW(steps=40, search_steps=searches, lr=0.03, **options)
    targets = (LABELS + 2) % 5 if targeted else None
    result, tried = consts_of(attack, MODEL, IMAGES, LABELS, targets)
    known = {"kappa": attack.kappa, "abort": attack.abort_early, "lr": attack.lr}
    for row in range(len(IMAGES)):
        y = int((LABELS if targets is None else targets)[row])
        best, expected = carlini(
            MODEL, IMAGES[row], y, targeted=targeted, steps=40, searches=searches, **known
        )
        assert tried[row] == pytest.approx(expected, rel=1e-9)
        assert bool(result.success[row]) == (best < math.inf)
        if best < math.inf:
            assert float(result.distance("l2")[row]) == pytest.approx(best, abs=1e-6)
    assert result.success.any()


def linear(rows=24, side=6):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, side, side, dtype=torch.float64, generator=generator)
    images = 0.4 + 0.2 * torch.rand(rows, 1, side, side, dtype=torch.float64, generator=generator)
    model = Linear(weight, bias=-float((weight * 0.5).sum()))
    return model, images, weight


def test_on_a_linear_model_it_comes_to_the_boundary():
    model, images, weight = linear()
    nearest = (model.margin(images).abs() / weight.norm()).detach()
    labels = model(images).argmax(1)
    result = Engine(model.float()).run(CW(), images.float(), labels)
    assert result.success.all()
    ratio = result.distance("l2") / nearest
    assert (ratio >= 1 - 1e-5).all()
    assert ratio.max() < 1.25  # where the boundary is nearer than Adam's first step is long
    assert ratio[nearest > 0.03].max() < 1.03
    assert ratio.median() < 1.01


def test_kappa_asks_for_that_lead_and_no_more():
    model, images, weight = linear()
    labels = model(images).argmax(1)
    result = Engine(model).run(CW(steps=300, kappa=2.0), images, labels)
    lead = (result.logits[:, 0] - result.logits[:, 1]).abs()
    assert result.success.all()
    assert (lead >= 2).all()
    ratio = result.distance("l2") / ((model.margin(images).abs() + 2) / weight.norm())
    assert ratio.max() < 1.05


def test_goal_with_a_lead():
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 2.0, 1.5]])
    y = torch.tensor([0, 0, 1])
    for kappa, loses, wins in ((0.0, [0, 1, 0], [1, 0, 1]), (0.9, [0, 1, 0], [1, 0, 0])):
        goal = Goal(y=y, targeted=False, kappa=kappa)
        assert goal.reached(logits, logits.argmax(1)).int().tolist() == loses
        goal = Goal(y=y, targeted=True, kappa=kappa)
        assert goal.reached(logits, logits.argmax(1)).int().tolist() == wins


def test_rows_that_stop_early_leave_and_save_forward_passes():
    images, labels = images_and_labels(MODEL, rows=24)
    seen = []
    for compaction in (True, False):
        model = Counting(MODEL)
        engine = Engine(model, compaction=compaction, channels_last=False, batch_size=24)
        result = engine.run(CW(steps=100, lr=0.05), images, labels)
        seen.append((sum(model.sizes), result))
    (few, left), (many, stayed) = seen
    assert many >= 24 * 900
    assert few < 0.8 * many
    torch.testing.assert_close(left.adv, stayed.adv, rtol=0, atol=1e-9)
    assert torch.equal(left.success, stayed.success)


def test_each_step_asks_once():
    model = Counting(MODEL)
    engine = Engine(model, compaction=False, channels_last=False, batch_size=6)
    engine.run(CW(steps=10, search_steps=2), IMAGES, LABELS)
    assert model.differentiated == 20 * 6
    assert len(model.sizes) <= 20 + 2  # the clean images and the last ones


def test_with_a_radius_it_ends_at_the_first_success_within():
    free = Engine(MODEL).run(CW(steps=100), IMAGES, LABELS)
    eps = float(free.distance("l2").median())
    bound = Engine(MODEL).run(CW(steps=100, eps=eps), IMAGES, LABELS)
    assert torch.equal(bound.success, free.distance("l2") <= eps)
    assert (bound.distance("l2")[bound.success] <= eps * (1 + 1e-6)).all()


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_state_is_wide_and_images_keep_their_dtype(shape, dtype):
    images = torch.rand(3, *shape).to(dtype)
    state = CW().init(problem(images, torch.zeros(3, dtype=torch.int64)))
    assert state.x.dtype == dtype
    assert state.w.dtype == state.c.dtype == torch.float32
    torch.testing.assert_close(state.x, images, rtol=0, atol=max(torch.finfo(dtype).eps, 1e-6))


def carlini_linf(model, image, y, *, targeted, steps, lr=0.02, largest=1.0):
    """One image: the last image within its bound, the bounds that were reached, and the last c."""
    start, tau, c, bounds = image, 1.0, 1e-3, []
    while tau > 1 / 256:
        w = torch.atanh((2 * start - 1) * 0.999999).requires_grad_()
        adam, iteration = torch.optim.Adam([w], lr=lr), 0
        while True:
            x = (w.tanh() + 1) / 2
            change = (x - image).abs()
            hinge, won = leads(model(x[None])[0], y, targeted, 0.0)
            loss = c * hinge + (change - tau).clamp_min(0).sum()
            if float(loss.detach()) < 1e-4 * c and won:
                break
            descend(adam, loss)
            iteration += 1
            if iteration == steps:
                c, iteration = 2 * c, 0
                if c >= largest:
                    return start, bounds, c
        start = x.detach()
        tau = min(tau, float(change.detach().max())) * 0.9
        bounds.append(tau)
    return start, bounds, c


@pytest.mark.parametrize("targeted", [False, True])
def test_linf_is_the_papers_code_row_by_row(targeted):
    options = {"steps": 15, "lr": 0.02, "initial_const": 1e-3, "largest_const": 1.0}
    y = (LABELS + 2) % 5 if targeted else LABELS
    taus = [[] for _ in IMAGES]

    class Spied(CWLinf):
        def step(self, p, s, query):
            following = CWLinf.step(self, p, s, query)
            for row in (following.tau < s.tau).nonzero()[:, 0].tolist():
                taus[row].append(float(following.tau[row]))
            return following

    engine = Engine(MODEL, compaction=False, batch_size=len(IMAGES))
    result = engine.run(Spied(**options), IMAGES, LABELS, y if targeted else None)
    for row in range(len(IMAGES)):
        last, bounds, _ = carlini_linf(MODEL, IMAGES[row], int(y[row]), targeted=targeted, steps=15)
        assert len(bounds) >= 3
        assert taus[row] == pytest.approx(bounds, rel=1e-6)
        # the engine keeps any success on the way, so it may have a nearer one
        distance = float((last - IMAGES[row]).abs().max())
        assert float(result.distance("linf")[row]) <= distance + 1e-6
    assert result.success.all()


def test_linf_on_a_linear_model_comes_to_the_boundary():
    model, images, weight = linear(rows=12)
    labels, nearest = model(images).argmax(1), model.margin(images).abs() / weight.abs().sum()
    nearest = nearest.detach()
    result = Engine(model.float()).run(CWLinf(initial_const=1e-3), images.float(), labels)
    assert result.success.all()
    ratio = result.distance("linf") / nearest
    assert (ratio >= 1 - 1e-5).all()
    # the bound falls by a tenth at a time, and no further than a grey level
    assert ratio[nearest > 1 / 256].max() < 1.25
    assert (result.distance("linf") < 2 / 256)[nearest < 1 / 256].all()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cw_linf", {"decrease": 1.0}, r"cw_linf: decrease must be in \(0, 1\), got 1.0"),
        ("cw", {"steps": 0}, "cw: steps must be at least 1, got 0"),
        ("cw", {"kappa": -1.0}, "cw: kappa must be at least 0, got -1.0"),
        ("cw", {"lr": 0.0}, "cw: lr must be > 0 and finite, got 0.0"),
        ("cw", {"initial_const": math.inf}, "cw: initial_const must be > 0 and finite, got inf"),
        ("cw", {"eps": -1.0}, "cw: eps must be > 0"),
    ],
)
def test_options_out_of_range_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        create_attack(name, **options)
