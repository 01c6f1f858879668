"""Attacks on patches, on one head and on attention: the contract, and what each does."""

import pytest
import torch
from models_for_tests import Linear, images_and_labels, mlp
from torch import nn
from torch.nn import functional
from vits_for_tests import rows, tiny_deit

from deitsec.attacks import parse_spec
from deitsec.attacks.patch import Patch
from deitsec.attacks.patch_fool import PatchFool
from deitsec.attacks.pgd_heads import PGDHeads
from deitsec.attacks.registry import ATTACKS, create_attack, list_attacks
from deitsec.attacks.tokens import of_tokens, on_image, token_grid
from deitsec.engine import Engine, run
from deitsec.engine.checked_model import ModelError

PARTS = [name for name in list_attacks() if ATTACKS[name].traits.part != "logits"]
_SHORT = {"patch_fool": {"steps": 12, "num_patches": 2}}


def _short(name, **options):
    return create_attack(name, **(_SHORT.get(name, {}) | options))


def test_they_are_all_found():
    assert PARTS == ["attention_pgd", "patch_fool", "pgd_heads"]


@pytest.mark.parametrize("name", PARTS)
def test_rows_do_not_know_each_other(name):
    model = tiny_deit()
    images, labels = rows(model)
    ids = torch.arange(100, 100 + len(images))
    whole = Engine(model).run(_short(name), images, labels, sample_ids=ids)
    order = torch.randperm(len(images))
    mixed = Engine(model, batch_size=5).run(
        _short(name), images[order], labels[order], sample_ids=ids[order]
    )
    torch.testing.assert_close(mixed.adv, whole.adv[order], rtol=0, atol=1e-9)
    assert torch.equal(mixed.success, whole.success[order])
    assert torch.equal(mixed.steps, whole.steps[order])


@pytest.mark.parametrize("name", PARTS)
def test_success_is_that_of_the_model_as_it_answers(name):
    model = tiny_deit()
    images, labels = rows(model)
    for targets in (None, (labels + 1) % 5):
        result = run(_short(name), model, images, labels, targets)
        with torch.no_grad():
            logits = model(result.adv)
        torch.testing.assert_close(result.logits, logits, rtol=0, atol=1e-9)
        won = logits.argmax(1)
        assert torch.equal(result.success, won != labels if targets is None else won == targets)
        assert ((result.adv >= 0) & (result.adv <= 1)).all()
        if result.targets is None:
            assert result.success.any()
        radius = create_attack(name).radius
        if radius is not None:
            assert (result.distance("linf") <= radius * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_left_as_found_whatever_its_dtype(name, dtype):
    model = tiny_deit().to(dtype)
    images, labels = rows(tiny_deit())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    result = run(_short(name), model, images.float(), labels)
    assert result.adv.dtype == torch.float32
    assert result.finite.all()
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    assert not any(module._forward_hooks for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 8, 8)], ids=str)
def test_two_classes_and_other_shapes(name, shape):
    """Images of 6 pixels are resized by the model: its patches are 1.5 pixels of them."""
    model = tiny_deit(classes=2, channels=shape[0])
    model.input_size = (8, 8)
    images, labels = rows(model, 6, shape)
    result = run(_short(name), model, images, labels)
    assert result.adv.shape == images.shape
    assert result.finite.all()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("patch_fool", "needs? a? ?vision transformer"),
        ("attention_pgd", "need a vision transformer"),
        ("pgd_heads", "no class head and distillation head"),
    ],
)
def test_a_model_without_that_part_is_refused_before_the_first_step(spec, words):
    model = mlp()
    images, labels = images_and_labels(model)
    with pytest.raises(ModelError, match=words) as caught:
        run(parse_spec(spec), model, images, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("patch:pick=attention", "patch: pick must be one of gradient, random, got 'attention'"),
        ("patch_fool:pick=best", "pick must be one of attention, gradient, random"),
        ("patch:num_patches=0", "num_patches must be at least 1, got 0"),
        ("patch:patch_size=0", "patch_size must be at least 1"),
        ("patch:alpha=0", "alpha must be in"),
        ("patch:restarts=2,random_start=false", "restarts=2 needs random_start"),
        ("patch_fool:layer=0", "layer must be at least 1"),
        ("patch_fool:decay=0", "decay must be in"),
        ("patch_fool:attention_weight=-1", "attention_weight must be >= 0"),
        ("attention_pgd:attention_weight=nan", "attention_weight must be >= 0"),
        ("pgd_heads:head=first", "head must be one of class, distillation, both, got 'first'"),
    ],
)
def test_a_bad_option_says_what_is_wrong(spec, words):
    with pytest.raises(ValueError, match=words):
        parse_spec(spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("patch:patch_size=3", "patch_size must divide the image, 8 x 8, got 3"),
        ("patch_fool:patch_size=3", "patch_size must divide the image, 8 x 8, got 3"),
        ("patch:num_patches=17", "num_patches must be at most 16, as many as the image has"),
        ("patch_fool:layer=3", "layer must be at most 2, as many as the model has blocks, got 3"),
    ],
)
def test_an_option_that_does_not_fit_the_model_says_so(spec, words):
    model = tiny_deit()
    images, labels = rows(model, 4)
    with pytest.raises(ValueError, match=words):
        run(parse_spec(spec), model, images, labels)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((3, 224, 224), (14, 14)),
        ((3, 384, 384), (24, 24)),
        ((1, 28, 28), (4, 4)),
        ((3, 32, 32), (4, 4)),
        ((3, 96, 160), (6, 10)),
        ((1, 5, 7), (5, 7)),
    ],
    ids=str,
)
def test_patches_without_a_size(shape, grid):
    assert Patch().grid(shape) == grid


