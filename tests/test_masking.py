"""Masked gradients: models that hide them are found out, and one that does not is not accused."""

import pytest
import torch
from models_for_tests import Linear, images_and_labels, mlp
from torch import nn

from deitsec.attacks import RandomSearch
from deitsec.data import ArrayImageSet, DataSource
from deitsec.defenses import BitDepth
from deitsec.engine import Engine, run
from deitsec.models import wrap
from deitsec.report import sanity_checks, validate
from deitsec.report.masking import masking_checks
from deitsec.verification import verify

PIXELS = 36


def _source(model):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (400, 1, 6, 6), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        labels = model(pixels / 255).argmax(1)
    keep = torch.cat([torch.nonzero(labels == k)[:20, 0] for k in range(2)])
    images = ArrayImageSet(pixels=pixels[keep], labels=labels[keep])
    return DataSource(uri="x", name="x", train=None, test=images, class_names=("0", "1"))


def _linear(scale=1.0):
    torch.manual_seed(0)
    layer = nn.Linear(PIXELS, 2)
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.bias.copy_(-layer.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), layer).eval()


def _verified(module, data):
    model = wrap(module, mean=0.0, std=1.0, num_classes=2, in_chans=1)
    report = verify(model, data, ("fgsm", "pgd"), eps=0.1, sweep=False)
    validate(report.document)
    checks = {check["name"]: check for check in report.document["checks"]}
    return report.document["probes"], checks


def test_honest_gradients_are_not_accused():
    module = _linear()
    probes, checks = _verified(module, _source(module))
    assert probes["rows"] == 20
    assert 0 < probes["standing"] < 20
    assert probes["black_box"]["broken"] == probes["random_search"]["broken"] == 0
    assert probes["amplitudes"]["zero"] == 0
    names = ("gradients-beat-black-box", "gradients-beat-random-search", "gradients-do-not-vanish")
    assert {checks[name]["status"] for name in names} == {"pass"}


def test_rounding_is_found_out_by_every_probe():
    """Of the rounding's gradient nothing is left: PGD stands still, and others walk past it."""
    module = nn.Sequential(BitDepth(3), _linear(5.0)).eval()
    data = _source(module)
    probes, checks = _verified(module, data)
    assert probes["black_box"]["broken"] > 0
    assert probes["amplitudes"]["zero"] == probes["rows"]
    assert probes["amplitudes"]["median"] is None
    assert checks["gradients-beat-black-box"]["status"] == "warn"
    assert checks["gradients-do-not-vanish"]["status"] == "warn"
    assert "exactly 0 on 20" in checks["gradients-do-not-vanish"]["evidence"]


def test_saturated_logits_vanish_without_being_zero():
    """1e3 times the logits: fp32 says 0, the logarithm says how small."""
    module = _linear(2e3)
    probes, checks = _verified(module, _source(module))
    found = probes["amplitudes"]
    assert found["zero"] == 0
    assert found["lowest"] < -40
    assert sum(found["shares"]) == pytest.approx(1)
    assert checks["gradients-do-not-vanish"]["status"] == "warn"


def _probes(**changes):
    amplitudes = {"zero": 0, "lowest": -8.0, "median": -2.0, "shares": [0.0] * 9 + [1.0]}
    return {
        "rows": 100,
        "eps": 0.1,
        "followed": ["fgsm:eps=0.1", "pgd:eps=0.1"],
        "standing": 40,
        "black_box": {"attack": "square:eps=0.1", "broken": 0, "seconds": 1.0},
        "random_search": {"attack": "random_search:eps=0.1", "broken": 0, "seconds": 1.0},
        "amplitudes": amplitudes,
    } | changes


@pytest.mark.parametrize(("broken", "status"), [(0, "pass"), (1, "pass"), (2, "warn")])
@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("black_box", "gradients-beat-black-box"),
        ("random_search", "gradients-beat-random-search"),
    ],
)
def test_threshold_of_what_is_found_without_gradients(key, name, broken, status):
    probes = _probes(**{key: {"attack": "other:eps=0.1", "broken": broken, "seconds": 1.0}})
    checks = {check["name"]: check for check in masking_checks(probes)}
    assert checks.pop(name)["status"] == status
    assert {check["status"] for check in checks.values()} == {"pass"}


def test_a_single_image_accuses_nobody():
    found = {"attack": "square:eps=0.1", "broken": 1, "seconds": 1.0}
    assert masking_checks(_probes(rows=20, black_box=found))[0]["status"] == "pass"
    two = masking_checks(_probes(rows=20, black_box=found | {"broken": 2}))[0]
    assert two["status"] == "warn"
    assert "may be masked" in two["evidence"]


