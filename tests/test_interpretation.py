"""Saliency against autograd and rollout against hand computations; the model is left alone."""

import pytest
import torch
from models_for_tests import conv, images_and_labels, mlp
from torch import nn
from vits_for_tests import rows, tiny_deit

from deitsec.engine.checked_model import ModelError
from deitsec.engine.parts import look_into
from deitsec.interpretation import attention_rollout, saliency

FIRST = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]], dtype=torch.float64)
SECOND = torch.tensor([[[0.2, 0.4, 0.4], [0.3, 0.3, 0.4], [0.0, 0.5, 0.5]]], dtype=torch.float64)


def test_rollout_of_two_blocks_by_hand():
    found = attention_rollout([FIRST[:, None], SECOND[:, None]])
    # (SECOND + I) / 2 times (FIRST + I) / 2, the first row
    a = [[0.75, 0.15, 0.1], [0.05, 0.9, 0.05], [0.1, 0.1, 0.8]]
    row = [0.6, 0.2, 0.2]
    expected = [sum(row[k] * a[k][j] for k in range(3)) for j in range(3)]
    assert expected == pytest.approx([0.48, 0.29, 0.23])
    assert found[0, 0].tolist() == pytest.approx(expected)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 3, dtype=torch.float64))


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_heads_are_fused_and_rows_sum_to_one(fusion):
    attention = torch.stack([FIRST, SECOND], 1)
    found = attention_rollout([attention], fusion=fusion)
    fused = {"mean": (FIRST + SECOND) / 2, "max": FIRST.max(SECOND), "min": FIRST.min(SECOND)}
    share = fused[fusion][0] + torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found[0], share / share.sum(1, keepdim=True))


def test_the_smallest_weights_are_discarded_but_not_those_of_the_class_token():
    found = attention_rollout([FIRST[:, None]], discard=0.5, prefix=1)
    kept = FIRST[0].clone()  # of the six weights on patches 0.1, 0.2 and 0.2 go
    kept[1, 2] = kept[0, 2] = kept[2, 1] = 0
    share = kept + torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found[0], share / share.sum(1, keepdim=True))


def test_a_rollout_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="fusion must be one of mean, max, min, got 'sum'"):
        attention_rollout([FIRST[:, None]], fusion="sum")
    with pytest.raises(ValueError, match=r"discard must be in \[0, 1\), got 1"):
        attention_rollout([FIRST[:, None]], discard=1)
    with pytest.raises(ValueError, match="one number of tokens, got 2, 3"):
        attention_rollout([FIRST[:, None], FIRST[:, None, :2, :2]])


@pytest.mark.parametrize("given", [True, False])
def test_gradient_saliency_is_the_largest_gradient_over_channels(given):
    model = tiny_deit(channels=3)
    images, predicted = rows(model, 5, (3, 8, 8))
    labels = (predicted + 1) % 5 if given else None
    found = saliency(model, images, labels)
    for row in range(5):
        leaf = images[row : row + 1].clone().requires_grad_()
        answer = model(leaf)[0, predicted[row] if labels is None else labels[row]]
        (grad,) = torch.autograd.grad(answer, leaf)
        largest = grad[0].abs().amax(0)
        torch.testing.assert_close(found[row], largest / largest.max())


@pytest.mark.parametrize(
    ("head", "tokens"), [("average", [0, 1]), ("class", [0]), ("distillation", [1])]
)
def test_rollout_starts_at_the_tokens_that_answer(head, tokens):
    model = tiny_deit(head=head)
    images, _ = rows(model, 3)
    found = saliency(model, images, method="rollout")
    with torch.no_grad():
        attention = look_into(model, images, "attention").attention
    rolled = torch.eye(18, dtype=torch.float64)
    for weights in attention:
        rolled = (0.5 * weights.mean(1) + 0.5 * torch.eye(18, dtype=torch.float64)) @ rolled
    grid = rolled[:, tokens, 2:].mean(1).reshape(3, 1, 4, 4)
    enlarged = nn.functional.interpolate(grid, (8, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(found, enlarged / enlarged.amax((1, 2), keepdim=True))


@pytest.mark.parametrize("method", ["gradient", "rollout"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_change_nothing_and_the_model_is_left_as_found(method, dtype):
    model = tiny_deit().to(dtype).train()
    next(model.parameters()).requires_grad_(False)
    images = rows(tiny_deit(), 7)[0].float()
    modes = [module.training for module in model.modules()]
    learnable = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    whole = saliency(model, images, method=method)
    pieces = saliency(model, images, method=method, batch_size=2)
    torch.testing.assert_close(
        pieces, whole, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 1e-5
    )
    assert whole.shape == (7, 8, 8)
    assert whole.dtype == torch.float32
    assert (whole.amax((1, 2)) == 1).all()
    assert (whole >= 0).all()
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == learnable
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        torch.testing.assert_close(
            saliency(model, images.clone(), method=method), whole, rtol=0, atol=1e-5
        )


def test_a_cnn_has_a_gradient_and_no_rollout():
    model = conv()
    images = images_and_labels(mlp())[0].float()
    assert saliency(model, images).amax((1, 2)).eq(1).all()
    with pytest.raises(ModelError, match="need a vision transformer"):
        saliency(model, images, method="rollout")


def test_a_gradient_of_zero_is_a_map_of_zero():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.stack([0 * x.sum((1, 2, 3)), 1 + 0 * x.sum((1, 2, 3))], 1)

    assert (saliency(Flat(), torch.rand(2, 1, 4, 4)) == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lime"}, "method must be one of gradient, rollout, got 'lime'"),
        ({"labels": torch.zeros(3).long()}, r"labels must be \(24,\) integers"),
        ({"labels": torch.full((24,), 9)}, "labels must be in 0 to 4"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    model = mlp()
    with pytest.raises(ValueError, match=message):
        saliency(model, images_and_labels(model)[0], **change)
    with pytest.raises(ValueError, match=r"images must be finite and in \[0, 1\]"):
        saliency(model, 2 * torch.ones(2, 1, 6, 6))
