"""AdvGAN as an attack: what its file says, what it makes of an image, and what it refuses."""

import dataclasses
import json
import pickle

import pytest
import torch
from attacks_for_tests import generator_file
from models_for_tests import images_and_labels, mlp
from safetensors.torch import load_file, save_file

from deitsec.attacks import PGD, AdvGAN, PerturbationGenerator, format_spec, parse_spec
from deitsec.attacks.generator_network import GeneratorNetwork
from deitsec.engine import Engine, run
from deitsec.models import model_sha256

SHAPE, CLASSES = (1, 6, 6), 5
TRANSFER = "ignore:advgan. what it applies was made for another model"
pytestmark = pytest.mark.filterwarnings(TRANSFER)


def _generator(*, target=None, eps=0.2, sha256="0" * 64, seed=0, shape=SHAPE):
    torch.manual_seed(seed)
    network = GeneratorNetwork(shape[0], blocks=1, classes=CLASSES if target == "any" else 0)
    with torch.no_grad():
        network.leave.weight.mul_(8)
    return PerturbationGenerator(
        network=network.requires_grad_(False).eval(),
        eps=eps,
        shape=shape,
        num_classes=CLASSES,
        target=target,
        model={"name": "mlp", "sha256": sha256},
        training={"settings": {"seed": 3}},
    )


def _saved(tmp_path, name="g", **options):
    path = tmp_path / f"{name}.safetensors"
    _generator(**options).save(path)
    return str(path)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (8, 8), (33, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_takes_images_of_any_size_row_by_row(channels, height, width):
    network = GeneratorNetwork(channels, classes=4).double().eval()
    images = torch.rand(5, channels, height, width, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        whole = network(images, classes)
        alone = torch.cat([network(images[i : i + 1], classes[i : i + 1]) for i in range(5)])
    assert whole.shape == images.shape
    assert whole.abs().max() <= 1
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)


def test_a_class_changes_what_is_made_also_where_maps_are_normalised():
    network = GeneratorNetwork(1, classes=3).eval()
    images = torch.rand(1, 1, 8, 8).expand(3, -1, -1, -1)
    with torch.no_grad():
        made = network(images, torch.arange(3))
    assert (made[0] - made[1]).abs().max() > 1e-3
    assert (made[1] - made[2]).abs().max() > 1e-3


def test_a_network_out_of_range_is_refused():
    with pytest.raises(ValueError, match="width must be a multiple of 4, got 6"):
        GeneratorNetwork(1, width=6)
    with pytest.raises(ValueError, match="needs channels >= 1"):
        GeneratorNetwork(0)


@pytest.mark.parametrize("eps", [None, 0.07])
def test_an_image_is_clean_plus_eps_times_the_network_cut_to_ball_and_box(tmp_path, eps):
    made = _generator()
    path = _saved(tmp_path)
    model = mlp()
    images, labels = images_and_labels(model)
    with torch.no_grad():
        unit = made.network.double()(images)
    radius = eps or 0.2
    expected = (images + (0.2 * unit).clamp(-radius, radius)).clamp(0, 1)
    attack = AdvGAN(generator=path, eps=eps)
    assert attack.radius == radius
    result = run(attack, model, images, labels)
    torch.testing.assert_close(result.adv, expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(result.success, model(expected).argmax(1) != labels)
    assert (result.queries.backward == 0).all()


def test_each_image_costs_the_generator_one_forward_pass(tmp_path, monkeypatch):
    seen = []
    forward = GeneratorNetwork.forward

    def counted(self, images, classes=None):
        seen.append(len(images))
        return forward(self, images, classes)

    attack = AdvGAN(generator=_saved(tmp_path))
    monkeypatch.setattr(GeneratorNetwork, "forward", counted)
    model = mlp()
    images, labels = images_and_labels(model)
    result = Engine(model, batch_size=7).run(attack, images, labels)
    assert sum(seen) == len(images)
    # the image that was made, and the clean one, which the engine has to judge
    assert (result.queries.forward <= 2).all()


def test_a_file_holds_all_of_it_and_the_spec_makes_the_attack_again(tmp_path):
    made, path = _generator(), _saved(tmp_path)
    again = PerturbationGenerator.load(path)
    for name, tensor in made.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor), name
    assert again.card() == made.card()
    attack = parse_spec(f"advgan:generator={path},eps=26/255")
    assert parse_spec(format_spec(attack)) == attack
    assert format_spec(attack) == f"advgan:generator={path},eps=26/255"
    assert format_spec(AdvGAN(generator=path)) == f"advgan:generator={path}"
    assert pickle.loads(pickle.dumps(attack)) == attack
    assert dataclasses.replace(attack, eps=0.05).radius == 0.05


def test_the_radius_of_other_attacks_does_not_reach_it(tmp_path):
    path = _saved(tmp_path)
    assert parse_spec(f"advgan:generator={path}", eps=0.5).radius == 0.2
    assert parse_spec("pgd", eps=0.5).radius == 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"quantize": True},
        {"precision": "bf16"},
        {"precision": "bf16", "quantize": True, "batch_size": 5},
        {"stop": "never", "compaction": False},
        {"deterministic": True, "batch_size": 8},
    ],
    ids=str,
)
def test_success_is_the_models_whatever_the_engine_does(tmp_path, options):
    model = mlp().float()
    images, labels = images_and_labels(mlp())
    images = (images.float() * 255).round() / 255
    result = Engine(model, **options).run(AdvGAN(generator=_saved(tmp_path)), images, labels)
    with torch.no_grad():
        assert torch.equal(result.success, model(result.adv).argmax(1) != labels)
    assert result.success.any()
    assert (result.distance("linf") <= 0.2 * (1 + 1e-6)).all()
    assert ((result.adv >= 0) & (result.adv <= 1)).all()
    if options.get("quantize"):
        levels = result.adv * 255
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
        assert ((levels - images * 255).abs().round() <= 51).all()


