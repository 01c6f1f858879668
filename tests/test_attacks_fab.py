"""FAB against its authors' recursion written plainly, a closed-form optimum, and torchattacks."""

import math

import pytest
import torch
from models_for_tests import Linear, conv, images_and_labels, mlp
from torch import nn

from deitsec.attacks import create_attack
from deitsec.attacks.fab import FAB, FABL1, FABL2
from deitsec.engine import Engine, run

NORMS = {"fab": math.inf, "fab_l2": 2.0, "fab_l1": 1.0}
DUALS = {"fab": 1.0, "fab_l2": 2.0, "fab_l1": math.inf}
NAMES = list(NORMS)


def plain_projection(point, normal, value, p):
    """The move of one row to its plane in the box, entry by entry."""
    rooms, gap = [], abs(value)
    for at, slope in zip(point.tolist(), normal.tolist(), strict=True):
        upwards = (slope > 0) != (value > 0)
        rooms.append((1 - at if upwards else at) if slope else 0.0)
    sizes = normal.abs().tolist()
    moves = [0.0] * len(rooms)
    if p == 1:
        for i in sorted(range(len(rooms)), key=lambda i: -sizes[i]):
            if gap <= 0 or sizes[i] == 0:
                break
            moves[i] = min(rooms[i], gap / sizes[i])
            gap -= sizes[i] * moves[i]
    else:
        reaches = [1.0 if p == math.inf else size for size in sizes]
        open_ = [i for i in range(len(rooms)) if sizes[i]]
        while open_ and gap > 0:  # the entry of least room stops first
            pace = sum(sizes[i] * reaches[i] for i in open_)
            extent = gap / pace
            stops = min(open_, key=lambda i: rooms[i] / reaches[i])
            if extent * reaches[stops] <= rooms[stops]:
                for i in open_:
                    moves[i] = extent * reaches[i]
                break
            moves[stops] = rooms[stops]
            gap -= sizes[stops] * rooms[stops]
            open_.remove(stops)
    signs = torch.where((normal > 0) != (value > 0), 1.0, -1.0).double()
    return torch.tensor(moves, dtype=torch.float64) * signs


def plain_fab(model, image, label, p, *, aim=None, steps=100):
    """The iterates of one row, and its nearest success (Croce and Hein's implementation)."""
    dual = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}[p]
    clean, x, seen, nearest = image.flatten(), image.flatten(), [], math.inf
    for _ in range(steps):
        leaf = x.clone().requires_grad_()
        logits = model(leaf.reshape(1, *image.shape))[0]
        classes = [k for k in range(len(logits)) if k != label] if aim is None else [aim]
        planes = []
        for k in classes:
            value = logits[k] - logits[label]
            (slope,) = torch.autograd.grad(value, leaf, retain_graph=True)
            planes.append((value.item(), slope))
        distances = [abs(v) / (torch.linalg.vector_norm(w, dual) + 1e-12) for v, w in planes]
        value, slope = planes[int(torch.stack(distances).argmin())]
        value0 = value + float(slope @ (clean - x))
        near, far = plain_projection(x, slope, value, p), plain_projection(clean, slope, value0, p)
        norm, norm0 = (max(float(torch.linalg.vector_norm(d, p)), 1e-8) for d in (near, far))
        alpha = min(norm / (norm + norm0), 0.1)
        x = ((x + 1.05 * near) * (1 - alpha) + (clean + 1.05 * far) * alpha).clamp(0, 1)
        if int(model(x.reshape(1, *image.shape)).argmax()) != label:
            nearest = min(nearest, float(torch.linalg.vector_norm(x - clean, p)))
            x = clean + 0.9 * (x - clean)
        seen.append(x)
    return seen, nearest


