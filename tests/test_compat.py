"""Other libraries' calls on our engine, beside those libraries where they are installed."""

import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.network import digits, stored_network
from golden.peers import ALPHA, EPS, STEPS, peers
from torch import nn

from deitsec.attacks.registry import ATTACKS
from deitsec.compat import art, foolbox, torchattacks

HERE = Path(__file__).parent


def _classes(module, base):
    made = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {n: c for n, c in made.items() if issubclass(c, base) and c is not base}


def _said(face):
    """Our name of a face's attack."""
    given = dict(face.defaults) | {"radius": 0.1}
    return face.say(given)[0]


TORCHATTACKS = _classes(torchattacks, torchattacks.Attack)
FOOLBOX = _classes(foolbox, foolbox.Attack)
ART = _classes(art, art.EvasionAttack)


def _has(cls):
    name = _said(cls.face)
    if name not in ATTACKS:
        pytest.skip(f"there is no {name}")
    return cls


@pytest.fixture(scope="module")
def model():
    return stored_network()


@pytest.fixture(scope="module")
def rows():
    images, labels = digits()
    return images[1000:1040], labels[1000:1040]


def _won(model, adv, labels):
    with torch.no_grad():
        return (model(torch.as_tensor(adv)).argmax(1) != labels).float().mean().item()


def _parameters(cls):
    """Names and defaults, those before the first default left out."""
    given = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in given if p.default is not inspect.Parameter.empty}


@pytest.mark.parametrize("name", TORCHATTACKS)
def test_parameters_and_defaults_are_those_of_torchattacks(name):
    theirs = getattr(pytest.importorskip("torchattacks"), name)
    assert list(_parameters(TORCHATTACKS[name]).items()) == list(_parameters(theirs).items())


@pytest.mark.parametrize("name", FOOLBOX)
def test_parameters_and_defaults_are_those_of_foolbox(name):
    theirs = getattr(pytest.importorskip("foolbox").attacks, name)
    assert _parameters(FOOLBOX[name]) == _parameters(theirs)


@pytest.mark.parametrize("name", ART)
def test_parameters_and_defaults_are_those_of_art(name):
    pytest.importorskip("art")
    theirs = getattr(importlib.import_module("art.attacks.evasion"), name)
    assert _parameters(ART[name]) == _parameters(theirs)


_QUICK = {
    "Square": {"n_queries": 100},
    "AutoAttack": {"eps": 0.2},
    "FAB": {"eps": 0.2, "multi_targeted": True},
    "SquareAttack": {"max_iter": 100},
    "HopSkipJump": {"max_iter": 1},
    "L2CarliniWagnerAttack": {"steps": 30, "binary_search_steps": 2, "stepsize": 0.1},
    "SaliencyMapMethod": {"theta": 1.0},
}


@pytest.mark.parametrize("name", TORCHATTACKS)
def test_every_class_of_torchattacks_attacks(name, model, rows):
    images, labels = (part[:8] for part in rows)
    attack = _has(TORCHATTACKS[name])(model, **_QUICK.get(name, {}))
    adv = attack(images, labels)
    assert adv.shape == images.shape
    assert ((adv >= 0) & (adv <= 1)).all()
    assert not torch.equal(adv, images)
    if "targeted" in attack.supported_mode:
        attack.set_mode_targeted_random()
        assert attack(images, labels).shape == images.shape


@pytest.mark.parametrize("name", FOOLBOX)
def test_every_class_of_foolbox_attacks(name, model, rows):
    images, labels = (part[:8] for part in rows)
    fmodel = foolbox.PyTorchModel(model, bounds=(0, 1))
    attack = _has(FOOLBOX[name])(**_QUICK.get(name, {}))
    raw, clipped, won = attack(fmodel, images, labels, epsilons=torch.tensor([0.05, 0.5]))
    assert won.shape == (2, 8)
    for adv, is_adv in zip(clipped, won, strict=True):
        with torch.no_grad():
            assert torch.equal(model(adv).argmax(1) != labels, is_adv)
    assert len(raw) == 2
    assert not torch.equal(raw[1], images)


