import itertools
import re

import pytest
import torch
from models_for_tests import Linear, images_and_labels, mlp
from torch import nn

from deitsec import ops
from deitsec.attacks import (
    BIM,
    FGSM,
    MIFGSM,
    PGD,
    PGDL1,
    PGDL2,
    create_attack,
    format_spec,
    list_attacks,
    parse_spec,
)
from deitsec.attacks.registry import ATTACKS
from deitsec.engine import Engine, run

EVERY = list_attacks()
UNTARGETED = [name for name in EVERY if ATTACKS[name].traits.untargeted]
BUDGET = [name for name in UNTARGETED if ATTACKS[name].traits.goal == "budget"]
# they leave the steepest direction on purpose: a random start, changed images, a smoothed gradient
ASTRAY = ("rfgsm", "difgsm", "tifgsm")
LINF = [n for n in BUDGET if ATTACKS[n].traits.norm == "linf" and n not in ASTRAY]


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
    attack = create_attack(name, eps=eps)
    result = run(attack, model, images, labels)
    assert ((result.adv >= 0) & (result.adv <= 1)).all()
    ulp = torch.finfo(torch.float32).eps  # of the distance; the images are fp64
    assert (result.distance(attack.traits.norm) <= eps * (1 + ulp)).all()
    assert not torch.equal(result.adv, images)


