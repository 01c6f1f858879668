"""Claims that are easy to get wrong: balls after rounding, small radii, rows done at once."""

import warnings

import pytest
import torch
from models_for_tests import Linear, images_and_labels, mlp
from torch import nn

from deitsec.attacks import DDN, FAB, JSMA, AutoAttack, DeepFool, FMNLinf, create_attack
from deitsec.engine import Engine
from deitsec.models import load_model


def _linear(rows, side=28, low=0.3, high=0.7):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, side, side, generator=generator)
    images = low + (high - low) * torch.rand(rows, 1, side, side, generator=generator)
    return Linear(weight, bias=-float((weight * 0.5).sum())), weight, images


@pytest.mark.parametrize(
    ("name", "eps"), [("pgd", 0.001), ("pgd_l2", 0.02), ("apgd_l2", 0.02), ("apgd_l1", 0.3)]
)
def test_rounded_images_that_leave_the_ball_are_no_successes(name, eps):
    """Clean images between 8-bit levels, so that rounding alone goes farther than eps; and not."""
    model, _, images = _linear(200)
    whole = (images * 255).round() / 255
    labels = model(whole).argmax(1)
    attack, norm = create_attack(name, eps=eps), create_attack(name).traits.norm
    engine = Engine(model, quantize=True)
    with pytest.warns(UserWarning, match=rf"no 8-bit image is within eps={eps:g} \({norm}\)"):
        between = engine.run(attack, images, labels)
    assert between.claims.sum() > 0
    right = model(images).argmax(1) == labels
    assert not between.success[right].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.run(attack, images, labels)  # said once
        engine = Engine(model, quantize=True)
        found = engine.run(create_attack(name, eps=20 * eps), whole, labels)
    assert found.success.any()
    assert (found.distance(norm)[found.success] <= 20 * eps * (1 + 1e-5)).all()


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("attack", [FAB, FMNLinf], ids=["fab", "fmn_linf"])
def test_a_radius_of_a_few_levels_holds_those_levels(attack, levels):
    """A difference of two pixels k / 255 is off by more than fp32's share of so small a radius."""
    _, weight, _ = _linear(1)
    images = torch.full((8, 1, 28, 28), 128 / 255)
    reach = (levels - 0.1) / 255 * float(weight.abs().sum())
    model = Linear(weight, bias=reach - float((weight * (128 / 255)).sum()))
    labels = model(images).argmax(1)
    result = Engine(model, quantize=True).run(attack(eps=levels / 255), images, labels)
    assert result.success.all()
    assert (result.distance("linf") * 255 <= levels + 1e-3).all()


@pytest.mark.parametrize("share", [0.2, 0.45])
def test_the_nearest_of_a_fragile_row_survives_rounding_farther_out(share):
    """Every pixel of the nearest success rounds back to the clean image."""
    _, weight, _ = _linear(1)
    images = torch.full((4, 1, 28, 28), 128 / 255)
    reach = share / 255 * float(weight.abs().sum()) / 3
    model = Linear(weight, bias=reach - float((weight * (128 / 255)).sum()))
    labels = model(images).argmax(1)
    for attack in (DeepFool(), DDN()):
        assert Engine(model).run(attack, images, labels).success.all()
        rounded = Engine(model, quantize=True).run(attack, images, labels)
        assert rounded.success.all()
        assert (model(rounded.adv).argmax(1) != labels).all()
        assert torch.equal((rounded.adv * 255).round() / 255, rounded.adv)


@pytest.mark.parametrize("compaction", [True, False])
def test_a_row_that_is_wrong_already_is_a_success_at_distance_zero(compaction):
    model = mlp()
    images, labels = images_and_labels(model)
    wrong = (labels + 1) % 5
    engine = Engine(model, compaction=compaction)
    for result in (
        engine.run(DeepFool(eps=0.5), images, wrong),
        engine.run(JSMA(), images, wrong, labels),
    ):
        assert result.success.all()
        assert (result.distance("l2") == 0).all()


class _Overflows(nn.Module):
    """Overflows in fp16 on bright images; the likeliest target is hopeless, the other not."""

    def __init__(self):
        super().__init__()
        self.large = nn.Parameter(torch.full((), 3e4))

    def forward(self, images):
        mean = images.flatten(1).mean(1)
        bright = self.large * 8 * (mean - 0.3).clamp_min(0)
        nothing = bright - bright  # inf - inf in fp16
        other = 40 * (mean - 0.55) - 3.0 + nothing
        zero = torch.zeros_like(other)
        return torch.stack([zero, zero - 1.0, other], 1)


@pytest.mark.filterwarnings("ignore:precision")
def test_rows_that_overflow_get_all_their_tries_in_fp32():
    images = torch.full((70, 1, 4, 4), 0.01)  # the first are what fp16 is tried on
    images[66:] = 0.5
    labels = torch.zeros(70, dtype=torch.int64)
    attack = create_attack("pgd", eps=0.2, steps=20, num_targets=2)
    model = _Overflows()
    fallen = torch.arange(70) >= 66
    assert torch.equal(Engine(model).run(attack, images, labels).success, fallen)
    engine = Engine(model, precision="fp16")
    assert torch.equal(engine.run(attack, images, labels).success, fallen)
    assert engine.explain()["precision"].startswith("fp16")


@pytest.mark.parametrize("name", ["fooling", "fgsm"])
def test_half_precision_loses_no_gradient_of_a_sure_row(name):
    """A formula of the logits goes into the image as a fused loss does, scaled row by row."""
    torch.manual_seed(0)
    model = load_model("small_cnn", in_chans=1, image_size=8, num_classes=4).eval()
    with torch.no_grad():
        list(model.parameters())[-2].mul_(200)
    images = torch.rand(6, 1, 8, 8)
    labels = model(images).argmax(1)
    options = {"gap": float("inf"), "steps": 5} if name == "fooling" else {}
    attack = create_attack(name, **options)
    result = Engine(model, precision="fp16").run(attack, images, labels, (labels + 1) % 4)
    plain = Engine(model).run(attack, images, labels, (labels + 1) % 4)
    assert torch.equal(result.driven, plain.driven)


def test_an_attack_that_asks_for_scores_alone_is_not_called_undriven(monkeypatch):
    model = mlp()
    images, labels = images_and_labels(model)
    monkeypatch.setattr("deitsec.attacks.autoattack._QUERIES", 20)
    result = Engine(model).run(AutoAttack(eps=0.01, only="square"), images, labels)
    assert result.driven.all()
    assert not result.success.all()