@pytest.mark.parametrize("name", ART)
def test_every_class_of_art_attacks(name, model, rows):
    images, labels = (part[:8] for part in rows)
    classifier = art.PyTorchClassifier(model, None, (1, 8, 8), 10, clip_values=(0, 1))
    attack = _has(ART[name])(classifier, **_QUICK.get(name, {}))
    y = None if name == "SaliencyMapMethod" else labels.numpy()
    adv = attack.generate(images.numpy(), y)
    assert adv.dtype == np.float32
    assert adv.shape == images.shape
    assert not np.array_equal(adv, images.numpy())


_OURS = {
    ("torchattacks", "fgsm"): lambda m, x, y: torchattacks.FGSM(m, EPS)(x, y),
    ("torchattacks", "bim"): lambda m, x, y: torchattacks.BIM(m, EPS, ALPHA, STEPS)(x, y),
    ("torchattacks", "mifgsm"): lambda m, x, y: torchattacks.MIFGSM(m, EPS, ALPHA, STEPS)(x, y),
    ("foolbox", "fgsm"): lambda m, x, y: foolbox.FGSM().run(
        foolbox.PyTorchModel(m, (0, 1)), x, y, epsilon=EPS
    ),
    ("foolbox", "bim"): lambda m, x, y: foolbox.LinfBasicIterativeAttack(
        abs_stepsize=ALPHA, steps=STEPS
    ).run(foolbox.PyTorchModel(m, (0, 1)), x, y, epsilon=EPS),
    ("art", "fgsm"): lambda m, x, y: art.FastGradientMethod(_classifier(m), eps=EPS).generate(
        x.numpy(), y.numpy()
    ),
    ("art", "bim"): lambda m, x, y: art.BasicIterativeMethod(
        _classifier(m), eps=EPS, eps_step=ALPHA, max_iter=STEPS
    ).generate(x.numpy(), y.numpy()),
}


def _classifier(model):
    return art.PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1))


@pytest.mark.parametrize(("library", "name"), list(_OURS))
def test_images_are_those_of_the_library(library, name, model, rows):
    """Most to the last value: theirs is the last iterate, ours the best, and fp32 may err."""
    pytest.importorskip(library)
    images, labels = rows
    theirs = torch.as_tensor(peers()[library, name](model, images, labels))
    ours = torch.as_tensor(_OURS[library, name](model, images, labels))
    same = (ours - theirs).abs().flatten(1).amax(1) <= 1e-6
    assert same.float().mean() >= (0.8 if name == "fgsm" else 0.5)
    assert _won(model, ours, labels) >= _won(model, theirs, labels)


@pytest.mark.parametrize("lr", [0.01, 0.1])
def test_carlini_and_wagner_at_one_constant_is_that_of_torchattacks(lr, model, rows):
    images, labels = rows
    theirs = pytest.importorskip("torchattacks").CW(model, lr=lr)(images, labels)
    ours = torchattacks.CW(model, lr=lr).result(images, labels)
    assert ours.success.float().mean() >= _won(model, theirs, labels)
    both = ours.success & (model(theirs).argmax(1) != labels)
    far = (theirs - images).flatten(1).norm(dim=1)[both].median()
    assert ours.distance("l2")[both].median() <= 1.02 * far


def test_modes_of_torchattacks(model, rows):
    images, labels = rows
    attack = torchattacks.PGD(model, eps=0.5, alpha=0.1, steps=20)
    clean = model(images).detach()
    wanted = {
        "targeted(label)": (attack.set_mode_targeted_by_label, (labels + 3) % 10),
        "targeted(custom)": (
            lambda: attack.set_mode_targeted_by_function(lambda x, y: (y + 1) % 10),
            (labels + 1) % 10,
        ),
        "targeted(least-likely)": (
            lambda: attack.set_mode_targeted_least_likely(2),
            clean.scatter(1, labels[:, None], torch.inf).argsort(1)[:, 1],
        ),
    }
    for mode, (switch, targets) in wanted.items():
        switch()
        assert attack.get_mode() == mode
        adv = attack(images, targets if mode == "targeted(label)" else labels)
        assert (model(adv).argmax(1) == targets).float().mean() > 0.8
    attack.set_mode_default()
    assert attack.get_mode() == "default"
    assert not attack.targeted
    with pytest.raises(ValueError, match="APGDT: Targeted mode is not supported"):
        _has(torchattacks.APGDT)(model).set_mode_targeted_random()


