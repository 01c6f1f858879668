import warnings

import pytest
import torch
from models_for_tests import conv, images_and_labels, mlp
from torch import nn

from deitsec import ops
from deitsec.attacks import FGSM, PGD
from deitsec.engine import Engine
from deitsec.models import wrap


def _rows(model, rows=48):
    images, _ = images_and_labels(mlp(), rows=rows)
    images = images.float()
    with torch.no_grad():
        return images, model(images).argmax(1)


class LostInHalf(nn.Module):
    """Its bf16 answer turns as the first pixel rises; where `stubborn`, the fp32 one never does."""

    def __init__(self, stubborn=True):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.stubborn = stubborn

    def forward(self, x):
        z = x.flatten(1).to(self.scale.dtype) * self.scale
        rise = z[:, 0] - 0.5
        if z.dtype == torch.float32 and self.stubborn:
            rise = rise * 1e-3
        return torch.stack([0.1 + 0 * rise, rise * 4], 1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("options", [{}, {"compaction": False}, {"stop": "never"}])
@pytest.mark.parametrize("batch_size", [48, 12])
def test_a_success_is_one_in_fp32(precision, options, batch_size):
    model = conv()
    images, labels = _rows(model)
    engine = Engine(model, precision=precision, batch_size=batch_size, **options)
    result = engine.run(PGD(eps=0.02, alpha=0.004, steps=12), images, labels)
    with torch.no_grad():
        logits = model(result.adv)
    assert torch.equal(result.success, logits.argmax(1) != labels)
    assert 0 < result.success.sum() < len(images)
    torch.testing.assert_close(result.logits, logits, rtol=1e-5, atol=1e-5)
    assert (result.refuted <= result.claims).all()
    rate = result.refuted.sum() / result.claims.sum()
    assert result.disagreement == pytest.approx(float(rate))
    assert result.distance("linf").max() <= 0.02 * (1 + 1e-5)


@pytest.mark.parametrize("options", [{}, {"compaction": False}, {"stop": "never"}])
def test_claims_that_fp32_refutes_do_not_count(options):
    model = LostInHalf()
    images = torch.full((8, 1, 2, 2), 0.5)
    labels = torch.zeros(8, dtype=torch.int64)
    engine = Engine(model, precision="bf16", **options)
    result = engine.run(PGD(eps=0.1), images, labels)
    assert not result.success.any()
    assert (result.claims >= 1).all()
    assert torch.equal(result.claims, result.refuted)
    assert result.disagreement == 1
    assert result.robust_accuracy == 1
    assert (result.steps == -1).all()
    agreeing = Engine(LostInHalf(stubborn=False), precision="bf16", **options)
    result = agreeing.run(PGD(eps=0.1), images, labels)
    assert result.success.all()
    assert result.disagreement == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("compaction", [True, False])
@pytest.mark.parametrize("stop", ["first_success", "never"])
def test_quantized_images_are_levels_and_were_judged_as_such(precision, compaction, stop):
    model = conv()
    images, labels = _rows(model, rows=64)
    eps = 6.5 / 255
    engine = Engine(
        model,
        precision=precision,
        compaction=compaction,
        stop=stop,
        quantize=True,
        batch_size=64,
    )
    result = engine.run(PGD(eps=eps, alpha=1 / 255, steps=15), images, labels)
    levels = (result.adv * 255).round()
    assert torch.equal(result.adv, levels / 255)
    assert ops.grey_levels(eps) == 6
    reach = eps + 1e-3 / 255  # the images lie between levels
    assert (result.adv - images).abs().max() <= reach
    with torch.no_grad():
        assert torch.equal(result.success, model(result.adv).argmax(1) != labels)
    assert 0 < result.success.sum() < len(images)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("gap", [27.6, 60.0, 92.0])
def test_the_gradient_of_a_confident_row_does_not_vanish(precision, gap):
    """At a softmax gap of 1e-12 and far below, down to the smallest fp32 numbers."""

    class Confident(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]]))

        def forward(self, x):
            z = x.flatten(1).to(self.weight.dtype) @ self.weight.T
            return z + torch.tensor([[gap, 0.0]]).to(z.dtype)

    images = torch.full((2, 1, 2, 2), 0.5)
    labels = torch.zeros(2, dtype=torch.int64)
    engine = Engine(Confident(), precision=precision, stop="never")
    result = engine.run(FGSM(eps=0.1, target=1), images, labels)
    assert result.finite.all()
    assert result.driven.all()
    torch.testing.assert_close(result.adv, images - 0.1)
    untargeted = engine.run(FGSM(eps=0.1), images, labels)
    assert untargeted.finite.all()
    assert untargeted.driven.all()
    torch.testing.assert_close(untargeted.adv, images - 0.1)


