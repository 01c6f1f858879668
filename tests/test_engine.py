import pytest
import torch
from models_for_tests import images_and_labels, mlp
from torch import nn

from deitsec.attacks import FGSM, PGD
from deitsec.engine import Engine, ModelError, run


class Calls(nn.Module):
    """Counts forward passes and can fail beyond a batch size."""

    def __init__(self, model, limit=None):
        super().__init__()
        self.model, self.limit, self.sizes = model, limit, []

    def forward(self, x):
        self.sizes.append(len(x))
        if self.limit is not None and len(x) > self.limit:
            raise torch.OutOfMemoryError("pretended")
        return self.model(x)


def test_no_forward_pass_is_spent_on_testing_success():
    model = Calls(mlp())
    images, labels = images_and_labels(model.model)
    result = run(FGSM(eps=0.1), model, images, labels)
    assert len(model.sizes) == 2  # the clean gradient, and the adversarial image
    assert result.queries.forward.tolist() == [2] * len(images)
    assert result.queries.backward.tolist() == [1] * len(images)
    model.sizes.clear()
    result = run(PGD(eps=0.1, steps=10), model, images, labels)
    assert len(model.sizes) == 12  # ten steps, the last iterate, the clean image


def test_memory_running_out_halves_the_batch_and_loses_nothing():
    model = mlp()
    images, labels = images_and_labels(model)
    attack = PGD(eps=0.1)
    whole = Engine(model, batch_size=24).run(attack, images, labels)
    cramped = Engine(Calls(model, limit=7), batch_size=24).run(attack, images, labels)
    assert torch.equal(cramped.adv, whole.adv)
    assert cramped.batch_size <= 6
    with pytest.raises(torch.OutOfMemoryError):
        Engine(Calls(model, limit=0)).run(attack, images, labels)


def test_progress_reaches_the_end():
    model = mlp()
    images, labels = images_and_labels(model)
    seen = []
    Engine(model, batch_size=10).run(
        FGSM(), images, labels, progress=lambda done, rows: seen.append((done, rows))
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (24, 24)
    assert {rows for _, rows in seen} == {24}


def test_first_success_is_kept_or_the_highest_loss():
    model = mlp()
    images, labels = images_and_labels(model)
    attack = PGD(eps=0.5, steps=20)
    first = Engine(model, stop="first_success").run(attack, images, labels)
    best = Engine(model, stop="never").run(attack, images, labels)
    assert torch.equal(first.success, best.success)
    assert torch.equal(first.steps, best.steps)

    def loss(result):
        return nn.functional.cross_entropy(result.logits, labels, reduction="none")

    assert (loss(best) >= loss(first)).all()
    assert (loss(best) > loss(first)).any()


class NanGradient(nn.Module):
    """Finite logits, but a NaN gradient for images whose first pixel is above 0.5."""

    def forward(self, x):
        z = x.flatten(1)
        # sqrt has an infinite slope at 0, and 0 * inf is NaN
        odd = torch.where(z[:, 0] > 0.5, z[:, 0] * 0, z[:, 0] * 0 + 1).sqrt() * 0
        return torch.stack([z.sum(1) + odd, -z.sum(1) + 20], 1)


def test_a_nan_gradient_stops_its_row_and_no_other():
    images = torch.full((4, 1, 4, 4), 0.6)
    images[::2, :, 0, 0] = 0.4
    labels = torch.zeros(4, dtype=torch.int64)
    result = run(PGD(eps=0.1, random_start=False), NanGradient(), images, labels)
    assert result.finite.tolist() == [True, False, True, False]
    assert result.adv.isfinite().all()
    assert torch.equal(result.adv[1::2], images[1::2])
    assert (result.adv[::2] < images[::2]).all()


def test_an_output_that_turns_nan_is_not_taken_for_an_answer():
    class NanAboveHalf(nn.Module):
        def forward(self, x):
            z = x.flatten(1).sum(1)
            return torch.stack([-z, z - 1], 1) / (x.flatten(1)[:, 0] < 0.5)[:, None].float()

    images, labels = torch.full((2, 1, 1, 2), 0.45), torch.ones(2, dtype=torch.int64)
    images[1] = 0.3
    labels = torch.zeros(2, dtype=torch.int64)
    result = run(FGSM(eps=0.1), NanAboveHalf(), images, labels)
    assert result.logits.isfinite().all()
    assert result.finite.tolist() == [False, True]


def test_a_row_without_any_gradient_is_marked():
    class Half(nn.Module):
        def forward(self, x):
            z = x.flatten(1).sum(1)
            z = torch.where(z > 2, z * 0, z)
            return torch.stack([z, 1 - z], 1)

    images = torch.tensor([0.1, 0.9])[:, None, None, None].expand(2, 1, 2, 2).clone()
    result = run(PGD(eps=0.01), Half(), images, torch.zeros(2, dtype=torch.int64))
    assert result.driven.tolist() == [True, False]


def test_inference_mode_around_the_run_does_not_matter():
    model = mlp()
    images, labels = images_and_labels(model)
    expected = run(FGSM(eps=0.1), model, images, labels)
    with torch.inference_mode():
        found = run(FGSM(eps=0.1), model, images * 1, labels)
    assert torch.equal(found.adv, expected.adv)


class Broken(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output(x)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: x.flatten(1)[:, :3] * float("nan"), "NaN or inf for 4 of 4 clean images"),
        (lambda x: x, r"must return \(4, classes\) logits"),
        (lambda x: x.flatten(1).sum(1), r"must return \(4, classes\) logits"),
        (lambda x: x.flatten(1)[:2, :3], r"must return \(4, classes\) logits"),
        (lambda x: {"logits": x}, "got dict"),
        (lambda x: x.flatten(1)[:, :3].detach(), "differentiable"),
    ],
)
def test_a_model_that_cannot_be_attacked_is_named(output, message):
    images, labels = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ModelError, match=message):
        run(FGSM(), Broken(output), images, labels)