def test_normalised_images_come_back_normalised(model, rows):
    images, labels = rows
    mean, std = [0.3], [0.4]

    class Takes(nn.Module):
        def forward(self, x):
            return model(x * 0.4 + 0.3)

    plain = torchattacks.BIM(model, EPS, ALPHA, STEPS)(images, labels)
    attack = torchattacks.BIM(Takes(), EPS, ALPHA, STEPS)
    attack.set_normalization_used(mean, std)
    adv = attack((images - 0.3) / 0.4, labels)
    same = (adv * 0.4 + 0.3 - plain).abs().flatten(1).amax(1) <= 1e-5
    assert same.float().mean() > 0.9


def test_each_call_draws_anew_and_the_seed_decides(model, rows):
    images, labels = rows

    def calls(seed):
        torch.manual_seed(seed)
        attack = torchattacks.PGD(model, eps=EPS, steps=1, alpha=0.001)
        return attack(images, labels), attack(images, labels)

    first, second = calls(1)
    assert not torch.equal(first, second)
    assert torch.equal(first, calls(1)[0])
    assert not torch.equal(first, calls(2)[0])


def test_an_attribute_changed_after_construction_counts(model, rows):
    images, labels = rows
    attack = torchattacks.FGSM(model, eps=0.3)
    attack.eps = 0.01
    assert (attack(images, labels) - images).abs().max() <= 0.01 + 1e-6
    assert "eps=0.01" in repr(attack)


@pytest.mark.parametrize("kind", ["float", "int"])
def test_what_is_saved_is_loaded_and_stays_in_the_ball(kind, model, rows, tmp_path):
    images, labels = rows
    levels = (images * 255).round() / 255
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(levels, labels), batch_size=16
    )
    attack = torchattacks.PGD(model, eps=8 / 255)
    path = str(tmp_path / "adv.pt")
    figures = attack.save(
        loader, path, verbose=False, return_verbose=True, save_type=kind, save_predictions=True
    )
    (batch,) = torchattacks.Attack.load(path, load_predictions=True)
    adv, truth, predicted = batch
    assert torch.equal(truth, labels)
    assert (adv - levels).abs().max() <= 8 / 255 + 1e-6
    assert figures[0] == pytest.approx(100 * (predicted == labels).double().mean().item())
    theirs = torch.load(path, weights_only=True)
    assert set(theirs) == {"adv_inputs", "labels", "preds", "save_type"}


def test_bounds_and_preprocessing_of_foolbox(model, rows):
    images, labels = rows

    class Bytes(nn.Module):
        def forward(self, x):
            return model((x.flip(1) * 40 + 30) / 255)

    steps = {"mean": [30.0], "std": [40.0], "axis": -3, "flip_axis": -3}
    fmodel = foolbox.PyTorchModel(Bytes(), (0, 255), preprocessing=steps)
    torch.testing.assert_close(fmodel(images * 255), model(images), rtol=1e-4, atol=1e-4)
    attack = foolbox.LinfBasicIterativeAttack()
    raw, clipped, won = attack(fmodel, images * 255, labels, epsilons=25.5)
    plain = attack(foolbox.PyTorchModel(model, (0, 1)), images, labels, epsilons=0.1)
    assert torch.equal(raw, clipped)
    assert (raw - images * 255).abs().max() <= 25.5 + 1e-3
    assert (won == plain[2]).float().mean() > 0.95
    with pytest.raises(ValueError, match="axis=-3"):
        foolbox.PyTorchModel(model, (0, 1), preprocessing={"mean": 0.0, "axis": -1})