@pytest.mark.parametrize(
    ("tokens", "height", "width", "grid"),
    [
        (197, 224, 224, (1, 14, 14)),
        (198, 224, 224, (2, 14, 14)),
        (18, 28, 28, (2, 4, 4)),
        (196, 224, 224, (0, 14, 14)),
        (261, 224, 224, (5, 16, 16)),
        (193, 192, 256, (1, 12, 16)),
        (197, 192, 256, (1, 14, 14)),  # resized to a square by the model
    ],
)
def test_the_grid_of_tokens(tokens, height, width, grid):
    assert token_grid(tokens, height, width) == grid


def test_tokens_and_images_are_one_order():
    values = torch.arange(18.0)[None]
    shown = on_image(values, 8, 8)
    assert shown[0, 0].tolist() == [[2.0 + 4 * i + j for j in range(4)] for i in range(4)]
    back = of_tokens(functional.interpolate(shown, (8, 8)), 18)
    assert back[0].tolist() == [0.0, 0.0, *range(2, 18)]


def _changed(result):
    """(B, 4, 4) which patches of 2 pixels a side differ."""
    change = (result.adv - result.clean).abs().amax(1, keepdim=True)
    return functional.max_pool2d(change, 2)[:, 0] > 0


class FavouritePatch(nn.Module):
    """Linear, and one patch of each image's own decides: the one that its first pixel names."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images):
        favourite = (images[:, 0, 0, 0].detach() * 15).round().long()
        patches = functional.unfold(images, 2, stride=2).mean(1)  # (B, 16)
        strength = torch.full_like(patches, 0.01).scatter(1, favourite[:, None], 1.0)
        margin = self.weight * (strength * (patches - 0.5)).sum(1)
        return torch.stack([margin, -margin], 1)


def test_patch_changes_the_patch_of_largest_gradient_and_nothing_else():
    model = FavouritePatch()
    images = 0.5 + 0.4 * (torch.rand(15, 1, 8, 8) - 0.5)
    images[:, 0, 0, 0] = torch.arange(1, 16) / 15.0
    labels = model(images).argmax(1)
    result = Engine(model, stop="never").run(Patch(steps=20), images, labels)
    changed = _changed(result).flatten(1)
    assert torch.equal(changed.nonzero(), torch.stack([torch.arange(15), torch.arange(1, 16)], 1))
    assert result.success.all()
    assert (result.distance("l0") <= 4).all()
    blind = Engine(model).run(Patch(steps=20, pick="random"), images, labels)
    assert _changed(blind).flatten(1).sum(1).max() <= 1
    assert blind.success.float().mean() < 0.5


def test_patch_is_its_recursion():
    """On a linear model: noise in the patch, then steps of alpha to the box's corner."""
    weight = torch.randn(1, 8, 8, dtype=torch.float64)
    images = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    model = Linear(weight, bias=-float((weight * 0.5).sum()))
    labels = model(images).argmax(1)
    result = Engine(model, stop="never").run(
        Patch(patch_size=4, num_patches=2, steps=25), images, labels
    )
    sums = functional.avg_pool2d(weight.abs()[None], 4).flatten()
    best = torch.zeros(4, dtype=torch.float64).scatter(0, sums.topk(2).indices, 1.0)
    mask = functional.interpolate(best.view(1, 1, 2, 2), (8, 8)) > 0
    for row in range(6):
        against = -weight.sign() if labels[row] == 0 else weight.sign()
        corner = (against + 1) / 2
        expected = torch.where(mask[0], corner, images[row])
        torch.testing.assert_close(result.adv[row], expected, rtol=0, atol=1e-12)