def test_one_step_and_a_target_are_no_yardstick():
    """Both leave images that a search walks past on an honest model."""
    module = _linear()
    model = wrap(module, mean=0.0, std=1.0, num_classes=2, in_chans=1)
    attacks = ("fgsm", "pgd:target=0", "pgd:steps=20")
    report = verify(model, _source(module), attacks, eps=0.1, sweep=False).document
    (followed,) = report["probes"]["followed"]
    assert "target" not in followed
    assert "steps=20" in followed
    alone = verify(model, _source(module), attacks[:2], eps=0.1, sweep=False).document
    assert alone["probes"] is None


def test_evidence_has_the_figures():
    evidence = [check["evidence"] for check in masking_checks(_probes())]
    assert "Of 100 images, 40 withstood fgsm and pgd" in evidence[0]
    assert "square:eps=0.1 broke 0 of them" in evidence[0]
    assert "median L2 norm of 1e-2.0 on 100 images, and a least one of 1e-8.0" in evidence[2]


@pytest.mark.parametrize(("place", "status"), [(0, "warn"), (2, "warn"), (3, "pass")])
def test_threshold_of_vanishing_gradients(place, status):
    shares = [0.0] * 9 + [0.98]
    shares[place] += 0.02
    amplitudes = _probes()["amplitudes"] | {"shares": shares}
    assert masking_checks(_probes(amplitudes=amplitudes))[2]["status"] == status


def test_zero_gradients_are_called_zero_and_no_other_loss_is_advised():
    found = _probes()["amplitudes"]
    nothing = found | {"zero": 100, "lowest": None, "median": None, "shares": [1.0] + 9 * [0.0]}
    told = masking_checks(_probes(amplitudes=nothing))[2]
    assert told["status"] == "warn"
    assert "median L2 norm of 0 on 100 images; it is exactly 0 on 100." in told["evidence"]
    assert "loss of logits" not in told["evidence"]
    old = masking_checks(_probes(amplitudes=nothing | {"median": float("-inf")}))[2]
    assert "inf" not in old["evidence"]
    small = found | {"lowest": -50.0, "median": -45.0, "shares": [1.0] + 9 * [0.0]}
    assert (
        "a loss of logits may find more"
        in (masking_checks(_probes(amplitudes=small))[2]["evidence"])
    )


def test_no_probe_where_nothing_followed_a_gradient():
    module = _linear()
    model = wrap(module, mean=0.0, std=1.0, num_classes=2, in_chans=1)
    report = verify(model, _source(module), ("square:n_queries=5",), eps=0.1, sweep=False)
    assert report.document["probes"] is None
    validate(report.document)
    clean = report.document["clean"]
    assert not {"gradients-do-not-vanish"} & {
        c["name"] for c in sanity_checks(clean=clean, attacks=[])
    }


def test_random_points_fill_the_ball_and_its_corners():
    """One query a point; half of them at corners, where an image in the interior ends exactly."""
    seen = []

    class Watched(nn.Module):
        def forward(self, images):
            seen.append(images.detach().clone())
            return torch.stack([images.flatten(1).sum(1) * 0, images.flatten(1).sum(1) * 0 + 1], 1)

    images = torch.full((3, 1, 6, 6), 0.5)
    attack = RandomSearch(eps=0.1, points=20)
    result = Engine(Watched()).run(attack, images, torch.ones(3, dtype=torch.int64))
    assert result.queries.forward.tolist() == [21] * 3  # and the clean image
    offsets = torch.stack([(x - 0.5)[0].flatten() for x in seen if x.shape[0] == 3][-20:]) / 0.1
    corners = (offsets.abs() > 1 - 1e-5).all(1)
    assert corners.sum() == 10
    inside = offsets[~corners]
    assert inside.abs().max() <= 1 + 1e-5
    assert inside.mean().abs() < 4 / (3 * inside.numel()) ** 0.5
    assert inside.var().item() == pytest.approx(1 / 3, rel=0.2)
    assert len(offsets.unique(dim=0)) == 20


def test_random_search_breaks_what_is_within_its_reach():
    """A margin below the typical change of random corners falls, one beyond the ball cannot."""
    weight = torch.randn(1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = torch.full((2, 1, 6, 6), 0.5, dtype=torch.float64)
    model = Linear(weight, bias=-float((weight * 0.5).sum()) + 0.5 * 0.1 * float(weight.norm()))
    far = Linear(weight, bias=-float((weight * 0.5).sum()) + 1.01 * 0.1 * float(weight.abs().sum()))
    labels = torch.zeros(2, dtype=torch.int64)
    attack = RandomSearch(eps=0.1, points=200)
    assert run(attack, model, images, labels).success.all()
    assert not run(attack, far, images, labels).success.any()


def test_bad_number_of_points():
    with pytest.raises(ValueError, match="random_search: points must be at least 1, got 0"):
        RandomSearch(points=0)


def test_it_needs_decisions_only():
    model = mlp()
    images, labels = images_and_labels(model)
    assert run(RandomSearch(eps=0.3), model, images, labels).queries.backward.sum() == 0
