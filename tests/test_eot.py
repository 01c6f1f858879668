import pytest
import torch
from models_for_tests import conv, images_and_labels, mlp
from torch import nn

from deitsec import ops
from deitsec.attacks import FGSM, PGD
from deitsec.engine import Engine
from deitsec.models import EOT
from deitsec.models.transforms import Brightness, Compose, Contrast, GaussianNoise, Shift
from deitsec.types import IN_FLIGHT, InFlight

IMAGES = images_and_labels(mlp(), rows=24)[0]
NOISE = GaussianNoise(std=0.1)
TRANSFORMS = [
    NOISE,
    Brightness(limit=0.2),
    Contrast(limit=0.5),
    Shift(pixels=2),
    Compose(transforms=(Shift(pixels=1), Brightness(limit=0.1), NOISE)),
]


def _by_hand(model, transform, images, ids, seed, stream, num_samples):
    """Each row and each sample by itself, with draws from the generator."""
    rows = []
    for image, sample_id in zip(images[:, None], ids, strict=True):
        answers = []
        for k in range(num_samples):
            number = transform.num_draws(image.shape[1:])
            middle = torch.full((1, number), 0.5, dtype=image.dtype)
            draws = ops.random_start(
                middle, sample_id[None], 0.5, seed ^ 0x454F54, stream * num_samples + k
            )
            answers.append(model(transform(image, draws.clamp(max=1 - 2.0**-24))))
        rows.append(torch.stack(answers).mean(0))
    return torch.cat(rows)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_answer_is_the_mean_over_transformed_images(transform, num_samples):
    model = mlp()
    eot = EOT(model, transform, num_samples=num_samples, seed=5)
    found = eot(IMAGES)
    expected = _by_hand(model, transform, IMAGES, torch.arange(24), 5, 0, num_samples)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    ids = torch.arange(24) * 7
    token = IN_FLIGHT.set(InFlight(sample_ids=ids, seed=9, stream=4))
    try:
        found = eot(IMAGES)
    finally:
        IN_FLIGHT.reset(token)
    expected = _by_hand(model, transform, IMAGES, ids, 9, 4, num_samples)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
def test_the_gradient_is_the_mean_gradient(transform):
    model = mlp()
    leaf = IMAGES[:4].clone().requires_grad_()
    (found,) = torch.autograd.grad(EOT(model, transform, num_samples=3)(leaf)[:, 1].sum(), leaf)
    again = IMAGES[:4].clone().requires_grad_()
    expected = _by_hand(model, transform, again, torch.arange(4), 0, 0, 3)
    (grad,) = torch.autograd.grad(expected[:, 1].sum(), again)
    assert (found != 0).any()
    torch.testing.assert_close(found, grad, rtol=0, atol=1e-12)


def test_each_transformation_is_its_formula():
    x = torch.rand(5, 3, 4, 6, dtype=torch.float64)
    u = torch.rand(5, 2, dtype=torch.float64)
    many = torch.rand(5, 72, dtype=torch.float64)
    normal = torch.distributions.Normal(0, 1).icdf(many).view_as(x)
    torch.testing.assert_close(GaussianNoise(std=0.3)(x, many), x + 0.3 * normal)
    for row in range(5):
        image, draws = x[row : row + 1], u[row : row + 1]
        shift = 0.4 * (2 * float(u[row, 0]) - 1)
        torch.testing.assert_close(Brightness(limit=0.4)(image, draws), (image + shift).clamp(0, 1))
        factor = 1 + 0.4 * (2 * float(u[row, 0]) - 1)
        mean = image.mean()
        expected = (mean + (image - mean) * factor).clamp(0, 1)
        torch.testing.assert_close(Contrast(limit=0.4)(image, draws), expected)
        down, across = (int(5 * float(value)) - 2 for value in u[row])
        found = Shift(pixels=2)(image, draws)
        for i in range(4):
            for j in range(6):
                at = (min(max(i + down, 0), 3), min(max(j + across, 0), 5))
                assert torch.equal(found[0, :, i, j], image[0, :, at[0], at[1]])


@pytest.mark.parametrize("draw", [0.0, 1 - 2.0**-24, 0.5])
@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_ends_of_the_draws_are_finite(transform, draw, dtype):
    x = torch.rand(2, 1, 6, 6).to(dtype)
    draws = torch.full((2, transform.num_draws(x.shape[1:])), draw)
    found = transform(x, draws)
    assert found.isfinite().all()
    assert (found.shape, found.dtype) == (x.shape, dtype)


