import math

import pytest
import torch
from models_for_tests import Counting, images_and_labels, mlp, problem
from torch import nn

from deitsec.attacks import BIM, FGSM, PGD, PGDL1, PGDL2, create_attack
from deitsec.attacks.starts import l1_start, l2_start
from deitsec.engine import Engine

MODEL = mlp()
IMAGES, LABELS = images_and_labels(MODEL, rows=60)
NEVER = {"stop": "never"}


def _loss(result):
    return nn.functional.cross_entropy(result.logits, LABELS, reduction="none")


@pytest.mark.parametrize("make", [PGD, PGDL2, PGDL1])
def test_restarts_add_to_what_the_first_try_breaks(make):
    eps = {"pgd": 0.04, "pgd_l2": 0.15, "pgd_l1": 0.6}[make.name]
    one, many = (
        Engine(MODEL, **options).run(make(eps=eps, steps=2, restarts=n), IMAGES, LABELS)
        for n, options in ((1, {}), (6, {}))
    )
    assert (many.success >= one.success).all()
    assert many.success.sum() > one.success.sum()
    assert torch.equal(many.adv[one.success], one.adv[one.success])
    assert torch.equal(many.steps[one.success], one.steps[one.success])


def test_each_try_starts_elsewhere_and_where_no_other_row_does():
    starts = {}

    class Starts(PGD):
        def init(self, p):
            state = PGD.init(self, p)
            for sample_id, x, clean in zip(p.sample_ids.tolist(), state.x, p.x, strict=True):
                starts[sample_id] = x - clean
            return state

    same = IMAGES[:1].expand(6, -1, -1, -1) * 0.5 + 0.25
    Engine(MODEL, **NEVER).run(Starts(eps=0.1, steps=1, restarts=4), same, LABELS[:6])
    assert len(starts) == 24
    noise = torch.stack(list(starts.values())).flatten(1)
    assert (torch.cdist(noise, noise) + torch.eye(24) * 9 > 0.1).all()
    assert noise.abs().max() <= 0.1


def test_the_first_success_ends_the_tries_of_its_row():
    model = Counting(MODEL)
    attack = PGD(eps=0.1, steps=4, restarts=5)
    result = Engine(model, channels_last=False).run(attack, IMAGES, LABELS)
    one = Engine(MODEL).run(PGD(eps=0.1, steps=4), IMAGES, LABELS)
    assert 0 < one.success.sum() < len(IMAGES)
    assert (result.queries.backward[one.success] <= 4).all()
    assert (result.queries.backward[~result.success] == 20).all()
    assert model.differentiated < 20 * len(IMAGES)


def test_never_stopping_keeps_the_highest_loss_of_all_tries():
    tries = 4
    many = Engine(MODEL, **NEVER).run(PGD(eps=0.1, steps=3, restarts=tries), IMAGES, LABELS)
    losses = []
    for number in range(tries):
        # the number of a try lies in the bits of the sample id from 48 up
        ids = torch.arange(60) + (number << 48)

        class Try(PGD):
            def init(self, p, ids=ids):
                moved = problem(p.x, p.y, sample_ids=ids, seed=p.seed)
                return PGD.init(self, moved)

        losses.append(Engine(MODEL, **NEVER).run(Try(eps=0.1, steps=3), IMAGES, LABELS))
    success = torch.stack([result.success for result in losses])
    score = torch.stack([_loss(result) for result in losses])
    assert torch.equal(many.success, success.any(0))
    torch.testing.assert_close(_loss(many), score.amax(0))
    assert (many.queries.backward == 3 * tries).all()


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.06, steps=4, restarts=5), PGD(eps=0.06, steps=4, restarts=2, num_targets=3)],
    ids=["restarts", "both"],
)
@pytest.mark.parametrize("batch_size", [60, 16])
def test_tries_come_to_the_same_without_compaction(attack, batch_size):
    on, off = (
        Engine(MODEL, batch_size=batch_size, compaction=c).run(attack, IMAGES, LABELS)
        for c in (True, False)
    )
    assert torch.equal(on.success, off.success)
    assert torch.equal(on.steps, off.steps)
    torch.testing.assert_close(on.adv, off.adv, rtol=0, atol=1e-12)
    assert (on.queries.backward <= off.queries.backward).all()


class OneWay(nn.Module):
    """Class 0 leads; the loss drives to class 1, which saturates below it; only class 3 wins."""

    def forward(self, x):
        z = x.flatten(1)
        bait = 1.8 * torch.tanh(20 * (z[:, 0] - 0.5))
        way = 12 * (z[:, 1] - 0.5) - 12 * (z[:, 0] - 0.5).clamp(min=0)
        none = torch.full_like(bait, -9.0)
        return torch.stack([torch.full_like(bait, 2.0), bait, none, way - 0.2], 1)


