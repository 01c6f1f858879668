import itertools
import re

import pytest
import torch
from models_for_tests import images_and_labels, mlp
from torch import nn

from deitsec import ops
from deitsec.attacks import (
    BIM,
    FGSM,
    MIFGSM,
    PGD,
    create_attack,
    format_spec,
    list_attacks,
    parse_spec,
)
from deitsec.engine import Engine, run


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
    assert list_attacks("m*fgsm") == ["mifgsm"]
    assert list(itertools.chain(list_attacks("none*"))) == []
