"""One perturbation for all images: its fit, its file, and the attack that applies it."""

import math

import pytest
import torch
from fooling_for_tests import digits, digits_network
from models_for_tests import Linear, mlp
from safetensors.torch import save_file
from torch import nn

from deitsec.attacks import create_attack, format_spec, parse_spec
from deitsec.attacks.universal import Universal
from deitsec.attacks.universal_perturbation import UniversalPerturbation
from deitsec.engine import run, universal_perturbation
from deitsec.verification.measure import _quantize

FITTED, HELD_OUT = (300, 0), (300, 1397)


def _changed(model, images, moved):
    with torch.no_grad():
        return (model(moved).argmax(1) != model(images).argmax(1)).float().mean().item()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 1.5)])
def test_it_fools_held_out_images_more_than_noise_of_the_same_norm(norm, eps):
    model = digits_network()
    images, labels = digits(*FITTED)
    fitted = universal_perturbation(model, images, labels, eps=eps, norm=norm, batch_size=32)
    assert fitted.delta.shape == (1, 8, 8)
    assert fitted.size <= eps * (1 + 1e-6)
    assert fitted.size > 0.5 * eps
    held, _ = digits(*HELD_OUT)
    ours = _changed(model, held, fitted.apply(held))
    generator = torch.Generator().manual_seed(0)
    noisy = []
    for _ in range(20):
        noise = torch.randn(1, 8, 8, generator=generator)
        noise = eps * (noise.sign() if norm == "linf" else noise / noise.norm())
        noisy.append(_changed(model, held, (held + noise).clamp(0, 1)))
    assert ours > max(noisy) + 0.05
    assert ours > 0.25


def test_the_fooling_rate_is_that_of_the_images_it_was_fitted_on():
    model = digits_network()
    images, labels = digits(*FITTED)
    fitted = universal_perturbation(model, images, labels, eps=0.2, batch_size=32, epochs=4)
    assert fitted.fooling_rate == pytest.approx(_changed(model, images, fitted.apply(images)))
    assert len(fitted.rates) == 4
    assert fitted.fooling_rate == max(fitted.rates)


def test_a_target_takes_over_the_answers():
    model = digits_network()
    images, labels = digits(*FITTED)
    fitted = universal_perturbation(model, images, labels, eps=0.3, target=8, batch_size=32)
    held, truth = digits(*HELD_OUT)
    held = held[truth != 8]
    with torch.no_grad():
        before, after = (
            (model(x).argmax(1) == 8).float().mean() for x in (held, fitted.apply(held))
        )
    assert after > before + 0.4
    others = labels != 8
    with torch.no_grad():
        clean = model(images[others]).argmax(1)
        answers = model(fitted.apply(images[others])).argmax(1)
    won = (answers == 8)[clean != 8].float().mean().item()
    assert fitted.fooling_rate == pytest.approx(won)