@pytest.mark.parametrize("name", EVERY)
def test_rows_do_not_know_each_other(name):
    model = mlp()
    images, labels = images_and_labels(model)
    ids = torch.arange(100, 100 + len(images))
    attack = create_attack(name, eps=0.2)
    whole = Engine(model).run(attack, images, labels, sample_ids=ids)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    mixed = Engine(model, batch_size=5).run(
        attack, images[order], labels[order], sample_ids=ids[order]
    )
    # PyTorch's own norms of fp64 rows depend on their number in the last bit
    rounding = 0 if attack.traits.norm == "linf" else 1e-12
    torch.testing.assert_close(mixed.adv, whole.adv[order], rtol=0, atol=rounding)
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
        run(create_attack(name, eps=0.1), model, images, labels)
    for old, new in zip(before, _snapshot(model), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_the_seed_matters_only_to_attacks_that_draw(name):
    model = mlp()
    images, labels = images_and_labels(model)
    attack = create_attack(name, eps=0.1)
    first, again, other = (
        Engine(model, seed=seed).run(attack, images, labels).adv for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == attack.traits.deterministic


@pytest.mark.parametrize("name", LINF)
@pytest.mark.parametrize("seed", range(3))
def test_linear_model_falls_exactly_where_its_margin_says(name, seed):
    """The least margin in ball and box is known in closed form, row by row."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, 6, 6, dtype=torch.float64, generator=generator)
    images = torch.rand(64, 1, 6, 6, dtype=torch.float64, generator=generator)
    model = Linear(weight, bias=-float((weight * 0.5).sum()))
    labels = model(images).argmax(1)
    eps = 0.05
    down = torch.where(weight > 0, (images - eps).clamp(min=0), (images + eps).clamp(max=1))
    up = torch.where(weight > 0, (images + eps).clamp(max=1), (images - eps).clamp(min=0))
    worst = torch.where(labels == 0, model.margin(down), -model.margin(up))
    result = run(create_attack(name, eps=eps), model, images, labels)
    assert torch.equal(result.success, worst < 0)
    assert result.success.any()
    assert not result.success.all()
    reached = torch.where(labels == 0, model.margin(result.adv), -model.margin(result.adv))
    kept = ~result.success  # a success is kept at its first step, the rest at their worst
    torch.testing.assert_close(reached[kept], worst[kept], rtol=0, atol=1e-12)


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
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 6, 6, dtype=torch.float64, generator=generator)
    images = 0.4 + 0.2 * torch.rand(256, 1, 6, 6, dtype=torch.float64, generator=generator)
    model = Linear(weight, bias=-float((weight * 0.5).sum()))
    reach = attack.eps * dual(weight)
    margin = model.margin(images).abs()
    result = run(attack, model, images, model(images).argmax(1))
    assert result.success[margin < 0.98 * reach].all()
    assert not result.success[margin > reach * (1 + 1e-6)].any()
    assert 0 < result.success.sum() < len(images)
    assert (result.distance(attack.traits.norm) <= attack.eps * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", [n for n in EVERY if ATTACKS[n].traits.targeted])
def test_targets_win_where_success_is_claimed(name):
    model = mlp()
    images, labels = images_and_labels(model)
    targets = (labels + 2) % 5
    attack = create_attack(name, eps=0.5)
    result = run(attack, model, images, labels, targets)
    with torch.no_grad():
        predicted = model(result.adv).argmax(1)
    assert torch.equal(result.success, predicted == targets)
    assert result.success.any()
    assert torch.equal(result.logits.argmax(1), predicted)


@pytest.mark.parametrize("name", EVERY)
def test_fused_and_unfused_trajectories_are_equal(name):
    model = mlp().float()
    images, labels = images_and_labels(model.double())
    model, images = model.float(), images.float()
    attack = create_attack(name, eps=0.1)
    fused = run(attack, model, images, labels)
    with ops.use("reference"):
        plain = run(attack, model, images, labels)
    # linf_step is bitwise the same everywhere; norms are sums, and round
    rounding = 0 if attack.traits.norm == "linf" and name != "mifgsm" else 1e-4
    torch.testing.assert_close(fused.adv, plain.adv, rtol=0, atol=rounding)


def test_fgsm_is_its_formula():
    model = mlp()
    images, labels = images_and_labels(model)
    leaf = images.clone().requires_grad_()
    nn.functional.cross_entropy(model(leaf), labels, reduction="sum").backward()
    expected = (images + 0.03 * leaf.grad.sign()).clamp(0, 1)
    result = run(FGSM(eps=0.03), model, images, labels)
    torch.testing.assert_close(result.adv, expected, rtol=0, atol=1e-15)


def test_bim_is_its_recursion():
    model = mlp()
    images, labels = images_and_labels(model)
    x = images.clone()
    for _ in range(7):
        leaf = x.clone().requires_grad_()
        nn.functional.cross_entropy(model(leaf), labels, reduction="sum").backward()
        x = (x + 0.01 * leaf.grad.sign()).clamp(images - 0.05, images + 0.05).clamp(0, 1)
    result = Engine(model, stop="never").run(BIM(eps=0.05, alpha=0.01, steps=7), images, labels)
    loss_of = nn.functional.cross_entropy
    with torch.no_grad():
        ours = loss_of(model(result.adv), labels, reduction="none")
        theirs = loss_of(model(x), labels, reduction="none")
    # the engine keeps the best iterate: the last one, or an earlier one of higher loss
    assert (ours >= theirs - 1e-12).all()
    last = (result.adv - x).abs().flatten(1).amax(1) < 1e-14
    assert last.float().mean() > 0.5


def test_bim_takes_the_papers_number_of_steps():
    assert [BIM(eps=levels / 255).num_steps for levels in (2, 8, 16, 32)] == [3, 10, 20, 36]


def test_mifgsm_is_its_algorithm():
    model = mlp()
    images, labels = images_and_labels(model)
    x, momentum = images.clone(), torch.zeros_like(images)
    for _ in range(4):
        leaf = x.clone().requires_grad_()
        nn.functional.cross_entropy(model(leaf), labels, reduction="sum").backward()
        scaled = leaf.grad / leaf.grad.abs().flatten(1).sum(1)[:, None, None, None]
        momentum = 0.9 * momentum + scaled
        x = (x + 0.01 * momentum.sign()).clamp(0, 1)
    seen = []
    original = MIFGSM.step

    def spy(self, p, s, query):
        state = original(self, p, s, query)
        seen.append(state.x)
        return state

    attack = MIFGSM(eps=0.04, steps=4, decay=0.9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MIFGSM, "step", spy)
        run(attack, model, images, labels)
    torch.testing.assert_close(seen[-1], x, rtol=0, atol=1e-14)


def test_illc_aims_at_the_least_likely_class():
    model = mlp()
    images, labels = images_and_labels(model)
    result = run(create_attack("illc", eps=0.2), model, images, labels)
    with torch.no_grad():
        assert torch.equal(result.targets, model(images).argmin(1))


def test_random_targets_belong_to_the_sample_and_never_equal_the_label():
    model = mlp()
    images, labels = images_and_labels(model, rows=200)
    attack = FGSM(target="random")
    whole = run(attack, model, images, labels)
    part = Engine(model).run(attack, images[50:60], labels[50:60], sample_ids=torch.arange(50, 60))
    assert torch.equal(part.targets, whole.targets[50:60])
    assert (whole.targets != labels).all()
    offsets = torch.bincount((whole.targets - labels) % 5, minlength=5)
    assert (offsets[1:] > 25).all()


def test_a_confidence_threshold_makes_targeted_success_harder():
    model = mlp()
    images, labels = images_and_labels(model)
    easy, hard = (
        run(PGD(eps=0.3, steps=20, target="next", confidence=level), model, images, labels)
        for level in (0.0, 0.6)
    )
    assert easy.success.sum() > hard.success.sum() > 0
    probability = hard.logits.softmax(1).gather(1, hard.targets[:, None])[:, 0]
    assert (probability[hard.success] >= 0.6).all()


def test_pgd_starts_at_the_same_noise_whatever_the_batch():
    model = mlp()
    images, labels = images_and_labels(model)
    start = ops.random_start(images, torch.arange(len(images)), 0.1, 5, 0)
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return model(x)

    Engine(Spy(), seed=5, batch_size=7).run(PGD(eps=0.1, steps=1), images, labels)
    assert torch.equal(torch.cat(seen[:4]), start)  # four batches, side by side


@pytest.mark.parametrize(
    "spec",
    [
        "pgd:eps=8/255,steps=20",
        "fgsm:eps=0.1,target=3",
        "illc",
        "bim:eps=0.3,steps=5",
        "mifgsm:eps=4/255,decay=0.5",
        "pgd:eps=0.3,random_start=false,target=least-likely,confidence=0.5,alpha=none",
    ],
)
def test_a_spec_reads_back_as_it_was_written(spec):
    attack = parse_spec(spec)
    assert parse_spec(format_spec(attack)) == attack


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("pgdd", ["'pgdd'", "did you mean 'pgd'"]),
        ("pgd:epz=1", ["'epz'", "did you mean 'eps'"]),
        ("pgd:eps=big", ["eps must be float", "'big'"]),
        ("pgd:steps=1.5", ["steps must be int"]),
        ("pgd:steps=0", ["steps must be at least 1, got 0"]),
        ("pgd:eps=0", ["eps must be in (0, 1]", "got 0"]),
        ("pgd:eps=-8/255", ["eps must be in (0, 1]"]),
        ("pgd:eps=nan", ["eps must be in (0, 1]", "nan"]),
        ("pgd:eps=inf", ["eps must be in (0, 1]", "inf"]),
        ("fgsm:eps=8/0", ["eps must be float"]),
        ("pgd:alpha=0", ["alpha must be in (0, 1]"]),
        ("mifgsm:decay=-1", ["decay must be >= 0"]),
        ("fgsm:target=likely", ["target must be one of", "'likely'"]),
        ("pgd:eps", ["'eps' is not key=value"]),
        ("fgsm:target=1,confidence=1", ["confidence must be in [0, 1)"]),
    ],
)
def test_a_bad_spec_says_what_is_wrong(spec, words):
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        parse_spec(spec)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_list_attacks_matches_patterns():
    assert list_attacks("pgd*") == ["pgd", "pgd_l1", "pgd_l2"]
    assert list(itertools.chain(list_attacks("none*"))) == []
