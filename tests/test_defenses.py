"""Defended models: what they compute, and the gradients that an attacker who knows them follows."""

import math

import pytest
import torch
from torch import nn
from training_for_tests import few_digits, network, weights

from deitsec.attacks import PGD
from deitsec.defenses import (
    BPDA,
    BitDepth,
    Ensemble,
    OutputCode,
    RandomDropout,
    SampledDropout,
    cleaned,
    coded,
    fit_clean_up,
    fit_pretrained,
    glimpses,
    hadamard_codes,
    noisy,
    pretrainable,
    random_codes,
    with_sampled_dropout,
)
from deitsec.engine import Engine, run
from deitsec.models import build_own
from deitsec.training import FitConfig, fit, predict
from deitsec.types import IN_FLIGHT, InFlight

SHAPE = (1, 8, 8)
FIT = FitConfig(epochs=6, batch_size=32, lr=5e-3, validation=0.0)


@pytest.fixture(scope="module")
def data():
    return few_digits()


@pytest.fixture(scope="module")
def model(data):
    classifier = build_own("mnist_dense", in_chans=1, image_size=8)
    fit(classifier, data, FIT)
    return classifier.eval()


def _images(rows=12):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(rows, *SHAPE, generator=generator)


def test_bit_depth_by_hand():
    given = torch.tensor([[[[0.0, 0.16, 0.17, 0.5, 0.84, 1.0]]]])
    kept = BitDepth(2)(given)[0, 0, 0]
    assert (3 * kept).round().int().tolist() == [0, 0, 1, 2, 3, 3]  # a half goes to the even level
    assert torch.equal(BitDepth(8)(torch.arange(256) / 255), torch.arange(256) / 255)


@pytest.mark.parametrize("approximation", [None, torch.tanh])
def test_bpda_is_the_preprocessing_forward_and_the_approximation_backward(approximation):
    images = _images().requires_grad_()
    rounding = BitDepth(3)
    out = BPDA(rounding, approximation)(images)
    assert torch.equal(out, rounding(images))  # to the last bit
    weight = torch.randn_like(images)
    (grad,) = torch.autograd.grad((out * weight).sum(), images)
    slope = 1 if approximation is None else 1 - torch.tanh(images.detach()) ** 2
    torch.testing.assert_close(grad, weight * slope)


def test_bpda_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and the identity \(2, 1, 8, 8\)"):
        BPDA(lambda x: x[:, :, ::2, ::2])(_images(2))


def test_rounding_stops_an_attack_that_follows_its_gradient_and_not_one_by_bpda(data, model):
    """Nothing is driven without a gradient, every row is with the identity's."""
    images = data.train.pixels[:64] / 255
    fewer = BitDepth(2)
    defended = nn.Sequential(fewer, model).eval()
    labels = model(images).argmax(1)
    attack = PGD(eps=0.3, random_start=False)
    plain = run(attack, defended, images, labels)
    assert not plain.driven.any()
    through = nn.Sequential(BPDA(fewer), model).eval()
    known = Engine(defended, surrogate=through).run(attack, images, labels)
    assert known.driven.all()
    assert known.robust_accuracy < plain.robust_accuracy - 0.3


def test_ensemble_answers_by_mean_probability():
    members = [network(seed).eval() for seed in range(3)]
    images = _images()
    mean = torch.stack([member(images).softmax(1) for member in members]).mean(0)
    torch.testing.assert_close(Ensemble(members)(images).exp(), mean)
    sure = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        sure[1].weight.mul_(1e4)
    assert Ensemble([sure, sure])(images).isfinite().all()  # the mean of logs would be -inf


def test_dropout_belongs_to_the_sample(model):
    """The same row draws the same mask in any batch, another step or layer another one."""
    defended = RandomDropout(model, rate=0.5)
    images = _images()

    def ask(rows, stream=7):
        flight = InFlight(sample_ids=torch.arange(100, 112)[rows], seed=3, stream=stream)
        token = IN_FLIGHT.set(flight)
        try:
            return defended(images[rows])
        finally:
            IN_FLIGHT.reset(token)

    whole, order = ask(slice(None)), torch.randperm(12)
    torch.testing.assert_close(ask(order), whole[order])
    torch.testing.assert_close(ask(slice(3, 5)), whole[3:5])
    assert not torch.allclose(ask(slice(None), stream=8), whole)