def test_on_a_linear_model_it_is_the_corner_of_the_ball():
    """Where every label is the same, the optimum is eps times the sign of the weight."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 6, 6, dtype=torch.float64, generator=generator)
    model = Linear(weight)
    images = 0.4 + 0.2 * torch.rand(40, 1, 6, 6, dtype=torch.float64, generator=generator)
    labels = torch.zeros(40, dtype=torch.int64)
    fit = {"epochs": 10, "batch_size": 8, "clip": math.inf}
    linf = universal_perturbation(model, images, labels, eps=0.05, **fit)
    torch.testing.assert_close(linf.delta, -0.05 * weight.sign(), rtol=0, atol=1e-12)
    l2 = universal_perturbation(model, images, labels, eps=0.3, norm="l2", **fit)
    torch.testing.assert_close(l2.delta, -0.3 * weight / weight.norm(), rtol=0, atol=1e-9)


def test_fits_are_the_same_again_and_other_with_another_seed():
    model = digits_network()
    images, labels = digits(100, 0)
    first, again, other = (
        universal_perturbation(model, images, labels, eps=0.1, epochs=2, batch_size=16, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.delta, again.delta)
    assert not torch.equal(first.delta, other.delta)


def test_one_image_that_breaks_the_model_has_no_say():
    """Its gradient is NaN: wherever it stands, the others are fitted as if it were not there."""
    network = digits_network()

    class Brittle(nn.Module):
        def forward(self, x):
            sick = (x.flatten(1).mean(1) > 0.9)[:, None]
            return network(x) * torch.where(sick, torch.nan, 1.0)

    images, labels = digits(63, 0)
    sick = torch.ones(1, 1, 8, 8)
    for place in (0, 40, 63):
        mixed = torch.cat([images[:place], sick, images[place:]])
        named = torch.cat([labels[:place], labels[:1], labels[place:]])
        fit = {"eps": 0.1, "epochs": 3, "batch_size": 64}
        fitted = universal_perturbation(Brittle(), mixed, named, **fit)
        assert fitted.delta.isfinite().all()
        alone = universal_perturbation(Brittle(), images, labels, **fit)
        near = (fitted.delta - alone.delta).abs() < 1e-6
        assert near.float().mean() > 0.9  # signs of sums in another order


def test_images_beyond_the_clip_have_no_say():
    model = digits_network()
    images, labels = digits(50, 0)
    wrong = (labels + 1) % 10  # a cross-entropy far beyond the clip, for a sure model
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(images), wrong, reduction="none")
    chosen = loss > 3
    assert chosen.any()
    fitted = universal_perturbation(
        model, images[chosen], wrong[chosen], eps=0.1, epochs=1, clip=3.0
    )
    assert (fitted.delta == 0).all()


def test_the_model_is_left_as_found():
    model = mlp().train()
    images = torch.rand(20, 1, 6, 6, dtype=torch.float64)
    labels = torch.arange(20) % 5
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match="train mode"):
        universal_perturbation(model, images, labels, epochs=1)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(("norm", "name"), [("linf", "universal"), ("l2", "universal_l2")])
def test_a_saved_one_is_an_attack(tmp_path, norm, name):
    model = digits_network()
    images, labels = digits(*FITTED)
    eps = 0.2 if norm == "linf" else 1.5
    fitted = universal_perturbation(model, images, labels, eps=eps, norm=norm, epochs=3)
    path = tmp_path / "u.safetensors"
    fitted.save(path)
    again = UniversalPerturbation.load(path)
    assert torch.equal(again.delta, fitted.delta)
    assert (again.eps, again.norm, again.target) == (eps, norm, None)
    assert (again.fooling_rate, again.rates) == (fitted.fooling_rate, fitted.rates)
    attack = parse_spec(f"{name}:file={path}")
    assert parse_spec(format_spec(attack)) == attack
    assert attack.radius == eps
    held, truth = digits(100)
    result = run(attack, model, held, truth)
    torch.testing.assert_close(result.adv, fitted.apply(held), rtol=0, atol=0)
    with torch.no_grad():
        assert torch.equal(result.success, model(result.adv).argmax(1) != truth)
    assert (result.queries.backward == 0).all()
    assert (result.distance(norm) <= eps * (1 + 1e-6)).all()
    other = "universal_l2" if name == "universal" else "universal"
    with pytest.raises(ValueError, match=rf"is in {norm}, use {name}:file="):
        create_attack(other, file=str(path))


def test_a_targeted_one_is_judged_by_its_target(tmp_path):
    model = digits_network()
    images, labels = digits(*FITTED)
    path = str(tmp_path / "u.safetensors")
    universal_perturbation(model, images, labels, eps=0.3, target=8, epochs=4).save(path)
    held, truth = digits(100)
    held, truth = held[truth != 8], truth[truth != 8]
    result = run(Universal(file=path, target=8), model, held, truth)
    with torch.no_grad():
        assert torch.equal(result.success, model(result.adv).argmax(1) == 8)
    with pytest.raises(ValueError, match="aims at class 8, got 3"):
        Universal(file=path, target=3)


def test_files_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ValueError, match="universal: file= must name a saved perturbation"):
        create_attack("universal")
    missing, damaged, other = (tmp_path / name for name in ("missing", "damaged", "other"))
    with pytest.raises(ValueError, match="missing: there is no such file"):
        Universal(file=str(missing))
    damaged.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged: no safetensors file"):
        Universal(file=str(damaged))
    save_file({"delta": torch.zeros(1, 8, 8)}, other)
    with pytest.raises(ValueError, match="other: holds no universal perturbation"):
        Universal(file=str(other))
    beyond = {"kind": "deitsec universal perturbation", "eps": "0.1", "norm": "linf", "target": ""}
    beyond |= {"fooling_rate": "nan", "rates": ""}
    save_file({"delta": torch.full((1, 8, 8), 0.5)}, other, metadata=beyond)
    with pytest.raises(ValueError, match=r"other: delta must be within eps=0.1 in linf, got 0.5"):
        Universal(file=str(other))
    save_file({"delta": torch.full((1, 8, 8), torch.nan)}, other, metadata=beyond)
    with pytest.raises(ValueError, match="got nan"):
        Universal(file=str(other))
    small = tmp_path / "small"
    UniversalPerturbation(delta=torch.zeros(1, 6, 6), eps=0.1).save(small)
    images, labels = digits(4)
    with pytest.raises(ValueError, match=r"is for images of \(1, 6, 6\), got \(1, 8, 8\)"):
        run(Universal(file=str(small)), digits_network(), images, labels)


def test_a_report_rounds_its_images_within_the_radius_of_the_file(tmp_path):
    file = tmp_path / "between.pt"
    delta = torch.full((1, 8, 8), 2.6 / 255)
    UniversalPerturbation(delta=delta, eps=2.6 / 255).save(file)
    images, labels = digits(4)
    clean = (images * 200).to(torch.uint8)
    attack = Universal(file=str(file))
    result = run(attack, digits_network(), clean / 255, labels)
    rounded = _quantize(attack, result, clean)
    assert ((rounded.int() - clean.int()).abs() <= 2).all()  # the nearest would be 3
    assert (rounded != clean).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "l1"}, "norm must be linf or l2, got 'l1'"),
        ({"eps": 0.0}, r"eps must be in \(0, 1\]"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"clip": 0.0}, "clip must be > 0"),
        ({"target": 10}, "target must be in 0 to 9, got 10"),
    ],
)
def test_options_out_of_range_are_named(options, words):
    images, labels = digits(20)
    with pytest.raises(ValueError, match=words):
        universal_perturbation(digits_network(), images, labels, **options)


def test_a_target_that_every_image_shows_leaves_nothing():
    images, _ = digits(20)
    with pytest.raises(ValueError, match="every image shows the target class 3"):
        universal_perturbation(
            digits_network(), images, torch.full((20,), 3, dtype=torch.int64), target=3
        )
