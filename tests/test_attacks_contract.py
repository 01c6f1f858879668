"""What every registered attack promises, found by its traits."""

import pytest
import torch
from attacks_for_tests import BUDGET, EVERY, MINIMUM, TARGETED, UNTARGETED, light
from models_for_tests import Linear, images_and_labels, mlp
from torch import nn

from deitsec import ops
from deitsec.attacks import PGDL1, PGDL2
from deitsec.attacks.registry import ATTACKS
from deitsec.engine import Engine, run

# a generator for tests was trained against no model
pytestmark = pytest.mark.filterwarnings("ignore:advgan. what it applies was made for another model")

LINF = [n for n in BUDGET if ATTACKS[n].traits.norm == "linf" and n in UNTARGETED]
# follow the sign of the gradient, so that a linear model falls to them in one step
EXACT_LINF = [n for n in LINF if n in ("fgsm", "bim", "illc", "pgd", "mifgsm")]


def _snapshot(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        torch.get_rng_state(),
    )


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("eps", [2 / 255, 0.1, 1.0])
def test_adversarial_images_stay_in_ball_and_box(name, eps):
    model = mlp()
    images, labels = images_and_labels(model)
    attack = light(name, eps=eps)
    result = run(attack, model, images, labels)
    assert ((result.adv >= 0) & (result.adv <= 1)).all()
    if attack.radius is not None:
        ulp = torch.finfo(torch.float32).eps  # of the distance; the images are fp64
        assert (result.distance(attack.traits.norm) <= attack.radius * (1 + ulp)).all()
    if attack.traits.goal == "budget":
        assert not torch.equal(result.adv, images)


