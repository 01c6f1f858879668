"""Models that give less than gradients: what they answer, and what is refused before any step."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from models_for_tests import Counting, Linear, images_and_labels, mlp
from torch import nn

from deitsec.attacks import FGSM, PGD, create_attack, list_attacks
from deitsec.engine import Engine, run
from deitsec.engine.access import access_of, enough_for
from deitsec.models.black_box import LabelsOnly, ScoresOnly


def test_scores_are_those_of_the_model_and_carry_no_graph():
    model = mlp()
    images, _ = images_and_labels(model)
    hidden = ScoresOnly(model, num_classes=5)
    logits = hidden(images.requires_grad_())
    assert not logits.requires_grad
    assert torch.equal(logits, model(images).detach())


def test_labels_name_the_class_alone_and_surely():
    model = mlp()
    images, labels = images_and_labels(model)
    logits = LabelsOnly(model, num_classes=5)(images)
    assert torch.equal(logits.argmax(1), labels)
    sure = nn.functional.one_hot(labels, 5).double()
    torch.testing.assert_close(logits.softmax(1), sure, rtol=0, atol=1e-40)


def test_numpy_functions_are_models_too():
    model = mlp()
    images, labels = images_and_labels(model)
    weight = np.random.default_rng(0).normal(size=(36, 5))

    def scores(x):
        assert isinstance(x, np.ndarray)
        exp = np.exp(x.reshape(len(x), -1) @ weight)
        return exp / exp.sum(1, keepdims=True)

    hidden = ScoresOnly(scores, num_classes=5, numpy=True, probabilities=True)
    expected = torch.from_numpy(scores(images.numpy()))
    torch.testing.assert_close(hidden(images).softmax(1), expected)
    named = LabelsOnly(lambda x: scores(x).argmax(1), num_classes=5, numpy=True)
    assert torch.equal(named(images).argmax(1), expected.argmax(1))
    assert hidden(images.half()).dtype == torch.float64  # as precise as the answer
    result = run(create_attack("hopskipjump", max_queries=400), named, images, labels)
    assert result.success.float().mean() > 0.9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ScoresOnly(lambda x: x[:, 0], num_classes=5), "(2, 5) scores"),
        (lambda: LabelsOnly(lambda x: torch.full((2,), 7), num_classes=5), "0 to 4, got 7 to 7"),
        (lambda: LabelsOnly(lambda x: torch.full((2,), 0.5), num_classes=5), "integer classes"),
        (lambda: LabelsOnly(3, num_classes=5), "callable"),
        (lambda: LabelsOnly(mlp(), num_classes=1), "num_classes must be >= 2"),
    ],
)
def test_a_bad_black_box_says_what_is_wrong(make, words):
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        make()(torch.rand(2, 1, 6, 6))


def test_access_is_the_least_of_what_the_modules_give():
    assert access_of(mlp()) == "gradient"
    assert access_of(nn.Sequential(ScoresOnly(mlp(), num_classes=5))) == "scores"
    assert access_of(ScoresOnly(LabelsOnly(mlp(), num_classes=5), num_classes=5)) == "decision"
    model = mlp()
    model.access = "logits"
    with pytest.raises(ValueError, match="access must be one of decision, scores, gradient"):
        access_of(model)


@pytest.mark.parametrize(
    ("wrap", "attack", "words"),
    [
        (
            ScoresOnly,
            PGD(),
            ["pgd needs gradients", "gives scores only", "square_l2 work on scores"],
        ),
        (LabelsOnly, PGD(), ["pgd needs gradients", "gives decisions only", "hopskipjump"]),
        (LabelsOnly, create_attack("spsa"), ["spsa needs scores", "work on decisions"]),
        (
            LabelsOnly,
            create_attack("hopskipjump", target="least-likely"),
            ["ranks the classes by their scores", "target=next"],
        ),
    ],
)
def test_an_attack_that_needs_more_is_refused_before_the_model_is_asked(wrap, attack, words):
    model = Counting(mlp())
    images, labels = images_and_labels(mlp())
    with pytest.raises(ValueError, match=words[0]) as caught:
        run(attack, wrap(model, num_classes=5, name="tree"), images, labels)
    assert model.sizes == []
    assert "\n" not in str(caught.value)
    for word in [*words, "tree"]:
        assert word in str(caught.value)
    if wrap is LabelsOnly:
        assert "spsa work" not in str(caught.value)


def test_no_attack_is_recommended_that_cannot_be_run_on_images_as_it_is():
    """A universal perturbation has to be fitted first, and evolution makes images of nothing."""
    for access in ("decision", "scores", "gradient"):
        names = set(re.findall(r"\w+", enough_for(access)))
        for name in names & set(list_attacks()):
            assert create_attack(name).traits.goal != "anywhere"
        assert "hopskipjump" in names
    assert {"spsa", "square"} < set(re.findall(r"\w+", enough_for("scores")))


class _Rounding(nn.Module):
    """Logits of images rounded through integers: a model that says nothing of its access."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        with torch.no_grad():
            return self.model(images)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_that_turns_out_not_to_be_differentiable_is_named_the_attacks_that_work(precision):
    images, labels = images_and_labels(mlp())
    model = _Rounding(mlp().float())
    engine = Engine(model, precision=precision)
    words = "not depend on its input in a differentiable"
    told = pytest.warns(UserWarning, match=words) if precision == "bf16" else nullcontext()
    with told, pytest.raises(ValueError, match=words) as caught:
        engine.run(PGD(), images.float(), labels)
    assert enough_for("scores") in str(caught.value)
    assert "\n" not in str(caught.value)
    result = engine.run(create_attack("spsa", eps=0.3, steps=5), images.float(), labels)
    assert result.success.any()