def test_one_class_is_aimed_at_when_it_is_targeted(tmp_path):
    path = _saved(tmp_path, target=2, eps=0.5)
    model = mlp()
    images, labels = images_and_labels(model)
    images, labels = images[labels != 2], labels[labels != 2]
    result = run(AdvGAN(generator=path, target=2), model, images, labels)
    with torch.no_grad():
        assert torch.equal(result.success, model(result.adv).argmax(1) == 2)
    with pytest.raises(ValueError, match="for class 2 alone: give target=2; got no target"):
        run(AdvGAN(generator=path), model, images, labels)
    with pytest.raises(ValueError, match="for class 2 alone: give target=2; got target=3"):
        AdvGAN(generator=path, target=3)
    with pytest.raises(ValueError, match="got other targets"):
        run(AdvGAN(generator=path), model, images, labels, (labels + 1) % 5)


def test_any_class_can_be_aimed_at_and_several_in_turn():
    path = generator_file(SHAPE, CLASSES, aimed=True)
    model = mlp()
    images, labels = images_and_labels(model)
    one = run(AdvGAN(generator=path, eps=0.2, target="next"), model, images, labels)
    assert torch.equal(one.targets, (labels + 1) % CLASSES)
    all_ = run(AdvGAN(generator=path, eps=0.2, num_targets=4), model, images, labels)
    with torch.no_grad():
        assert torch.equal(all_.success, model(all_.adv).argmax(1) != labels)
    assert (all_.success >= one.success).all()  # the next class is one of the four
    with pytest.raises(ValueError, match="for targets: give target=next; got no target"):
        run(AdvGAN(generator=path), model, images, labels)


def test_one_that_makes_labels_lose_cannot_aim(tmp_path):
    path = _saved(tmp_path)
    model = mlp()
    images, labels = images_and_labels(model)
    for options in ({"target": "next"}, {"target": 1}, {"num_targets": 2}):
        with pytest.raises(ValueError, match="to make labels lose: give no target; got "):
            AdvGAN(generator=path, **options)
    with pytest.raises(ValueError, match="to make labels lose: give no target; got targets"):
        run(AdvGAN(generator=path), model, images, labels, (labels + 1) % 5)


