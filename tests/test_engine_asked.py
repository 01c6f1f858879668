"""What an attack may ask beyond a gradient, against autograd."""

import pytest
import torch
from models_for_tests import images_and_labels, mlp, problem
from torch import nn

from deitsec.engine.batch import Batch
from deitsec.engine.checked_model import CheckedModel, ModelError
from deitsec.engine.driver import Driver
from deitsec.engine.kept import Kept
from deitsec.engine.preference import Preference
from deitsec.engine.query import EngineQuery
from deitsec.models import load_model
from deitsec.types import State


def _query(model, x, y, *, preference=None, **goal):
    asked = problem(x, y, **goal)
    rows = torch.arange(len(x))
    batch = Batch(
        problem=asked,
        state=State(x=x),
        kept=Kept.nothing(x),
        rows=rows,
        variants=torch.zeros_like(rows),
        real=rows >= 0,
    )
    model.requires_grad_(False)
    driver = Driver(CheckedModel(model, y), module=model)
    return EngineQuery(driver, batch, preference=preference or Preference(first=True)), batch


def _moved(images):
    generator = torch.Generator().manual_seed(5)
    noise = torch.rand(images.shape, dtype=images.dtype, generator=generator) - 0.5
    return (images + 0.3 * noise).clamp(0, 1)


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_ask_gives_loss_gradient_and_logits(loss):
    model = mlp()
    images, labels = images_and_labels(model)
    query, batch = _query(model, images, labels)
    x = _moved(images)
    answer = query.ask(x, labels, loss)
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    if loss == "ce":
        values = nn.functional.cross_entropy(logits, labels, reduction="none")
    else:
        top = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        values = top - logits.gather(1, labels[:, None])[:, 0]
        if loss == "dlr":
            order = logits.sort(1, descending=True).values
            values = values / (order[:, 0] - order[:, 2])
    (grad,) = torch.autograd.grad(values.sum(), leaf)
    torch.testing.assert_close(answer.grad, grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(answer.loss, values.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(answer.logits, logits.detach(), rtol=0, atol=0)
    assert (batch.forwards, batch.backwards, int(batch.kept.clock)) == (1, 1, 1)


def test_targeted_losses_take_their_targets():
    model = mlp()
    images, labels = images_and_labels(model)
    query, _ = _query(model, images, labels)
    targets = (labels + 1) % 5
    answer = query.ask(_moved(images), labels, "targeted_dlr", targets=targets)
    order = answer.logits.sort(1, descending=True).values
    aim = answer.logits.gather(1, targets[:, None])[:, 0]
    label = answer.logits.gather(1, labels[:, None])[:, 0]
    expected = (aim - label) / (order[:, 0] - (order[:, 2] + order[:, 3]) / 2)
    torch.testing.assert_close(answer.loss, expected, rtol=1e-9, atol=1e-12)


def test_an_objective_is_any_formula_of_the_logits():
    model = mlp()
    images, labels = images_and_labels(model)
    query, batch = _query(model, images, labels)
    x = _moved(images)
    answer = query.objective(x, lambda parts: parts.logits.softmax(1).square().sum(1))
    leaf = x.clone().requires_grad_()
    value = model(leaf).softmax(1).square().sum(1)
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    torch.testing.assert_close(answer.grad, grad, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(answer.loss, value.detach(), rtol=1e-12, atol=0)
    assert (batch.kept.score > -torch.inf).all()  # it was offered


def test_a_jacobian_costs_one_forward_pass_and_a_gradient_a_form():
    model = mlp()
    images, labels = images_and_labels(model)
    query, batch = _query(model, images, labels)
    x = _moved(images)
    forms = torch.eye(5, dtype=torch.float64)[:3].expand(len(x), 3, 5)
    logits, grads = query.jacobian(x, lambda _: forms)
    full = torch.func.vmap(torch.func.jacrev(lambda row: model(row[None])[0]))(x)
    torch.testing.assert_close(grads, full[:, :3], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(logits, model(x), rtol=0, atol=0)
    assert (batch.forwards, batch.backwards) == (1, 3)


def test_what_is_seen_through_a_change_is_no_candidate_and_differentiated_through_it():
    model = mlp()
    images, labels = images_and_labels(model)
    query, batch = _query(model, images, labels)
    x = _moved(images)
    answer = query.ask(x, labels, through=lambda image: image.flip(3) * 0.5)
    leaf = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(leaf.flip(3) * 0.5), labels, reduction="sum")
    (grad,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(answer.grad, grad, rtol=1e-9, atol=1e-13)
    assert (batch.kept.score == -torch.inf).all()
    query.logits(x, offer=False)
    assert (batch.kept.score == -torch.inf).all()
    query.predict(x)
    assert (batch.kept.score > -torch.inf).all()


@pytest.mark.parametrize(
    ("classes", "loss"), [(2, "dlr"), (3, "targeted_dlr"), (2, "targeted_dlr")]
)
def test_a_loss_that_compares_more_classes_than_there_are_gives_way_to_the_margin(classes, loss):
    model = mlp(classes=classes)
    images, labels = images_and_labels(model)
    query, _ = _query(model, images, labels)
    targets = (labels + 1) % classes if loss == "targeted_dlr" else None
    with pytest.warns(UserWarning, match="the margin takes its place"):
        answer = query.ask(_moved(images), labels, loss, targets=targets)
    label = answer.logits.gather(1, labels[:, None])[:, 0]
    if targets is None:
        other = answer.logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    else:
        other = answer.logits.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(answer.loss, other - label)


def test_heads_and_attention_of_a_deit_are_those_of_its_layers():
    model = load_model("deit_micro", num_classes=4, image_size=16).eval()
    images = torch.rand(3, 3, 16, 16)
    labels = torch.tensor([0, 1, 2])
    query, _ = _query(model, images, labels)
    x = _moved(images)
    seen = {}

    def heads(parts):
        seen["heads"] = parts.heads
        return parts.heads[0][:, 0]

    answer = query.objective(x, heads, part="heads")
    first, second = model.forward_heads(x)
    torch.testing.assert_close(seen["heads"][1], second)
    torch.testing.assert_close(answer.logits, (first + second) / 2)

    def attention(parts):
        seen["maps"] = parts.attention
        return parts.attention[-1][:, :, 0].square().sum((1, 2))

    answer = query.objective(x, attention, part="attention")
    blocks = model.module.blocks
    assert len(seen["maps"]) == len(blocks)
    for block, found in zip(blocks, seen["maps"], strict=True):
        assert found.shape[:2] == (3, block.attn.num_heads)
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:3]))
    torch.testing.assert_close(answer.logits, model(x), rtol=1e-4, atol=1e-5)
    assert (answer.grad != 0).any()
    # the same by timm's own unfused path
    for block in blocks:
        block.attn.fused_attn = False
    again = query.objective(x, attention, part="attention")
    assert len(seen["maps"]) == len(blocks)
    torch.testing.assert_close(again.grad, answer.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("part", "word"), [("heads", "distillation"), ("attention", "vision")])
def test_a_model_without_the_part_says_so(part, word):
    model = mlp()
    images, labels = images_and_labels(model)
    query, _ = _query(model, images, labels)
    with pytest.raises(ModelError, match=word):
        query.objective(_moved(images), lambda parts: parts.logits[:, 0], part=part)


def test_a_model_without_gradient_is_told_what_would_work():
    model = mlp()
    images, labels = images_and_labels(model)
    query, _ = _query(nn.Sequential(_Argmax(model)), images, labels)
    for ask in (
        lambda: query.ask(images, labels),
        lambda: query.objective(images, lambda parts: parts.logits[:, 0]),
        lambda: query.jacobian(images, lambda logits: logits[:, None]),
    ):
        with pytest.raises(ModelError, match="hopskipjump"):
            ask()


class _Argmax(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return nn.functional.one_hot(self.model(x).argmax(1), 5).double()