class Uncopyable(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)

    def __deepcopy__(self, memo):
        raise RuntimeError("holds a lock")


class OnlyWide(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            raise RuntimeError("wants fp32\nand says so at length")
        if next(self.parameters()).dtype != torch.float32:
            raise RuntimeError("wants fp32")
        return self.model(x)


def test_a_model_that_cannot_be_copied_runs_under_autocast():
    model = Uncopyable(conv())
    images, labels = _rows(model)
    engine = Engine(model, precision="bf16", channels_last=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = engine.run(PGD(eps=0.02), images, labels)
    assert "bf16 (autocast)" in engine.explain()["precision"]
    with torch.no_grad():
        assert torch.equal(result.success, model(result.adv).argmax(1) != labels)


def test_a_model_that_fails_in_half_precision_runs_in_fp32_and_says_why():
    model = OnlyWide(conv())
    images, labels = _rows(model)
    engine = Engine(model, precision="bf16")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = engine.run(PGD(eps=0.02), images, labels)
        engine.run(PGD(eps=0.02), images, labels)
    assert ["wants fp32" in str(warning.message) for warning in caught] == [True]
    said = engine.explain()["precision"]
    assert said.startswith("fp32: bf16 was asked for, but ")
    assert "wants fp32" in said
    assert "\n" not in said
    plain = Engine(model.model).run(PGD(eps=0.02), images, labels)
    assert torch.equal(result.success, plain.success)
    assert (result.claims == 0).all()


def test_tf32_on_a_cpu_is_fp32_and_says_why():
    model = conv()
    images, labels = _rows(model)
    engine = Engine(model, precision="tf32")
    with pytest.warns(UserWarning, match="a cpu has none"):
        result = engine.run(FGSM(eps=0.02), images, labels)
    assert engine.explain()["precision"] == "fp32: tf32 was asked for, but a cpu has none"
    assert torch.equal(result.adv, Engine(model).run(FGSM(eps=0.02), images, labels).adv)


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"channels_last": True}])
def test_the_copy_follows_weights_that_were_trained_meanwhile(options):
    model = conv(seed=0)
    images, labels = _rows(model)
    engine = Engine(model, **options)
    attack = PGD(eps=0.02)
    engine.run(attack, images, labels)
    model.load_state_dict(conv(seed=5).state_dict())
    labels = model(images).argmax(1)
    again = engine.run(attack, images, labels)
    fresh = Engine(model, **options).run(attack, images, labels)
    assert again.success.any()
    assert torch.equal(again.success, fresh.success)
    assert torch.equal(again.adv, fresh.adv)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_callers_model_keeps_its_weights_as_they_are(precision, channels_last):
    model = wrap(conv(), mean=[0.5], std=[0.3], num_classes=4, in_chans=1)
    images, labels = _rows(model)

    def looks():
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {
            name: (t.data_ptr(), t.dtype, t.stride(), t.requires_grad, t.detach().clone())
            for name, t in tensors.items()
        }

    before = looks()
    engine = Engine(model, precision=precision, channels_last=channels_last)
    engine.run(PGD(eps=0.02), images, labels)
    for name, (*facts, values) in looks().items():
        assert facts == list(before[name][:-1]), name
        assert torch.equal(values, before[name][-1]), name
    assert "a copy of the weights" in engine.explain()["precision"]


def test_a_batch_is_measured_in_half_precision_too():
    model = conv()
    images, labels = _rows(model, rows=64)
    engine = Engine(model, precision="bf16")
    engine.run(PGD(eps=0.02, steps=10), images, labels)
    assert "measured on 64" in engine.explain()["batch_size"]