def test_options_for_gradients_do_not_trouble_a_black_box():
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)).eval()
    images = torch.rand(9, 6, 6, 6)
    labels = model(images).argmax(1)
    hidden = LabelsOnly(model, num_classes=3)
    engine = Engine(hidden, precision="bf16", channels_last="auto", compile=True)
    plain = Engine(hidden)
    attack = create_attack("hopskipjump", max_queries=320)
    results = [e.run(attack, images, labels) for e in (engine, plain)]
    assert torch.equal(results[0].adv, results[1].adv)
    assert "black box" in engine.explain()["precision"]


# transfer


def test_a_surrogate_that_is_the_model_gives_the_plain_result():
    model = mlp()
    images, labels = images_and_labels(model)
    for attack in (FGSM(eps=0.1), PGD(eps=0.05, steps=10)):
        plain = Engine(model, deterministic=True).run(attack, images, labels)
        moved = Engine(model, deterministic=True, surrogate=model).run(attack, images, labels)
        assert torch.equal(moved.success, plain.success)
        fell = plain.success
        torch.testing.assert_close(moved.adv[fell], plain.adv[fell], rtol=0, atol=1e-12)
        assert moved.refuted.sum() == 0


def test_success_is_what_the_model_says_and_not_the_surrogate():
    model, surrogate = mlp(), mlp(seed=5)
    images, labels = images_and_labels(model, rows=64)
    engine = Engine(LabelsOnly(model, num_classes=5), surrogate=surrogate)
    result = engine.run(PGD(eps=0.3, steps=20), images, labels)
    with torch.no_grad():
        predicted = model(result.adv).argmax(1)
    assert torch.equal(result.success, predicted != labels)
    assert torch.equal(result.logits.argmax(1), predicted)
    assert result.clean_correct.all()
    assert 0 < result.success.sum() < len(images)
    assert result.refuted.sum() > 0  # the surrogate was fooled by more
    assert result.queries.backward.max() == 20


def test_the_surrogates_failures_are_asked_about_too():
    """Where the surrogate never falls, the model still judges its highest loss."""
    weight = torch.ones(1, 6, 6, dtype=torch.float64)
    images = 0.5 + 0.01 * torch.rand(8, 1, 6, 6, dtype=torch.float64)
    model, stubborn = Linear(weight, bias=-18.0), Linear(weight, bias=-1.0)
    labels = model(images).argmax(1)
    result = Engine(model, surrogate=stubborn).run(FGSM(eps=0.1), images, labels)
    assert result.success.all()
    assert (result.claims == 0).all()


def test_a_surrogate_of_other_classes_is_refused():
    images, labels = images_and_labels(mlp())
    with pytest.raises(ValueError, match="same classes, got 5 and 4"):
        Engine(mlp(), surrogate=mlp(classes=4)).run(FGSM(), images, labels.clamp(max=3))


def test_model_and_surrogate_are_left_as_found():
    model, surrogate = mlp().train(), mlp(seed=5).train()
    images, labels = images_and_labels(mlp())
    with pytest.warns(UserWarning, match="train mode"):
        Engine(model, surrogate=surrogate).run(FGSM(), images, labels)
    for one in (model, surrogate):
        assert all(module.training for module in one.modules())
        assert all(parameter.requires_grad for parameter in one.parameters())