def test_targets_and_radii_of_foolbox(model, rows):
    images, labels = rows
    fmodel = foolbox.PyTorchModel(model, (0, 1))
    targets = (labels + 1) % 10
    criterion = foolbox.criteria.TargetedMisclassification(targets)
    adv, _, won = foolbox.LinfPGD()(fmodel, images, criterion, epsilons=0.4)
    with torch.no_grad():
        assert torch.equal(won, model(adv).argmax(1) == targets)
    assert won.any()
    with pytest.raises(ValueError, match="epsilons must be numbers"):
        foolbox.LinfPGD()(fmodel, images, labels, epsilons=None)


def test_a_nearest_success_of_foolbox_is_cut_off_at_each_radius(model, rows):
    images, labels = rows
    attack = _has(foolbox.L2CarliniWagnerAttack)(
        binary_search_steps=3, steps=60, stepsize=0.05, initial_const=1.0
    )
    fmodel = foolbox.PyTorchModel(model, (0, 1))
    raw, clipped, won = attack(fmodel, images, labels, epsilons=[None, 0.2, 1.0])
    distance = (raw[0] - images).flatten(1).norm(dim=1)
    assert won[0].float().mean() > 0.9
    for adv, is_adv, radius in zip(clipped[1:], won[1:], (0.2, 1.0), strict=True):
        assert ((adv - images).flatten(1).norm(dim=1) <= radius * (1 + 1e-5)).all()
        assert torch.equal(is_adv[distance <= radius], won[0][distance <= radius])
    assert won[1].sum() < won[2].sum() <= won[0].sum()


def test_labels_and_ranges_of_art(model, rows):
    images, labels = rows

    class Bytes(nn.Module):
        def forward(self, x):
            return model(x / 255)

    wide = art.PyTorchClassifier(Bytes(), None, (1, 8, 8), 10, clip_values=(0, 255))
    x = (images * 255).numpy()
    one_hot = np.eye(10)[labels.numpy()]
    attack = art.FastGradientMethod(wide, eps=25.5)
    adv = attack.generate(x, one_hot)
    assert np.abs(adv - x).max() <= 25.5 + 1e-3
    np.testing.assert_allclose(adv, attack.generate(x, labels.numpy()), rtol=0, atol=1e-4)
    right = wide.predict(x).argmax(1) == labels.numpy()
    np.testing.assert_allclose(attack.generate(x)[right], adv[right], rtol=0, atol=1e-4)
    targeted = art.ProjectedGradientDescent(wide, eps=120.0, eps_step=12.0, targeted=True)
    with pytest.raises(ValueError, match="target labels y need to be provided"):
        targeted.generate(x)
    aims = (labels.numpy() + 1) % 10
    assert (wide.predict(targeted.generate(x, aims)).argmax(1) == aims).mean() > 0.8


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: torchattacks.PGD(m, epsilon=1), "PGD().*epsilon"),
        (lambda m: torchattacks.PGD(m, eps=0), "eps must be in"),
        (lambda m: torchattacks.DIFGSM(m, random_start=True), "random_start"),
        (lambda m: torchattacks.DIFGSM(m, resize_rate=1.1), "resize_rate"),
        (lambda m: torchattacks.APGD(m, norm="L7"), "norm must be one of.*'L7'"),
        (lambda m: foolbox.L2DeepFoolAttack(loss="crossentropy"), "loss must be 'logits'"),
        (lambda m: foolbox.PyTorchModel(m, (1, 0)), "bounds must rise"),
        (lambda m: _classifier_without(m), "clip_values"),
        (lambda m: art.FastGradientMethod(_classifier(m), minimal=True), "minimal"),
        (lambda m: art.PyTorchClassifier(m, nn.MSELoss(), (1,), 2, clip_values=(0, 1)), "loss"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(make, words, model):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        make(model)
    assert "\n" not in str(caught.value)


def _classifier_without(model):
    return art.PyTorchClassifier(model, None, (1, 8, 8), 10)


def _snippets():
    text = (HERE.parent / "docs" / "compat.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("number", range(len(_snippets())))
def test_the_snippets_of_the_page_run(number, model, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = rows
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), 16)
    names = {"model": model, "images": images, "labels": labels, "loader": loader}
    exec(compile(_snippets()[number], f"docs/compat.md snippet {number}", "exec"), names)
    assert torch.as_tensor(names.get("adv", names.get("raw"))).isfinite().all()