def test_dropout_keeps_the_mean_and_the_rate():
    ones = torch.ones(200, 500)
    dropped = SampledDropout(0.3).eval()(ones)
    kept = (dropped > 0).double().mean().item()
    assert kept == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / 1e5))
    torch.testing.assert_close(dropped.max(), torch.tensor(1 / 0.7))
    two = torch.stack([SampledDropout(0.3, layer).eval()(ones[0][None]) for layer in range(2)])
    assert not torch.equal(two[0], two[1])


def test_many_masks_come_to_the_answer_without_dropout(model):
    """The last layer is linear in what is dropped, so the mean over masks is the plain answer."""
    images = _images()
    many = RandomDropout(model, rate=0.5, num_samples=400)(images)
    one = RandomDropout(model, rate=0.5)(images)
    plain = model(images)
    assert (many - plain).abs().mean() < 0.12 * (one - plain).abs().mean()


def test_networks_own_dropout_stays_on_at_its_rate_and_the_network_is_not_changed():
    given = network().eval()
    before, kinds = weights(given), [type(part) for part in given.modules()]
    kept = with_sampled_dropout(given, 0.9)
    rates = [part.rate for part in kept.modules() if isinstance(part, SampledDropout)]
    assert rates == [0.2]
    assert [type(part) for part in given.modules()] == kinds
    for name, tensor in kept.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    "face",
    [
        lambda model: RandomDropout(model, rate=0.3),
        lambda model: noisy(model, std=0.1),
        lambda model: glimpses(model, pixels=1, number=2),
    ],
    ids=["dropout", "noise", "glimpses"],
)
def test_a_success_on_a_model_that_draws_is_confirmed_by_other_draws(data, model, face):
    """The attack ends alike in any order of the rows; what it claims was asked about again."""
    images, defended = data.train.pixels[:24] / 255, face(model)
    labels, ids = model(images).argmax(1), torch.arange(24)
    whole = Engine(defended).run(PGD(eps=0.3), images, labels, sample_ids=ids)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    mixed = Engine(defended, batch_size=7).run(
        PGD(eps=0.3), images[order], labels[order], sample_ids=ids[order]
    )
    assert torch.equal(mixed.success, whole.success[order])
    assert whole.success.any()
    assert (whole.claims[whole.success] >= 1).all()


def test_code_words_of_a_hadamard_matrix_are_eight_bits_apart():
    codes = hadamard_codes(10)
    assert codes.shape == (10, 15)
    distance = (codes[:, None] != codes).sum(2)
    assert (distance[~torch.eye(10, dtype=torch.bool)] == 8).all()
    assert hadamard_codes(16).shape == (16, 15)
    assert hadamard_codes(17).shape == (17, 31)


def test_output_codes_by_hand():
    codes = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1]])
    bits = torch.tensor([[2.0, -3.0, 0.5]])
    coded = OutputCode(nn.Identity(), codes).eval()
    squashed = [math.tanh(b) for b in (2.0, -3.0, 0.5)]
    correlation = [sum(c * s for c, s in zip(code, squashed, strict=True)) for code in codes]
    positive = [max(float(c), 0.0) for c in correlation]
    expected = torch.tensor([[p / sum(positive) for p in positive]])
    torch.testing.assert_close(coded(bits).exp(), expected, rtol=1e-6, atol=2e-12)
    assert expected[0, 2] == 0  # its correlation is negative: a constant, without a gradient
    torch.testing.assert_close(coded.linear()(bits), bits @ codes.T)
    torch.testing.assert_close(coded.train()(bits), torch.tensor([correlation]))