def watched(attack, model, images, labels, monkeypatch):
    """The iterate of every step, and the result."""
    seen, original = [], type(attack).step

    def spy(self, p, s, query):
        state = original(self, p, s, query)
        seen.append(state.x.clone())
        return state

    monkeypatch.setattr(FAB, "step", spy)
    return seen, Engine(model, compaction=False).run(attack, images, labels)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_iterate_is_the_authors(name, seed, monkeypatch):
    model = mlp(seed=seed)
    images, labels = images_and_labels(model, rows=4)
    attack = create_attack(name, steps=30, search=0)
    seen, result = watched(attack, model, images, labels, monkeypatch)
    for row in range(len(images)):
        expected, nearest = plain_fab(model, images[row], labels[row], NORMS[name], steps=30)
        for step, x in enumerate(expected):
            torch.testing.assert_close(
                seen[step][row].flatten(), x, rtol=0, atol=1e-9, msg=lambda m, s=step: f"{s}: {m}"
            )
        assert result.success[row] == (nearest < math.inf)
        # images are looked at after they went back, too: the nearest may be nearer
        assert result.distance(attack.traits.norm)[row] <= nearest * (1 + 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_target_a_try_is_the_authors_targeted_version(name, monkeypatch):
    model = mlp()
    images, labels = images_and_labels(model, rows=4)
    with torch.no_grad():
        second = model(images).argsort(1)[:, -2]
    attack = create_attack(name, steps=20, search=0, num_targets=1)
    seen, _ = watched(attack, model, images, labels, monkeypatch)
    for row in range(len(images)):
        expected, _ = plain_fab(
            model, images[row], labels[row], NORMS[name], aim=second[row], steps=20
        )
        for step, x in enumerate(expected):
            torch.testing.assert_close(seen[step][row].flatten(), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"num_targets": 9}, {"target": "next"}], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_a_linear_model_falls_at_its_margin(name, options, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, 6, 6, dtype=torch.float64, generator=generator)
    images = 0.4 + 0.2 * torch.rand(64, 1, 6, 6, dtype=torch.float64, generator=generator)
    model = Linear(weight, bias=-float((weight * 0.5).sum()))
    optimum = model.margin(images).abs() / torch.linalg.vector_norm(weight.flatten(), DUALS[name])
    attack = create_attack(name, steps=30, **options)
    result = run(attack, model, images, model(images).argmax(1))
    ratio = result.distance(attack.traits.norm) / optimum
    assert result.success.all()
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.01


@pytest.mark.parametrize("name", NAMES)
def test_the_final_search_brings_a_success_nearer(name):
    model = mlp()
    images, labels = images_and_labels(model)
    with_it, without = (
        run(create_attack(name, steps=3, search=search), model, images, labels) for search in (3, 0)
    )
    norm = create_attack(name).traits.norm
    assert torch.equal(with_it.success, without.success)
    nearer, farther = with_it.distance(norm), without.distance(norm)
    assert (nearer <= farther)[without.success].all()
    assert (nearer < farther)[without.success].float().mean() > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_found_nothing_is_left_where_it_was(name):

    class Rigid(nn.Module):
        def forward(self, x):
            total = x.flatten(1).sum(1)
            return torch.stack([total * 0, total * 0 + 1], 1)

    images = torch.rand(3, 1, 6, 6)
    attack = create_attack(name, steps=3, num_targets=1)
    result = run(attack, Rigid(), images, torch.ones(3, dtype=torch.long))
    assert torch.equal(result.adv, images)
    assert not result.success.any()


@pytest.mark.parametrize("name", NAMES)
def test_restarts_never_lose_and_begin_at_half_of_the_distance(name, monkeypatch):
    model = conv()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(12, 1, 6, 6, generator=generator)
    labels = model(images).argmax(1)
    one = create_attack(name, steps=5, search=0)
    norm = one.traits.norm
    starts, original = [], FAB.restart

    def spy(self, p, s, query):
        state = original(self, p, s, query)
        starts.append((state.x - p.x, (-s.score).clamp_max(self.reach)))
        return state

    monkeypatch.setattr(FAB, "restart", spy)
    many = create_attack(name, steps=5, search=0, restarts=3)
    first, best = (Engine(model).run(a, images, labels) for a in (one, many))
    assert (best.distance(norm) <= first.distance(norm))[first.success].all()
    assert len(starts) == 2
    assert not torch.equal(starts[0][0], starts[1][0])
    for noise, radius in starts:
        # rounding to fp32 adds up in L1
        length = torch.linalg.vector_norm(noise.flatten(1), NORMS[name], dim=1)
        assert (length <= radius / 2 * (1 + 1e-4)).all()  # the box cuts some of it off
        assert (length > radius / 5).all()


