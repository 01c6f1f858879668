"""The protocols of AutoAttack, for any number of classes, and the cheaper evaluation."""

import dataclasses

import pytest
import torch
from models_for_tests import conv, images_and_labels, mlp, problem
from torch import nn

from deitsec.attacks import autoattack, create_attack, format_spec, parse_spec
from deitsec.attacks.autoattack import VERSIONS
from deitsec.attacks.reliable import Reliable
from deitsec.engine import Engine, run

MODEL = mlp()
IMAGES, LABELS = images_and_labels(MODEL, rows=40)
NORMS = {"linf": "", "l2": "_l2", "l1": "_l1"}

# restarts, targets and steps or queries of each stage, from the authors' set_version
STANDARD = {
    "apgd-ce": ("apgd", "ce", 1, 0, 100),
    "apgd-t": ("apgd", "targeted_dlr", 1, 9, 100),
    "fab-t": ("fab", None, 1, 9, 100),
    "square": ("square", None, 1, 0, 5000),
}
PLUS = {
    "apgd-ce": ("apgd", "ce", 5, 0, 100),
    "apgd-dlr": ("apgd", "dlr", 5, 0, 100),
    "fab": ("fab", None, 5, 0, 100),
    "square": ("square", None, 1, 0, 5000),
    "apgd-t": ("apgd", "targeted_dlr", 1, 9, 100),
    "fab-t": ("fab", None, 1, 9, 100),
}
RAND = {
    "apgd-ce": ("apgd", "ce", 1, 0, 100),
    "apgd-dlr": ("apgd", "dlr", 1, 0, 100),
}
IN_L1 = STANDARD | {
    "apgd-ce": ("apgd", "ce", 5, 0, 100),
    "apgd-t": ("apgd", "targeted_dlr", 1, 5, 100),
}
PROTOCOLS = {"standard": STANDARD, "plus": PLUS, "rand": RAND}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_is_the_authors_protocol(version, norm):
    expected = IN_L1 if (version, norm) == ("standard", "l1") else PROTOCOLS[version]
    attack = create_attack("autoattack" + NORMS[norm], eps=0.3, version=version)
    assert attack.names == tuple(expected)
    for stage, said in zip(attack.stages, expected.values(), strict=True):
        name, loss, restarts, targets, steps = said
        assert stage.name == name + NORMS[norm]
        assert stage.traits.norm == norm
        assert stage.radius == 0.3
        assert getattr(stage, "loss", None) == loss
        assert (stage.restarts, stage.num_targets) == (restarts, targets)
        assert getattr(stage, "n_queries", None) == (steps if name == "square" else None)
        assert getattr(stage, "steps", steps) == steps
        if name == "apgd":
            assert stage.eot_iter == (20 if version == "rand" else 1)
            assert getattr(stage, "wider", version == "standard") == (version == "standard")


@pytest.mark.parametrize("suffix", NORMS.values())
def test_the_cheaper_evaluation_is_not_called_autoattack(suffix):
    attack = create_attack("reliable" + suffix)
    assert "autoattack" not in attack.name
    apgd, targeted, look = attack.stages
    whole = create_attack("autoattack" + suffix)
    assert (apgd, targeted) == whole.stages[:2]
    assert look == dataclasses.replace(whole.stages[3], n_queries=200, series=1)


@pytest.mark.parametrize("suffix", NORMS.values())
def test_the_look_and_the_square_of_the_protocol_try_different_images(suffix):
    look = create_attack("reliable" + suffix, eps=0.2).stages[-1]
    square = create_attack("autoattack" + suffix, eps=0.2).stages[-1]
    p = problem(IMAGES, LABELS)
    started, again = look.init(p), square.init(p)
    assert not torch.equal(started.x, again.x)
    proposed = look.propose(p, again, 0.3), square.propose(p, again, 0.3)
    assert not torch.equal(*proposed)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.filterwarnings("ignore:.*the margin takes its place")