def test_code_of_saturated_bits_has_no_gradient_and_its_linear_face_has():
    module = OutputCode(nn.Sequential(nn.Flatten(), nn.Linear(64, 15)), hadamard_codes(10)).eval()
    with torch.no_grad():
        module.network[1].weight.mul_(1e4)
    images = _images().requires_grad_()
    for face, driven in ((module, False), (module.linear(), True)):
        (grad,) = torch.autograd.grad(face(images)[:, 0].sum(), images)
        assert grad.abs().flatten(1).amax(1).gt(0).all().item() is driven


def test_coded_classifier_learns(data):
    codes = random_codes(10, 20)
    assert len(codes.unique(dim=0)) == 10
    bits = build_own("mnist_dense", in_chans=1, image_size=8, num_classes=20)
    classifier = coded(bits, codes)
    fit(classifier, data, FIT)
    assert _train_accuracy(classifier, data) > 0.9


def test_clean_up_trains_the_autoencoder_alone_and_takes_noise_out(data, model):
    before = weights(model)
    classifier = cleaned(model, SHAPE, width=64)
    fit_clean_up(classifier, data, FitConfig(**{**_plain(FIT), "epochs": 40}), noise=0.3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    images = data.train.pixels / 255
    torch.manual_seed(0)
    noisy_images = (images + 0.3 * torch.randn_like(images)).clamp(0, 1)
    with torch.no_grad():
        back = classifier.module.autoencoder(noisy_images)
    assert (back - images).square().mean() < 0.5 * (noisy_images - images).square().mean()


def test_pretraining_draws_first_and_classifies_then(data):
    """The head has no part in drawing, and the classifier none in the decoder."""
    inner = build_own("mnist_dense", in_chans=1, image_size=8)
    classifier = pretrainable(inner, SHAPE)
    untouched = inner.module[-1].weight.clone()
    blank = torch.full((200, 1, 1, 1), 0.0) + data.train.pixels.float().mean(0) / 255
    images = data.train.pixels / 255
    drawn = FitConfig(**{**_plain(FIT), "epochs": 20, "weight_decay": 0.0})
    fit_pretrained(classifier, data, drawn, share=0.95, noise=0.1)
    reconstruction = classifier.module.eval().reconstruct(images)
    assert (reconstruction - images).square().mean() < (blank - images).square().mean()
    assert not torch.equal(inner.module[-1].weight, untouched)  # the last epoch is of labels
    fit_pretrained(classifier, data, FIT, share=0.3)
    assert _train_accuracy(classifier, data) > 0.9


def _plain(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def _train_accuracy(classifier, data):
    right = predict(classifier, data.train).argmax(1) == data.train.labels
    return right.float().mean().item()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, d: BitDepth(0), "bits must be in 1 to 8, got 0"),
        (lambda m, d: Ensemble([]), "at least one network"),
        (lambda m, d: RandomDropout(m, rate=1.0), r"rate must be in \[0, 1\)"),
        (lambda m, d: RandomDropout(m, num_samples=0), "num_samples must be at least 1"),
        (lambda m, d: RandomDropout(nn.Flatten()), "a dropout or a linear layer"),
        (lambda m, d: noisy(m, std=0.0), "std must be > 0"),
        (lambda m, d: glimpses(m, pixels=0), "pixels must be > 0"),
        (lambda m, d: OutputCode(m, torch.zeros(3, 2)), "codes must be"),
        (lambda m, d: OutputCode(m, torch.ones(3, 2)), "differ from class to class"),
        (lambda m, d: coded(m, torch.ones(3, 2)), "10 bits, and the codes have 2"),
        (lambda m, d: random_codes(10, 3), "cannot tell 10 classes apart"),
        (lambda m, d: hadamard_codes(1), "num_classes must be >= 2"),
        (lambda m, d: fit_clean_up(m, d, FIT), "`cleaned` makes, got Sequential"),
        (lambda m, d: fit_pretrained(m, d, FIT), "`pretrainable` makes, got Sequential"),
    ],
)
def test_bad_input(model, data, make, message):
    with pytest.raises(ValueError, match=message):
        make(model, data)