def test_images_classes_and_radii_that_it_was_not_trained_for_are_refused_in_a_line(tmp_path):
    path = _saved(tmp_path)
    model = mlp(pixels=64)
    images, labels = images_and_labels(model, side=8)
    for wrong in (images, torch.rand(24, 3, 6, 6)):
        with pytest.raises(ValueError, match=r"is for images of \(1, 6, 6\), got") as caught:
            run(AdvGAN(generator=path), model, wrong, labels)
        assert "\n" not in str(caught.value)
    fewer = mlp(classes=3)
    images, labels = images_and_labels(fewer)
    with pytest.raises(ValueError, match="a model of 5 classes, got one of 3") as caught:
        run(AdvGAN(generator=path), fewer, images, labels)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"was trained for eps=0\.2, got the larger 0\.3"):
        AdvGAN(generator=path, eps=0.3)
    with pytest.raises(ValueError, match=r"eps must be in \(0, 1\]"):
        AdvGAN(generator=path, eps=0.0)


@pytest.mark.filterwarnings("error")
def test_another_model_than_it_was_trained_against_is_said(tmp_path):
    model, other = mlp(), mlp(seed=1)
    path = _saved(tmp_path, sha256=model_sha256(model))
    images, labels = images_and_labels(model)
    engine = Engine(model)
    engine.run(AdvGAN(generator=path), images, labels)
    assert engine.explain()["made_for"].startswith("this model: mlp")
    engine.run(PGD(), images, labels)
    assert "made_for" not in engine.explain()
    engine = Engine(other)
    with pytest.warns(UserWarning, match="another model, a transfer attack: mlp, sha256"):
        engine.run(AdvGAN(generator=path), images, labels)
    assert engine.explain()["made_for"].startswith("another model, a transfer attack: mlp")


def _rewritten(path, **changes):
    """The file with another card: a value replaced, or taken away by Ellipsis."""
    card = {"format": 1, **PerturbationGenerator.load(path).card()} | changes
    card = {key: value for key, value in card.items() if value is not ...}
    save_file(load_file(path), path, {"deitsec_generator": json.dumps(card)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "must be an object of format 1"),
        ({"eps": ...}, "card lacks 'eps'"),
        ({"eps": float("nan")}, "eps must be in"),
        ({"width": 16}, "does not fit its own card: Error.* in loading state_dict"),
        ({"width": 1 << 30}, "are too many"),
        ({"blocks": 1 << 30}, "are too many"),
        ({"shape": [3, 6, 6]}, "does not fit its own card"),
        ({"shape": "abc"}, "does not fit its own card"),
        ({"target": "least-likely"}, "target must be a class, 'any' or null"),
        ({"target": 7}, "target must be in 0 to 4, got 7"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"model": {"name": "x"}}, "model must say name and sha256"),
        ({"model": None}, "does not fit its own card"),
    ],
    ids=str,
)
def test_a_card_that_does_not_fit_is_one_line(tmp_path, changes, words):
    path = _saved(tmp_path)
    _rewritten(path, **changes)
    with pytest.raises(ValueError, match=words) as caught:
        AdvGAN(generator=path)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(ValueError, match="generator= must name a trained generator"):
        AdvGAN()
    missing, damaged, other = (tmp_path / name for name in ("missing", "damaged", "other"))
    with pytest.raises(ValueError, match="missing: there is no such file"):
        AdvGAN(generator=str(missing))
    damaged.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged: no safetensors file"):
        AdvGAN(generator=str(damaged))
    save_file({"delta": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="other: holds no generator; `deitsec train-generator`"):
        AdvGAN(generator=str(other))
    save_file({"delta": torch.zeros(1)}, other, {"deitsec_generator": "{"})
    with pytest.raises(ValueError, match="card is not JSON"):
        AdvGAN(generator=str(other))
    path = _saved(tmp_path)
    tensors = load_file(path)
    tensors["leave.bias"][0] = torch.nan
    card = {"format": 1, **PerturbationGenerator.load(path).card()}
    save_file(tensors, path, {"deitsec_generator": json.dumps(card)})
    with pytest.raises(ValueError, match="a weight of the generator is not finite"):
        AdvGAN(generator=path)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        _generator().save(tmp_path / "g.pt")


def test_what_apply_is_given_has_to_fit():
    images = torch.rand(2, 1, 6, 6)
    with pytest.raises(ValueError, match="takes no targets"):
        _generator().apply(images, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="needs targets"):
        _generator(target="any").apply(images)
    with pytest.raises(ValueError, match=r"eps must be in \(0, 0.2\], as trained, got 0.3"):
        _generator().apply(images, eps=0.3)