@pytest.mark.parametrize("name", NAMES)
def test_eps_decides_what_counts_and_ends_a_row(name):
    model = mlp()
    images, labels = images_and_labels(model)
    attack = create_attack(name, steps=40)
    free = run(attack, model, images, labels).distance(attack.traits.norm)
    eps = float(free.median())
    bound = run(create_attack(name, steps=40, eps=eps), model, images, labels)
    assert torch.equal(bound.success, free <= eps)
    within = bound.distance(attack.traits.norm)[bound.success]
    assert (within <= eps * (1 + 1e-6)).all()
    assert (bound.steps[bound.success] < 80).float().mean() > 0.8  # not the last search's


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_know_each_other(name):
    model = mlp()
    images, labels = images_and_labels(model)
    attack = create_attack(name, steps=8, restarts=2)
    ids = torch.arange(len(images)) + 7
    whole = Engine(model).run(attack, images, labels, sample_ids=ids)
    order = torch.randperm(len(images))
    mixed = Engine(model, batch_size=5).run(
        attack, images[order], labels[order], sample_ids=ids[order]
    )
    torch.testing.assert_close(mixed.adv, whole.adv[order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 7)], ids=str)
def test_a_model_without_a_gradient_gives_no_nan(name, shape):
    class Flat(nn.Module):
        def forward(self, x):
            total = x.flatten(1).sum(1)
            return torch.stack([total * 0 + 1, total * 0, -total * 0], 1)

    images = torch.rand(3, *shape)
    for options in ({}, {"num_targets": 2}):
        attack = create_attack(name, steps=3, restarts=2, **options)
        result = run(attack, Flat(), images, torch.zeros(3, dtype=torch.long))
        assert result.adv.isfinite().all()
        assert not result.success.any()
        assert torch.equal(result.adv.amin() >= 0, torch.tensor(True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_images_are_attacked(name, dtype):
    model = conv().to(dtype)
    images = torch.rand(8, 1, 6, 6, dtype=torch.float32).to(dtype)
    labels = model(images).argmax(1)
    result = run(create_attack(name, steps=15), model, images, labels)
    assert result.adv.dtype == dtype
    # two logits may round to the same number: the row then stands on the boundary and stays
    assert result.success.float().mean() >= 0.75


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": 0.0}, "eps must be > 0 and finite, got 0.0"),
        ({"reach": -1.0}, "reach must be > 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"search": -1}, "search must be at least 0"),
        ({"alpha_max": 0.0}, r"alpha_max must be in \(0, 1\]"),
        ({"beta": 1.5}, r"beta must be in \(0, 1\]"),
        ({"eta": 0.9}, "eta must be at least 1"),
    ],
)
def test_bad_options_are_named(options, words):
    for cls in (FAB, FABL2, FABL1):
        with pytest.raises(ValueError, match=f"{cls.name}: {words}"):
            cls(**options)


@pytest.mark.parametrize("name", ["fab", "fab_l2"])  # its L1 fails before the first step
def test_no_weaker_than_torchattacks(name):
    peers = pytest.importorskip("torchattacks")
    model = conv()
    images = torch.rand(40, 1, 6, 6)
    labels = model(images).argmax(1)
    attack = create_attack(name, steps=20, search=0)
    ours = run(attack, model, images, labels)
    norm = {"fab": "Linf", "fab_l2": "L2"}[name]
    peer = peers.FAB(model, norm=norm, eps=1e3, steps=20, n_classes=4)
    theirs = peer(images, labels)
    fell = model(theirs).argmax(1) != labels
    distance = torch.linalg.vector_norm((theirs - images).flatten(1), NORMS[name], dim=1)
    assert ours.success.sum() >= fell.sum()
    both = fell & ours.success
    mine = ours.distance(attack.traits.norm)[both].median()
    assert mine <= 1.02 * distance[both].median()
