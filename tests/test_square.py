"""Square against what its paper says of starts, windows, schedule and loss."""

import itertools

import pytest
import torch
from models_for_tests import Counting, conv, images_and_labels, mlp, problem

from deitsec import ops
from deitsec.attacks.registry import create_attack
from deitsec.attacks.square import Square
from deitsec.attacks.square_l2 import SquareL2, pyramid_pair, window_size
from deitsec.engine import Engine, run

BOTH = [Square(eps=0.1, n_queries=80), SquareL2(eps=0.8, n_queries=80)]
NAMES = [attack.name for attack in BOTH]


class Asked:
    """A query that keeps what it was asked about."""

    def __init__(self, model):
        self.model, self.seen = model, []

    def logits(self, x, *, offer=True):
        self.seen.append(x.clone())
        return self.model(x)


def trajectory(attack, model, images, labels, *, targeted=False):
    p, query = problem(images, labels, targeted=targeted), Asked(model)
    states = [attack.init(p)]
    with torch.no_grad():
        for step, times in attack.plan():
            for _ in range(times):
                states.append(step(p, states[-1], query))
    return states, query.seen


@pytest.mark.parametrize("attack", BOTH, ids=NAMES)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 7), (2, 9, 4), (1, 1, 1), (1, 2, 3)])
def test_every_candidate_is_in_ball_and_box_and_the_score_never_falls(attack, targeted, shape):
    model = mlp(pixels=shape[0] * shape[1] * shape[2])
    images = torch.rand(6, *shape, dtype=torch.float64)
    states, seen = trajectory(attack, model, images, model(images).argmax(1), targeted=targeted)
    assert len(seen) == attack.n_queries
    norm = {"linf": torch.inf, "l2": 2}[attack.traits.norm]
    for x in seen:
        assert ((x >= 0) & (x <= 1)).all()
        assert ((x - images).flatten(1).norm(norm, dim=1) <= attack.eps * (1 + 1e-7)).all()
    for before, after in itertools.pairwise(states[1:]):
        assert (after.score >= before.score).all()
        held = after.score == before.score
        assert torch.equal(after.x[held], before.x[held])


@pytest.mark.parametrize("attack", BOTH, ids=NAMES)
def test_rows_do_not_know_each_other_and_queries_are_counted(attack):
    model = mlp()
    images, labels = images_and_labels(model)
    ids = torch.arange(24)
    whole = Engine(model).run(attack, images, labels, sample_ids=ids)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    counting = Counting(model)
    mixed = Engine(counting, batch_size=7).run(
        attack, images[order], labels[order], sample_ids=ids[order]
    )
    torch.testing.assert_close(mixed.adv, whole.adv[order], rtol=0, atol=1e-12)
    assert torch.equal(mixed.success, whole.success[order])
    assert whole.success.any()
    assert counting.differentiated == 0
    assert (whole.queries.forward <= attack.n_queries + 2).all()
    other = Engine(model, seed=1).run(attack, images, labels, sample_ids=ids)
    assert not torch.equal(other.adv, whole.adv)


def test_a_window_is_a_vertex_of_the_ball_and_its_place_uniform():
    rows, side, size, eps = 20_000, 6, 3, 0.1
    x0 = torch.full((rows, 2, side, side), 0.5)
    x = x0 + 0.05
    ids, step = torch.arange(rows), torch.full((rows,), 7)
    out = ops.square_window(x, x0, ids, step, size, eps, seed=0, stream=3)
    changed = out != x
    assert (changed.flatten(2).sum(2) == size**2).all()
    assert torch.equal(changed[:, 0], changed[:, 1])
    inside = out[changed]
    assert ((inside == x0[0, 0, 0, 0] + eps) | (inside == x0[0, 0, 0, 0] - eps)).all()
    first = changed[:, 0].flatten(1).int().argmax(1)
    counts = torch.bincount(first, minlength=side**2).view(side, side)
    places = side - size + 1
    expected = rows / places**2
    assert (counts[places:].sum(), counts[:, places:].sum()) == (0, 0)
    assert ((counts[:places, :places] - expected).abs() < 5 * expected**0.5).all()
    up = (out > x0 + 0.07).flatten(2).any(2)
    agreement = (up[:, 0] == up[:, 1]).float().mean()
    assert abs(float(up.float().mean()) - 0.5) < 0.02
    assert abs(float(agreement) - 0.5) < 0.02
    again = ops.square_window(x, x0, ids, step + 1, size, eps, seed=0, stream=3)
    assert not torch.equal(again, out)