class BrightestPatch(nn.Module):
    """Every token attends to bright patches, and the answer is the texture of what is attended.

    Attention goes by a patch's mean, and the class by its difference of left and right.
    """

    def __init__(self):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(40.0, dtype=torch.float64))
        self.attn_drop = nn.Identity()

    def forward(self, images):
        patches = functional.unfold(images, 2, stride=2).transpose(1, 2)  # (B, 16, 4)
        bright, texture = patches.mean(2), patches[:, :, 0] - patches[:, :, 1]
        bright = functional.pad(bright, (1, 0))  # a class token
        scores = self.sharpness * bright[:, None, None].expand(-1, 2, 17, -1)
        attention = self.attn_drop(scores.softmax(-1))
        seen = (attention.mean(1)[:, 0, 1:] * texture).sum(1)
        return torch.stack([8 * seen, -8 * seen], 1)


def _bright_images(number=15):
    images = 0.1 + 0.2 * torch.rand(number, 1, 8, 8, dtype=torch.float64)
    favourite = torch.arange(number) % 16
    for row, patch in enumerate(favourite.tolist()):
        i, j = 2 * (patch // 4), 2 * (patch % 4)
        images[row, 0, i : i + 2, j : j + 2] = 0.8
        images[row, 0, i, j] = 0.9 if row % 2 else 0.7
    return images, favourite


def test_patch_fool_picks_what_is_attended_to_and_changes_nothing_else():
    model = BrightestPatch()
    images, favourite = _bright_images()
    labels = model(images).argmax(1)
    attack = PatchFool(steps=30)
    result = Engine(model, stop="never").run(attack, images, labels)
    changed = _changed(result).flatten(1)
    assert torch.equal(changed.nonzero()[:, 1], favourite)
    assert result.success.all()
    two = Engine(model, stop="never").run(PatchFool(steps=3, num_patches=2), images, labels)
    assert (_changed(two).flatten(1).sum(1) == 2).all()
    assert _changed(two).flatten(1).gather(1, favourite[:, None]).all()


def test_the_attention_loss_draws_attention_to_a_patch_that_had_none():
    """A dark patch of random choice: without its attention nothing that it says is heard."""
    model = BrightestPatch()
    images, _ = _bright_images(16)
    labels = model(images).argmax(1)

    def attended(weight):
        attack = PatchFool(
            steps=6, pick="random", attention_weight=weight, alpha=0.1, random_start=False
        )
        return Engine(model, stop="never").run(attack, images, labels)

    def share(result):
        patches = functional.avg_pool2d(result.adv, 2).flatten(1)
        attention = (40 * functional.pad(patches, (1, 0))).softmax(1)[:, 1:]
        return (attention * _changed(result).flatten(1)).sum(1)

    gained = share(attended(1.0)).log() - share(attended(0.0)).log()
    assert gained.mean() > 0.5


def _by_hand(model, images, labels, mask, attack, start):
    """Patch-Fool with torch.optim.Adam, one row at a time, PCGrad as it is written."""
    from deitsec.engine.parts import look_into

    x = start.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=attack.alpha, eps=1e-20)
    schedule = torch.optim.lr_scheduler.StepLR(adam, 10, attack.decay)
    seen = []
    for _ in range(attack.steps):
        image = torch.where(mask > 0, x, images)
        parts = look_into(model, image, "attention")
        loss = functional.cross_entropy(parts.logits, labels)
        (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
        total = grad.clone()
        for attention in parts.attention:
            weights = of_tokens(mask, attention.shape[-1])
            drawn = (attention.sum((1, 2)) * weights).sum()
            (other,) = torch.autograd.grad(drawn, x, retain_graph=True)
            along = (other * grad).sum()
            if along < 0:
                other = other - along / grad.square().sum() * grad
            total = total + attack.attention_weight * other
        x.grad = -total
        adam.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(0, 1)
        seen.append(torch.where(mask > 0, x.detach(), images))
    return seen


@pytest.mark.parametrize("weight", [0.002, 0.5])
def test_patch_fool_is_adam_on_gradients_without_conflict(weight):
    model = tiny_deit()
    images, labels = rows(model, 5)
    attack = PatchFool(steps=24, num_patches=3, attention_weight=weight)
    states = []
    original = PatchFool.step

    def spy(self, p, s, query):
        states.append(s)
        following = original(self, p, s, query)
        states.append(following)
        return following

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchFool, "step", spy)
        Engine(model, stop="never").run(attack, images, labels)
    start, mask = states[0].x, states[0].mask
    assert (mask.sum((1, 2, 3)) == 12).all()
    for row in range(5):
        one = slice(row, row + 1)
        expected = _by_hand(model, images[one], labels[one], mask[one], attack, start[one])
        for step, image in enumerate(expected):
            torch.testing.assert_close(states[2 * step + 1].x[one], image, rtol=0, atol=1e-7)


