"""Virtual adversarial training: its loss, what moves it, and what unlabelled images are worth."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from torch import nn
from training_for_tests import (
    InterruptError,
    assert_same_weights,
    digits,
    few_digits,
    interrupt_at,
    network,
    relabelled,
    weights,
)

from deitsec.data import load_data, to_float
from deitsec.models import build_own, model_sha256
from deitsec.training import FitConfig, VirtualConfig, fit, new_model, predict, virtual_fit
from deitsec.training.virtual_adversarial import labelled_rows, local_smoothness, undisturbed

FIT = FitConfig(epochs=2, batch_size=32, lr=5e-3, validation=0.0)


@pytest.fixture(scope="module")
def data():
    return few_digits()


def _linear(dtype=torch.float64):
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).to(dtype)


def _images(rows=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(9)
    return torch.rand(rows, 1, 3, 4, generator=generator, dtype=torch.float64).to(dtype)


def test_smoothness_of_a_linear_model_is_half_the_largest_eigenvalue():
    """For small eps the worst KL is eps^2 / 2 times the top of W^T (diag p - p p^T) W."""
    model, images, eps = _linear(), _images(), 1e-3
    found = local_smoothness(model, images, model(images), eps=eps, xi=1e-5, steps=100)
    weight = model[1].weight.detach().numpy()
    tops = [
        np.linalg.eigvalsh(weight.T @ (np.diag(p) - np.outer(p, p)) @ weight)[-1]
        for p in model(images).softmax(1).detach().numpy()
    ]
    assert found.item() == pytest.approx(eps**2 / 2 * np.mean(tops), rel=2e-3)


def test_gradient_flows_through_the_perturbed_prediction_alone():
    """Of KL(p || q(x + r)) in the weights: (q - p) times x + r, p and r being constants."""
    model, images = _linear(), _images()
    torch.manual_seed(5)
    loss = local_smoothness(model, images, model(images), eps=0.7, xi=1e-4, steps=2)
    loss.backward()
    with torch.no_grad():
        p = model(images).softmax(1)
        weight = model[1].weight
        torch.manual_seed(5)
        d = torch.randn_like(images).flatten(1)
        d = d / d.norm(dim=1, keepdim=True)
        for _ in range(2):
            q = model(images + 1e-4 * d.view_as(images)).softmax(1)
            d = (q - p) @ weight
            d = d / d.norm(dim=1, keepdim=True)
        moved = images.flatten(1) + 0.7 * d
        q = model(moved.view_as(images)).softmax(1)
        expected = (q - p).T @ moved / len(images)
    torch.testing.assert_close(model[1].weight.grad, expected, rtol=1e-6, atol=1e-9)


def test_the_loss_of_a_step_is_that_of_the_paper(data):
    """One step of every row, by plain formulas: its loss is that of the weights at the start."""
    model = build_own("logistic_regression", in_chans=1, image_size=8)
    config = VirtualConfig(
        fit=FitConfig(epochs=1, batch_size=200, validation=0.0, seed=3),
        labelled=2, alpha=0.8, eps=1.5, xi=0.1, steps=1, entropy=0.3,
    )  # fmt: skip
    rows = labelled_rows(data.train, config, 10)
    images = to_float(data.train.pixels)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.manual_seed(3)
        shown = rows[torch.randint(len(rows), (200,))]
        d = torch.randn(200, 1, 8, 8)[order.argsort()]
    model.double()
    images, d = images.double(), d.double()
    d = d / d.flatten(1).norm(dim=1)[:, None, None, None]
    leaf = (images + 0.1 * d).requires_grad_()
    p, log_p = model(images).softmax(1).detach(), model(images).log_softmax(1).detach()
    kl = (p * (log_p - model(leaf).log_softmax(1))).sum()
    (grad,) = torch.autograd.grad(kl, leaf)
    r = 1.5 * grad / grad.flatten(1).norm(dim=1)[:, None, None, None]
    lds = (p * (log_p - model(images + r).log_softmax(1))).sum(1).mean()
    ce = nn.functional.cross_entropy(model(images[shown]), data.train.labels[shown])
    expected = ce + 0.8 * lds - 0.3 * (p * log_p).sum(1).mean()
    result = virtual_fit(model.float(), data, config)
    assert result.history[0].train_loss == pytest.approx(expected.item(), rel=1e-4)


def test_dropout_and_statistics_are_left_alone_and_put_back():
    model = network().train()
    images = torch.rand(16, 1, 8, 8)
    before = model_sha256(model)
    with undisturbed(model):
        assert torch.equal(model(images), model(images))  # no dropout
        by_batch = model(images)
    assert model_sha256(model) == before
    assert all(part.training for part in model.modules())
    norm = next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    assert norm.track_running_stats
    assert not torch.allclose(by_batch, model.eval()(images))  # normalised by the batch


def test_noise_on_hidden_layers_is_there_in_training_only_and_out_of_smoothness():
    model = build_own("vat_dense", in_chans=1, image_size=8).train()
    images = torch.rand(16, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    with undisturbed(model):
        assert torch.equal(model(images), model(images))
    assert all(part.training for part in model.modules())
    model.eval()
    assert torch.equal(model(images), model(images))


def test_labels_of_the_others_are_not_read(data):
    """-1 in their place, another class or the truth: the same weights, bit for bit."""
    config = VirtualConfig(fit=FIT, labelled=4)
    rows = labelled_rows(data.train, config, 10)
    assert torch.bincount(data.train.labels[rows]).tolist() == [4] * 10
    hidden = torch.full_like(data.train.labels, -1)
    hidden[rows] = data.train.labels[rows]
    by_count, by_label = network(), network()
    virtual_fit(by_count, data, config)
    virtual_fit(by_label, relabelled(data, hidden), VirtualConfig(fit=FIT))
    assert_same_weights(weights(by_count), weights(by_label))


def test_without_smoothness_only_the_labelled_images_teach(data):
    config = VirtualConfig(fit=FIT, labelled=4, alpha=0.0)
    rows = labelled_rows(data.train, config, 10)
    other = data.train.pixels.clone()
    unseen = torch.ones(len(other), dtype=torch.bool).index_fill(0, rows, False)
    other[unseen] = 255 - other[unseen]
    changed = dataclasses.replace(data, train=dataclasses.replace(data.train, pixels=other))
    models = [network() for _ in range(3)]
    virtual_fit(models[0], data, config)
    virtual_fit(models[1], changed, config)
    assert_same_weights(weights(models[0]), weights(models[1]))
    virtual_fit(models[2], changed, dataclasses.replace(config, alpha=1.0))
    assert model_sha256(models[2]) != model_sha256(models[0])


def test_every_label_known_is_supervised_training_where_alpha_is_zero(data):
    plain, virtual = network(), network()
    fit(plain, data, FIT)
    virtual_fit(virtual, data, VirtualConfig(fit=FIT, alpha=0.0))
    assert_same_weights(weights(plain), weights(virtual))


def test_unlabelled_images_are_worth_two_points_and_more():
    """Five labels a class, three seeds; measured: 86.4% without the unlabelled, 90.4% with."""
    accuracy = {0.0: 0.0, 1.0: 0.0}
    source = digits()
    for seed in range(3):
        for alpha in accuracy:
            model = new_model("mnist_dense", source, seed=seed)
            recipe = FitConfig(epochs=20, batch_size=64, lr=2e-3, validation=0.0, seed=seed)
            virtual_fit(model, source, VirtualConfig(fit=recipe, labelled=5, alpha=alpha, eps=0.5))
            right = predict(model, source.test).argmax(1) == source.test.labels
            accuracy[alpha] += right.float().mean().item() / 3
    assert accuracy[1.0] > accuracy[0.0] + 0.02


def test_interrupted_run_goes_on_to_the_same_weights(data, tmp_path):
    config = VirtualConfig(fit=dataclasses.replace(FIT, epochs=3), labelled=4, entropy=0.1)
    whole, parts = network(), network()
    virtual_fit(whole, data, config)
    with pytest.raises(InterruptError):
        virtual_fit(parts, data, config, out=tmp_path, progress=interrupt_at(2))
    virtual_fit(parts, data, config, out=tmp_path, resume=True)
    assert_same_weights(weights(whole), weights(parts))
    with pytest.raises(ValueError, match=r"alpha was 1.0 and is 2.0"):
        virtual_fit(parts, data, dataclasses.replace(config, alpha=2.0), out=tmp_path, resume=True)


def test_unlabelled_rows_are_read_from_a_file_and_refused_where_labels_are_needed(tmp_path):
    images = np.zeros((4, 8, 8), np.uint8)
    stored = io.BytesIO()
    labels = {"y_test": np.array([0, 1, 0, 1]), "y_train": np.array([0, -1, 1, -1])}
    np.savez(stored, x_test=images, x_train=images, **labels)
    (tmp_path / "few.npz").write_bytes(stored.getvalue())
    source = load_data(f"npz:{tmp_path / 'few.npz'}")
    assert source.num_classes == 2
    model = build_own("logistic_regression", in_chans=1, image_size=8, num_classes=2)
    with pytest.raises(ValueError, match=r"2 of 4 training images .* have no label"):
        fit(model, source, FIT)
    virtual_fit(model, source, VirtualConfig(fit=dataclasses.replace(FIT, batch_size=4)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": -1.0}, "alpha must be >= 0"),
        ({"eps": 0.0}, "eps must be > 0"),
        ({"xi": float("nan")}, "xi must be > 0"),
        ({"steps": 0}, "steps must be >= 1"),
        ({"labelled": 0}, "labelled must be >= 1"),
        ({"entropy": float("inf")}, "entropy must be >= 0"),
        ({"labelled": 1000}, "class 0 has .* fewer than the 1000 asked for"),
        ({"labelled": 2, "fit": FitConfig()}, "validation must be 0"),
    ],
)
def test_bad_input(data, changes, message):
    with pytest.raises(ValueError, match=message):
        virtual_fit(network(), data, VirtualConfig(**{"fit": FIT, **changes}))


def test_no_label_at_all_is_refused(data):
    nobody = relabelled(data, torch.full_like(data.train.labels, -1))
    with pytest.raises(ValueError, match="no training image has a label"):
        virtual_fit(network(), nobody, VirtualConfig(fit=FIT))