def test_the_model_is_restored_after_an_error():
    model = nn.Sequential(mlp().float(), Broken(lambda x: x[:, :1])).train()
    with pytest.raises(ModelError), pytest.warns(UserWarning, match="train mode"):
        run(FGSM(), model, torch.rand(3, 1, 6, 6), torch.zeros(3, dtype=torch.int64))
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


IMAGES = torch.rand(4, 1, 6, 6, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3])


def _outside(value):
    images = IMAGES.clone()
    images[2, 0, 1, 1] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        ((IMAGES * 255).byte(), LABELS, TypeError, "torch.uint8; deitsec.data.to_float"),
        (IMAGES[:0], LABELS[:0], ValueError, "at least one row, got 0"),
        (IMAGES[0], LABELS, ValueError, r"must be \(B, C, H, W\)"),
        (_outside(1.5), LABELS, ValueError, "in row 2"),
        (_outside(-0.1), LABELS, ValueError, "in row 2"),
        (_outside(float("nan")), LABELS, ValueError, "in row 2"),
        (_outside(float("inf")), LABELS, ValueError, "in row 2"),
        (IMAGES, LABELS.float(), TypeError, "labels must be integers"),
        (IMAGES, LABELS[:3], ValueError, r"labels must be \(4,\)"),
        (IMAGES, LABELS - 1, ValueError, "got -1 in row 0"),
        (IMAGES, LABELS + 3, ValueError, "labels must be in 0 to 4 .* got 5 in row 2"),
    ],
)
def test_bad_rows_are_refused_with_the_row(images, labels, error, message):
    with pytest.raises(error, match=message):
        run(FGSM(), mlp(), images, labels)


@pytest.mark.parametrize(
    ("attack", "targets", "message"),
    [
        (FGSM(), LABELS, "target must differ from the label, got 0 for both in row 0"),
        (FGSM(), LABELS + 5, "targets must be in 0 to 4, got 5 in row 0"),
        (FGSM(target=9), None, "target must be in 0 to 4, got 9"),
        (FGSM(target=1), None, "for both in row 1"),
        (FGSM(confidence=0.5), None, "confidence is for targeted attacks"),
    ],
)
def test_bad_targets_are_refused(attack, targets, message):
    with pytest.raises(ValueError, match=message):
        run(attack, mlp(), IMAGES, LABELS, targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"stop": "later"}, "stop must be first_success or never"),
        ({"seed": 1 << 63}, "seed must fit 64 bits"),
    ],
)
def test_bad_engine_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Engine(mlp(), **options)


def test_distances_are_those_of_the_returned_images():
    model = mlp()
    images, labels = images_and_labels(model)
    result = run(FGSM(eps=0.1), model, images, labels)
    delta = (result.adv - images).flatten(1)
    torch.testing.assert_close(result.distance("linf"), delta.abs().amax(1))
    torch.testing.assert_close(result.distance("l2"), delta.norm(dim=1))
    torch.testing.assert_close(result.distance("l1"), delta.abs().sum(1))
    assert torch.equal(result.distance("l0"), (delta != 0).sum(1).to(delta.dtype))
    with pytest.raises(ValueError, match="norm must be one of"):
        result.distance("l3")


def test_a_channels_last_model_and_batch_work():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).to(memory_format=torch.channels_last)
    images = torch.rand(5, 3, 8, 8).to(memory_format=torch.channels_last)
    labels = torch.zeros(5, dtype=torch.int64)
    result = run(PGD(eps=0.1), model, images, labels)
    torch.testing.assert_close(
        run(PGD(eps=0.1), model, images.contiguous(), labels).adv, result.adv
    )