def test_patch_fool_moves_a_row_that_the_model_is_sure_of():
    """Gradients of 1e-12: Adam's usual 1e-8 in the denominator would stop it."""
    model = tiny_deit().float()
    with torch.no_grad():
        for head in (model.module.head, model.module.head_dist):
            head.weight.mul_(12)
    images, labels = rows(tiny_deit(), 8)
    images = images.float()
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(1)
    attack = PatchFool(steps=40, num_patches=4, attention_weight=0.0, random_start=False)
    result = Engine(model, stop="never").run(attack, images, labels)
    after = functional.cross_entropy(result.logits.double(), labels, reduction="none")
    before = functional.cross_entropy(logits.double(), labels, reduction="none")
    assert before.min() < 1e-6
    assert (after > before).all()


@pytest.mark.parametrize("head", ["class", "distillation", "both"])
def test_heads_pgd_is_pgd_at_that_head(head):
    model = tiny_deit()
    images, labels = rows(model)
    attack = PGDHeads(eps=0.03, steps=4, head=head, random_start=False)
    x = images.clone()
    for _ in range(4):
        leaf = x.clone().requires_grad_()
        first, second = model.forward_heads(leaf)
        losses = {"class": [first], "distillation": [second], "both": [first, second]}[head]
        loss = sum(functional.cross_entropy(z, labels, reduction="sum") for z in losses)
        (grad,) = torch.autograd.grad(loss, leaf)
        x = (x + 0.0075 * grad.sign()).clamp(images - 0.03, images + 0.03).clamp(0, 1)
    seen = []
    original = PGDHeads.step

    def spy(self, p, s, query):
        following = original(self, p, s, query)
        seen.append(following.x)
        return following

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PGDHeads, "step", spy)
        Engine(model, stop="never").run(attack, images, labels)
    torch.testing.assert_close(seen[-1], x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["class", "distillation"])
def test_an_attack_on_a_head_breaks_that_head(head):
    alone = tiny_deit(head=head)  # the model answers by that head
    images, labels = rows(alone, 48)
    other = "distillation" if head == "class" else "class"
    broken = {
        aim: Engine(alone)
        .run(PGDHeads(eps=0.04, steps=20, head=aim, random_start=False), images, labels)
        .success.sum()
        for aim in (head, other, "both")
    }
    assert broken[head] >= 16
    assert broken[head] >= broken["both"] > broken[other]


def test_heads_are_looked_at_behind_what_stands_before_the_classifier():
    class Inverted(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(1 - images)

    model = tiny_deit()
    images, labels = rows(Inverted(model))
    attack = PGDHeads(eps=0.05, steps=10, random_start=False)
    result = run(attack, Inverted(model), images, labels)
    mirrored = run(attack, model, 1 - images, labels)
    torch.testing.assert_close(result.adv, 1 - mirrored.adv, rtol=0, atol=1e-12)
    assert result.success.any()


def test_attention_pgd_turns_attention_away_from_where_it_was():
    model = BrightestPatch()
    images, favourite = _bright_images()
    labels = model(images).argmax(1)

    def share(weight):
        attack = create_attack(
            "attention_pgd", eps=0.05, attention_weight=weight, random_start=False
        )
        adv = Engine(model, stop="never").run(attack, images, labels).adv
        patches = functional.avg_pool2d(adv, 2).flatten(1)
        attention = (40 * functional.pad(patches, (1, 0))).softmax(1)[:, 1:]
        return attention.gather(1, favourite[:, None]).mean()

    assert share(50.0) < share(0.0)


def test_attention_pgd_without_weight_is_pgd():
    model = tiny_deit()
    images, labels = rows(model)
    weighted = Engine(model, stop="never", seed=3).run(
        create_attack("attention_pgd", eps=0.05, attention_weight=0.0), images, labels
    )
    plain = Engine(model, stop="never", seed=3).run(create_attack("pgd", eps=0.05), images, labels)
    torch.testing.assert_close(weighted.adv, plain.adv, rtol=0, atol=1e-12)