def test_shifts_are_equally_likely():
    model = nn.Flatten()
    x = torch.zeros(4000, 1, 1, 7)
    x[..., 3] = 1
    moved = EOT(model, Shift(pixels=2), num_samples=1)(x)
    counts = moved.sum(0)[1:6] / 4000
    assert moved.sum() == 4000
    assert ((counts - 0.2).abs() < 0.03).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EOT(mlp(), NOISE, num_samples=0), "num_samples must be at least 1, got 0"),
        (lambda: GaussianNoise(std=0), "std must be > 0"),
        (lambda: Brightness(limit=float("inf")), "limit must be > 0"),
        (lambda: Contrast(limit=-1), "limit must be > 0"),
        (lambda: Shift(pixels=0), "pixels must be > 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _problem(dtype=torch.float64, transform=NOISE):
    model = mlp().to(dtype)
    images = IMAGES.to(dtype)
    eot = EOT(model, transform, num_samples=4)
    with torch.no_grad():
        return eot, images, eot(images).argmax(1)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("options", [{"batch_size": 5}, {"compaction": False}], ids=str)
def test_draws_belong_to_the_sample(transform, options):
    eot, images, labels = _problem(transform=transform)
    order = torch.randperm(24)
    attack = PGD(eps=0.1, steps=5)
    whole = Engine(eot, stop="never").run(attack, images, labels)
    mixed = Engine(eot, stop="never", **options).run(
        attack, images[order], labels[order], sample_ids=order
    )
    torch.testing.assert_close(mixed.adv, whole.adv[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed.clean_logits, whole.clean_logits[order])
    assert torch.equal(mixed.success, whole.success[order])
    alone = Engine(eot, stop="never").run(
        attack, images[3:4], labels[3:4], sample_ids=torch.tensor([3])
    )
    torch.testing.assert_close(alone.adv, whole.adv[3:4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"stop": "never"}], ids=str)
def test_a_success_was_confirmed_by_draws_the_attack_had_not_seen(options):
    dtype = torch.float32 if "precision" in options else torch.float64
    eot, images, labels = _problem(dtype)
    streams = set()

    class Watching(nn.Module):
        stochastic = True

        def __init__(self):
            super().__init__()
            self.eot = eot

        def forward(self, x):
            if (flight := IN_FLIGHT.get()) is not None:  # the engine tries a model out, too
                streams.add((flight.stream, x.requires_grad))
            return self.eot(x)

    engine = Engine(Watching(), seed=3, **options)
    result = engine.run(PGD(eps=0.1, steps=6), images, labels)
    fresh = InFlight(sample_ids=torch.arange(24), seed=3, stream=(1 << 31) - 1)
    token = IN_FLIGHT.set(fresh)
    try:
        with torch.no_grad():
            logits = eot(result.adv)
    finally:
        IN_FLIGHT.reset(token)
    assert torch.equal(result.success, logits.argmax(1) != labels)
    torch.testing.assert_close(result.logits, logits, rtol=1e-4, atol=1e-5)
    assert result.success.any()
    assert (result.claims[result.success] <= 6).all()
    driving = {stream for stream, with_gradient in streams if with_gradient}
    if not options:
        assert len(driving) == 6  # other draws at each step
    assert fresh.stream not in driving
    assert not torch.cuda.is_available() or "off" in engine.explain()["cuda_graphs"]


def test_a_lucky_draw_is_refuted():
    """Class 1 wins in the draws that the attack sees, and in no fresh ones."""

    class Lucky(nn.Module):
        stochastic = True

        def forward(self, x):
            lucky = 0.0 if IN_FLIGHT.get().stream > 1 << 30 else 1.0
            z = x.flatten(1)[:, 0] - 0.5
            return torch.stack([0 * z + 0.05, z * lucky], 1)

    images, labels = torch.full((6, 1, 2, 2), 0.5), torch.zeros(6, dtype=torch.int64)
    result = Engine(Lucky()).run(PGD(eps=0.1, steps=5), images, labels)
    assert not result.success.any()
    assert (result.refuted >= 1).all()
    assert result.disagreement == 1


def test_averaging_beats_the_noise_of_one_draw():
    model = conv()
    images = IMAGES.float()
    noise = GaussianNoise(std=0.2)

    def spread(number):
        answers = []
        for seed in range(8):
            with torch.no_grad():
                answers.append(EOT(model, noise, num_samples=number, seed=seed)(images))
        return torch.stack(answers).std(0).mean()

    assert spread(16) < 0.4 * spread(1)
    result = Engine(EOT(model, noise)).run(FGSM(eps=0.01), images, torch.zeros(24).long())
    assert result.finite.all()