def test_few_classes_are_attacked_with_fewer_targets(classes):
    model = mlp(classes=classes)
    images, labels = images_and_labels(model, rows=12)
    attack = create_attack("autoattack", eps=0.05, only="apgd-ce+apgd-t+fab-t")
    result = run(attack, model, images, labels)
    strong = run(create_attack("pgd", eps=0.05, steps=50), model, images, labels)
    assert result.success.sum() >= strong.success.sum()
    assert result.success.any()
    standing = ~result.success
    # cross-entropy, then one target after the other, by APGD and by FAB
    least = 101 * classes + 200 * (classes - 1)
    assert standing.any()
    assert (result.queries.forward[standing] >= least).all()
    assert (result.queries.forward[standing] <= least + 10 * classes).all()


class Flat(nn.Module):
    """A model whose gradients are all 0: its images are rounded first."""

    def __init__(self, model, levels=12):
        super().__init__()
        self.model, self.levels = model, levels

    def forward(self, x):
        rounded = x + ((x * self.levels).round() / self.levels - x).detach()
        return self.model(rounded - x + x.detach())


def test_masked_gradients_bring_the_whole_protocol(monkeypatch):
    monkeypatch.setattr(autoattack, "_QUERIES", 1000)  # of the protocol's Square
    model = Flat(conv(classes=4))
    images = torch.rand(16, 1, 6, 6)
    with torch.no_grad():
        labels = model(images).argmax(1)
    eps = 0.06
    short = Engine(model).run(Reliable(eps=eps, n_queries=50), images, labels)
    whole = Engine(model).run(create_attack("autoattack", eps=eps), images, labels)
    assert not short.driven[~short.success].any()
    standing = ~(short.success | whole.success)
    assert (short.queries.forward[standing] > 1000 + 50 + 4 * 100 + 3 * 200).all()
    assert torch.equal(short.success, whole.success)
    assert whole.success.any()


def test_where_gradients_are_of_use_a_row_costs_a_sixth():
    model = mlp(classes=10, seed=2)
    images, labels = images_and_labels(model, rows=30)
    result = run(Reliable(eps=0.01), model, images, labels)
    standing = ~result.success
    assert standing.any()
    # the protocol asks 101 + 9 * 101 + 9 * 200 + 5,000 times
    assert (result.queries.forward[standing] <= 7810 / 6).all()
    assert (result.queries.backward[standing] == 100 + 900).all()


@pytest.mark.parametrize("name", ["autoattack", "autoattack_l2", "autoattack_l1"])
def test_a_stage_adds_to_those_before_it(name):
    eps = {"autoattack": 0.03, "autoattack_l2": 0.15, "autoattack_l1": 0.4}[name]
    found = [
        run(create_attack(name, eps=eps, only=only), MODEL, IMAGES, LABELS).success
        for only in ("apgd-ce", "apgd-ce+apgd-t", "apgd-ce+apgd-t+fab-t")
    ]
    assert (found[0] <= found[1]).all()
    assert (found[1] <= found[2]).all()
    assert 0 < found[2].sum() < len(IMAGES)


@pytest.mark.parametrize("suffix", NORMS.values())
def test_what_the_nearest_point_attack_left_outside_of_the_ball_is_not_returned(suffix):
    """FAB finds successes beyond eps: they are neither successes nor the best attempt."""
    attack = create_attack("autoattack" + suffix, eps=0.01, only="fab-t")
    result = run(attack, MODEL, IMAGES, LABELS)
    assert (result.distance(attack.traits.norm) <= 0.01 * (1 + 1e-5)).all()
    with torch.no_grad():
        assert torch.equal(MODEL(result.adv).argmax(1) != LABELS, result.success)
    assert result.robust_accuracy == pytest.approx(1 - result.success.double().mean().item())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("autoattack", {"version": "custom"}, "version must be one of standard, plus, rand"),
        ("autoattack", {"only": "apgd"}, "only must name some of apgd-ce, apgd-dlr"),
        ("autoattack", {"eps": 0.0}, r"eps must be in \(0, 1\]"),
        ("autoattack_l2", {"target": 1}, "cannot aim at a class"),
        ("reliable", {"n_queries": 0}, "n_queries must be at least 1, got 0"),
        ("reliable", {"eps": 2.0}, r"eps must be in \(0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_attack(name, **options)


def test_a_spec_reads_back_as_it_was_written():
    attack = parse_spec("autoattack:eps=8/255,version=plus,only=apgd-ce+square")
    assert parse_spec(format_spec(attack)) == attack
    assert [stage.name for stage in attack.stages] == ["apgd", "square"]