@pytest.mark.parametrize("compaction", [True, False])
def test_aiming_at_each_class_finds_the_one_way_there_is(compaction):
    images = torch.full((9, 1, 2, 2), 0.5)
    labels = torch.zeros(9, dtype=torch.int64)
    engine = Engine(OneWay(), compaction=compaction)
    attack = {"eps": 0.2, "steps": 10, "random_start": False}
    assert engine.run(PGD(**attack, num_targets=2), images, labels).success.all()
    one = engine.run(PGD(**attack, num_targets=1), images, labels)
    assert not one.success.any()  # class 1 is the likeliest, and does not win
    assert one.targets is None  # the label is to lose: nobody is impersonated


@pytest.mark.parametrize("num_targets", [1, 2, 4, 9])
def test_many_targets_are_the_union_of_each(num_targets):
    attack = {"eps": 0.06, "steps": 5, "random_start": False}
    whole = Engine(MODEL, **NEVER).run(PGD(**attack, num_targets=num_targets), IMAGES, LABELS)
    with torch.no_grad():
        others = MODEL(IMAGES).scatter(1, LABELS[:, None], -torch.inf)
    tries = min(num_targets, 4)
    union = torch.zeros(60, dtype=torch.bool)
    for target in others.argsort(1, descending=True)[:, :tries].unbind(1):
        x = IMAGES.clone()
        for _ in range(5):
            leaf = x.clone().requires_grad_()
            nn.functional.cross_entropy(MODEL(leaf), target, reduction="sum").backward()
            x = x - 0.015 * leaf.grad.sign()
            x = x.clamp(IMAGES - 0.06, IMAGES + 0.06).clamp(0, 1)
            with torch.no_grad():
                union |= MODEL(x).argmax(1) != LABELS
    assert torch.equal(whole.success, union)
    assert (whole.queries.backward == 5 * tries).all()
    with torch.no_grad():
        assert torch.equal(MODEL(whole.adv).argmax(1) != LABELS, whole.success)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(restarts=0), "restarts must be at least 1"),
        (lambda: PGD(restarts=2, random_start=False), "needs random_start"),
        (lambda: PGD(num_targets=-1), "num_targets must be >= 0"),
        (lambda: PGD(num_targets=2, target="next"), "goes without target="),
        (lambda: create_attack("illc", num_targets=2), "num_targets"),
        (lambda: BIM(confidence=0.5, num_targets=2, target=1), "goes without target="),
    ],
)
def test_tries_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_targets_of_the_caller_take_the_place_of_many():
    targets = (LABELS + 1) % 5
    many = Engine(MODEL).run(FGSM(eps=0.2, num_targets=3), IMAGES, LABELS, targets)
    one = Engine(MODEL).run(FGSM(eps=0.2), IMAGES, LABELS, targets)
    assert torch.equal(many.adv, one.adv)
    assert torch.equal(many.targets, targets)


def _problem(rows, pixels=(1, 2, 2), x=None, first=0):
    x = torch.full((rows, *pixels), 0.5, dtype=torch.float64) if x is None else x
    ids = torch.arange(first, first + rows)
    return problem(x, torch.zeros(rows, dtype=torch.int64), sample_ids=ids, seed=11)


STARTS = [(l2_start, 2), (l1_start, 1)]


@pytest.mark.parametrize(("start", "order"), STARTS)
@pytest.mark.parametrize("eps", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_starts_lie_in_ball_and_box(start, order, eps, dtype):
    x = torch.rand(200, 3, 4, 4, dtype=dtype)
    x[::3] = x[::3].round()
    found = start(_problem(200, x=x), eps)
    assert found.dtype == dtype
    assert found.isfinite().all()
    assert ((found >= 0) & (found <= 1)).all()
    assert ((found - x).flatten(1).norm(order, dim=1) <= eps * (1 + 1e-5)).all()


@pytest.mark.parametrize(("start", "order"), STARTS)
def test_starts_are_uniform_in_the_ball(start, order):
    """(radius / eps)**n is uniform, and no orthant is preferred; n = 4, inside the box."""
    rows, eps = 20000, 0.4
    noise = (start(_problem(rows), eps) - 0.5).flatten(1)
    share = (noise.norm(order, dim=1) / eps).pow(4).sort().values
    gap = (share - (torch.arange(rows) + 0.5) / rows).abs().max()
    assert gap < 1.63 / math.sqrt(rows)  # Kolmogorov and Smirnov at 1 %, seed fixed
    orthant = ((noise > 0) * 2 ** torch.arange(4)).sum(1)
    counts = torch.bincount(orthant, minlength=16) / (rows / 16)
    assert ((counts - 1).abs() < 0.12).all()
    # mean of |noise_i| for the uniform law of the ball: the same on every axis
    axes = noise.abs().mean(0)
    torch.testing.assert_close(axes, axes.mean().expand(4), rtol=0.02, atol=0)


@pytest.mark.parametrize(("start", "order"), STARTS)
def test_starts_belong_to_the_sample(start, order):
    x = torch.rand(12, 1, 3, 3)
    whole = start(_problem(12, x=x), 0.1)
    part = start(_problem(4, x=x[5:9], first=5), 0.1)
    assert torch.equal(part, whole[5:9])
    assert not torch.equal(start(_problem(4, x=x[5:9], first=6), 0.1), part)