@pytest.mark.parametrize("name", EVERY)
def test_distances_are_those_of_the_images_that_are_returned(name):
    model = mlp()
    images, labels = images_and_labels(model)
    result = run(light(name, eps=0.2), model, images, labels)
    change = (result.adv - images).flatten(1)
    expected = {
        "linf": change.abs().amax(1),
        "l2": change.square().sum(1).sqrt(),
        "l1": change.abs().sum(1),
        "l0": (change != 0).sum(1).double(),
    }
    for norm, values in expected.items():
        torch.testing.assert_close(result.distance(norm).double(), values, rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        logits = model(result.adv)
    torch.testing.assert_close(result.logits, logits, rtol=0, atol=1e-9)
    goal = logits.argmax(1) != labels
    if result.targets is not None:
        goal = logits.argmax(1) == result.targets
    assert torch.equal(result.success, goal)


@pytest.mark.parametrize("name", EVERY)
def test_rows_do_not_know_each_other(name):
    model = mlp()
    images, labels = images_and_labels(model)
    ids = torch.arange(100, 100 + len(images))
    attack = light(name, eps=0.2)
    whole = Engine(model).run(attack, images, labels, sample_ids=ids)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    mixed = Engine(model, batch_size=5).run(
        attack, images[order], labels[order], sample_ids=ids[order]
    )
    # PyTorch's own norms of fp64 rows, and the logits, depend on their number in the last bit
    plain = attack.traits.norm == "linf" and attack.traits.goal == "budget"
    plain = plain and attack.traits.needs == "gradient"
    torch.testing.assert_close(mixed.adv, whole.adv[order], rtol=0, atol=0 if plain else 1e-9)
    assert torch.equal(mixed.success, whole.success[order])
    assert torch.equal(mixed.steps, whole.steps[order])


@pytest.mark.parametrize("name", EVERY)
def test_the_callers_model_is_left_as_found(name):
    model = mlp().train()
    next(iter(model.parameters())).requires_grad_(False)
    list(model.parameters())[1].grad = torch.ones(24, dtype=torch.float64)
    images, labels = images_and_labels(mlp())
    before = _snapshot(model)
    with pytest.warns(UserWarning, match="train mode"):
        run(light(name, eps=0.1), model, images, labels)
    for old, new in zip(before, _snapshot(model), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_the_seed_matters_only_to_attacks_that_draw(name):
    model = mlp()
    images, labels = images_and_labels(model)
    attack = light(name, eps=0.1)
    first, again, other = (
        Engine(model, seed=seed).run(attack, images, labels).adv for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == attack.traits.deterministic


def _linear(seed, *, low=0.0, high=1.0, rows=64):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, 6, 6, dtype=torch.float64, generator=generator)
    images = torch.rand(rows, 1, 6, 6, dtype=torch.float64, generator=generator)
    images = low + (high - low) * images
    return Linear(weight, bias=-float((weight * 0.5).sum())), weight, images


def _worst(model, weight, images, labels, eps):
    """Least margin of each row in ball and box, in closed form."""
    down = torch.where(weight > 0, (images - eps).clamp(min=0), (images + eps).clamp(max=1))
    up = torch.where(weight > 0, (images + eps).clamp(max=1), (images - eps).clamp(min=0))
    return torch.where(labels == 0, model.margin(down), -model.margin(up))


@pytest.mark.parametrize("name", EXACT_LINF)
@pytest.mark.parametrize("seed", range(3))
def test_linear_model_falls_exactly_where_its_margin_says(name, seed):
    """The least margin in ball and box is known in closed form, row by row."""
    model, weight, images = _linear(seed)
    labels = model(images).argmax(1)
    worst = _worst(model, weight, images, labels, 0.05)
    result = run(light(name, eps=0.05, classes=2), model, images, labels)
    assert torch.equal(result.success, worst < 0)
    assert result.success.any()
    assert not result.success.all()
    reached = torch.where(labels == 0, model.margin(result.adv), -model.margin(result.adv))
    kept = ~result.success  # a success is kept at its first step, the rest at their worst
    torch.testing.assert_close(reached[kept], worst[kept], rtol=0, atol=1e-12)


# how much of the radius is enough for one that leaves the steepest direction on purpose: a random
# start, changed images, a smoothed or an estimated gradient
_REACH = {"difgsm": 0.5, "rfgsm": 0.3, "tifgsm": 0.5, "nes": 0.7, "spsa": 0.7}


@pytest.mark.parametrize("name", LINF)
def test_no_row_falls_that_cannot_and_every_row_does_that_is_well_within_reach(name):
    model, weight, images = _linear(0, rows=128)
    labels = model(images).argmax(1)
    result = run(light(name, eps=0.1, classes=2), model, images, labels)
    worst = _worst(model, weight, images, labels, 0.1)
    assert not result.success[worst > 0].any()
    assert result.success.any()
    # of few queries; of no direction; not trained against this model
    if name not in ("square", "random_search", "advgan"):
        easy = _worst(model, weight, images, labels, 0.1 * _REACH.get(name, 0.98)) < 0
        assert easy.any()
        assert result.success[easy].all()


@pytest.mark.parametrize(
    ("attack", "dual"),
    [
        (PGDL2(eps=0.05, steps=40), lambda w: w.norm()),
        (PGDL2(eps=0.05, steps=20, random_start=False), lambda w: w.norm()),
        # one pixel a step, the steepest ascent in L1, ends at the vertex of the ball
        (PGDL1(eps=0.15, steps=40, density=0.01), lambda w: w.abs().max()),
    ],
    ids=["l2", "l2-from-the-image", "l1"],
)
def test_linear_model_falls_within_the_dual_norm_and_not_beyond(attack, dual):
    """Inside the box the margin changes by at most eps times the dual norm of the weight."""
    model, weight, images = _linear(0, low=0.4, high=0.6, rows=256)
    reach = attack.eps * dual(weight)
    margin = model.margin(images).abs()
    result = run(attack, model, images, model(images).argmax(1))
    assert result.success[margin < 0.98 * reach].all()
    assert not result.success[margin > reach * (1 + 1e-6)].any()
    assert 0 < result.success.sum() < len(images)
    assert (result.distance(attack.traits.norm) <= attack.eps * (1 + 1e-6)).all()


_DUAL = {
    "linf": lambda w: w.abs().sum(),
    "l2": lambda w: w.norm(),
    "l1": lambda w: w.abs().max(),
}


@pytest.mark.parametrize("name", [n for n in MINIMUM if ATTACKS[n].traits.norm in _DUAL])
def test_the_nearest_success_is_near_the_closed_form_optimum(name):
    """Inside the box the nearest point beyond the border is margin / dual norm away."""
    model, weight, images = _linear(0, low=0.35, high=0.65, rows=48)
    norm = ATTACKS[name].traits.norm
    optimum = model.margin(images).abs() / _DUAL[norm](weight)
    far = optimum > 0.15 * optimum.max()  # some have a least step, longer than what is left there
    images, optimum = images[far], optimum[far]
    labels = model(images).argmax(1)
    more = {"max_queries": 3000} if ATTACKS[name].traits.needs == "decision" else {}
    result = run(light(name, **more), model, images, labels)
    assert result.success.all()
    ratio = result.distance(norm).double() / optimum
    assert (ratio >= 1 - 1e-4).all()
    assert ratio.max() <= 1.25


@pytest.mark.parametrize("name", TARGETED)
def test_targets_win_where_success_is_claimed(name):
    model = mlp()
    images, labels = images_and_labels(model)
    targets = (labels + 2) % 5
    attack = light(name, eps=0.5, aimed=True)
    result = run(attack, model, images, labels, targets)
    with torch.no_grad():
        predicted = model(result.adv).argmax(1)
    assert torch.equal(result.success, predicted == targets)
    assert result.success.any()
    assert torch.equal(result.logits.argmax(1), predicted)
    assert torch.equal(result.targets, targets)


@pytest.mark.parametrize("name", EVERY)
def test_two_classes_and_images_of_odd_shape(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(105, 2)).double().eval()
    with torch.no_grad():
        model[1].weight.mul_(8)
    images = torch.rand(6, 3, 5, 7, dtype=torch.float64)
    labels = model(images).argmax(1)
    eps = {"l1": 8.0, "l2": 1.5}.get(ATTACKS[name].traits.norm, 0.3)
    result = run(light(name, eps=eps, shape=(3, 5, 7), classes=2), model, images, labels)
    assert result.adv.shape == images.shape
    assert result.finite.all()
    assert result.success.any()


@pytest.mark.parametrize("name", EVERY)
def test_fused_and_unfused_trajectories_are_equal(name):
    model = mlp().float()
    images, labels = images_and_labels(model.double())
    model, images = model.float(), images.float()
    attack = light(name, eps=0.1)
    fused = run(attack, model, images, labels)
    with ops.use("reference"):
        plain = run(attack, model, images, labels)
    assert torch.equal(fused.success, plain.success)
    if name == "cw_linf":
        # it branches on the rounding of a sum, hundreds of steps long: another way, as near
        near = (result.distance("linf") for result in (fused, plain))
        torch.testing.assert_close(*near, rtol=0.01, atol=0)
        return
    # linf_step is bitwise the same everywhere; norms are sums, and round
    rounding = 0 if name in ("fgsm", "bim", "illc", "pgd") else 1e-4
    torch.testing.assert_close(fused.adv, plain.adv, rtol=0, atol=rounding)


class _Answers(nn.Module):
    """Gives labels only, as one-hot logits, or logits without a gradient."""

    def __init__(self, model, needs):
        super().__init__()
        self.model, self.needs = model, needs

    def forward(self, images):
        with torch.no_grad():
            logits = self.model(images)
        if self.needs == "scores":
            return logits
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)


@pytest.mark.parametrize("name", [n for n in EVERY if ATTACKS[n].traits.needs != "gradient"])
def test_a_black_box_attack_needs_no_more_than_it_says(name):
    model = mlp()
    images, labels = images_and_labels(model)
    attack = light(name, eps=0.2)
    hidden = run(attack, _Answers(model, attack.traits.needs), images, labels)
    assert hidden.success.any()
    assert (hidden.queries.backward == 0).all()
    open_ = run(attack, model, images, labels)
    torch.testing.assert_close(hidden.adv[hidden.success], open_.adv[hidden.success])
    assert torch.equal(hidden.success, open_.success)