def test_the_start_is_stripes_of_each_image():
    images = torch.full((50, 3, 8, 8), 0.5, dtype=torch.float64)
    start = Square(eps=0.1).init(problem(images, torch.zeros(50).long())).x
    assert (start == start[:, :, :1]).all()
    torch.testing.assert_close((start - 0.5).abs(), torch.full_like(start, 0.1))
    assert len(torch.unique(start.flatten(1), dim=0)) == 50
    start = SquareL2(eps=0.7).init(problem(images, torch.zeros(50).long())).x
    torch.testing.assert_close(
        (start - 0.5).flatten(1).norm(dim=1), torch.full((50,), 0.7).double()
    )


def test_the_schedule_is_the_papers():
    def shares(attack):
        return [step.keywords["share"] for step, times in attack.plan()[1:] for _ in range(times)]

    halvings = {0: 0, 10: 0, 11: 1, 51: 2, 201: 3, 501: 4, 1001: 5, 2001: 6, 4001: 7, 4998: 7}
    attack = Square()
    found = shares(attack)
    assert {k: found[k] for k in halvings} == {k: 0.8 / 2**h for k, h in halvings.items()}
    assert shares(Square(rescale_schedule=True))[4500] == 0.8 / 2**9
    assert sum(times for _, times in attack.plan()) == 5000
    assert len(attack.plan()) == 1 + 8


def test_pyramids_have_norm_1_and_two_signs():
    for size in (1, 2, 3, 5, 8, 15):
        pair = pyramid_pair(size, torch.zeros((), dtype=torch.float64))
        assert abs(float(pair.norm()) - 1) < 1e-12
        assert (pair[: size // 2] > 0).all()
        assert (pair[size // 2 :] < 0).all()
    assert [window_size(0.8, side, side) for side in (1, 2, 3, 4, 28)] == [1, 1, 3, 3, 25]


@pytest.mark.parametrize("attack", BOTH, ids=NAMES)
def test_restarts_and_more_queries_find_more(attack):
    model = conv()
    images, _ = images_and_labels(mlp(), rows=40)
    images = images.float()
    labels = model(images).argmax(1)
    small = {"eps": attack.eps / 2}
    few, many, tries = (
        run(create_attack(attack.name, **small, **options), model, images, labels).success
        for options in ({"n_queries": 5}, {"n_queries": 150}, {"n_queries": 5, "restarts": 4})
    )
    assert few.sum() < many.sum()
    assert (tries | ~few).all()
    assert tries.sum() > few.sum()


@pytest.mark.parametrize("attack", BOTH, ids=NAMES)
def test_success_is_that_of_torchattacks(attack):
    peer = pytest.importorskip("torchattacks")
    model = conv()
    images, _ = images_and_labels(mlp(), rows=200)
    images = images.float()
    labels = model(images).argmax(1)
    eps = {"linf": 0.04, "l2": 0.3}[attack.traits.norm]
    ours = run(create_attack(attack.name, eps=eps, n_queries=300), model, images, labels)
    norm = {"linf": "Linf", "l2": "L2"}[attack.traits.norm]
    theirs = peer.Square(model, norm=norm, eps=eps, n_queries=299, seed=0)(images, labels)
    fell = model(theirs).argmax(1) != labels
    assert ours.success.float().mean() >= fell.float().mean() - 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_queries": 0}, "n_queries must be at least 1"),
        ({"p_init": 0.0}, "p_init must be in"),
        ({"loss": "dlr"}, "loss must be margin, ce or none"),
        ({"restarts": 0}, "restarts must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        create_attack("square", **options)
