"""The transformations of a print and its photograph against closed forms, and against libjpeg."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from models_for_tests import mlp
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from deitsec.attacks import FGSM, PGD
from deitsec.engine import Engine, run
from deitsec.metrics import destruction_rate
from deitsec.models import EOT
from deitsec.models.transforms import (
    JPEG,
    Brightness,
    Compose,
    GaussianBlur,
    GaussianNoise,
    Perspective,
    Rotation,
    Scale,
    jpeg,
    print_and_photograph,
)

TRANSFORMS = [
    GaussianBlur(sigma=1.5),
    JPEG(quality=(30, 90)),
    Perspective(limit=0.2),
    Rotation(degrees=30),
    Scale(limit=0.5),
    print_and_photograph(),
]
NAMED = pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)


def _scene(height, width, channels=3, rows=1):
    """Smooth shapes with an edge: what photographs are like."""
    down = torch.linspace(0, 1, height)[:, None]
    across = torch.linspace(0, 1, width)[None]
    planes = [
        0.5 + 0.4 * torch.sin((5 + k) * across + (3 - k) * down) + 0.1 * (across > 0.6)
        for k in range(rows * channels)
    ]
    return torch.stack(planes).view(rows, channels, height, width).clamp(0, 1).double()


def _draws(transform, x):
    return torch.rand(len(x), transform.num_draws(x.shape[1:]), dtype=torch.float64)


@NAMED
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 17, 24), (3, 1, 6, 6), (2, 3, 5, 7)], ids=str)
def test_shape_dtype_and_gradient_are_kept(transform, dtype, shape):
    x = torch.rand(shape).to(dtype).requires_grad_()
    for draw in (0.0, 0.3, 1 - 2.0**-24):
        draws = torch.full((len(x), transform.num_draws(x.shape[1:])), draw)
        found = transform(x, draws)
        assert (found.shape, found.dtype) == (x.shape, dtype)
        assert found.isfinite().all()
        (grad,) = torch.autograd.grad(found.float().square().sum(), x)
        assert grad.isfinite().all()
        assert (grad.flatten(1).abs().sum(1) > 0).all()


@NAMED
def test_each_row_follows_its_own_draws(transform):
    x = _scene(16, 16, rows=4)
    draws = _draws(transform, x)
    whole = transform(x, draws)
    for row in range(4):
        alone = transform(x[row : row + 1], draws[row : row + 1])
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=0, atol=1e-12)
    moved = transform(x[:1].expand(4, -1, -1, -1), draws)
    assert not torch.equal(moved[0], moved[1])


@pytest.mark.parametrize(
    ("transform", "still"),
    [
        (GaussianBlur(sigma=2.0), 0.0),
        (Rotation(degrees=40), 0.5),
        (Scale(limit=0.3), 0.5),
        (Perspective(limit=0.2), 0.5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_strength_is_the_identity(transform, still):
    x = torch.rand(2, 3, 9, 12, dtype=torch.float64)
    draws = torch.full((2, transform.num_draws(x.shape[1:])), still, dtype=torch.float64)
    torch.testing.assert_close(transform(x, draws), x, rtol=0, atol=1e-12)


def test_blur_is_its_weighted_mean():
    x = torch.rand(2, 2, 5, 7, dtype=torch.float64)
    found = GaussianBlur(sigma=2.0)(x, torch.tensor([[0.25], [0.75]], dtype=torch.float64))
    for row, sigma in enumerate((0.5, 1.5)):
        for i, j in ((0, 0), (2, 3), (4, 6)):
            weights = torch.tensor(
                [
                    [math.exp(-((i - k) ** 2 + (j - m) ** 2) / (2 * sigma**2)) for m in range(7)]
                    for k in range(5)
                ],
                dtype=torch.float64,
            )
            expected = (x[row] * weights).sum((1, 2)) / weights.sum()
            torch.testing.assert_close(found[row, :, i, j], expected)


def test_a_quarter_turn_is_exact():
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    found = Rotation(degrees=120)(x, torch.full((1, 1), 0.875, dtype=torch.float64))
    turns = [torch.rot90(x, k, (2, 3)) for k in (1, 3)]
    assert min((found - turned).abs().max() for turned in turns) < 1e-12


def test_rotation_turns_pixels_and_not_sides():
    """On a wide image a disc stays a disc."""
    across = torch.arange(60, dtype=torch.float64) - 29.5
    down = torch.arange(30, dtype=torch.float64) - 14.5
    disc = torch.exp(-(across[None] ** 2 + down[:, None] ** 2) / 30)[None, None]
    found = Rotation(degrees=90)(disc, torch.full((1, 1), 0.9, dtype=torch.float64))
    torch.testing.assert_close(found, disc, rtol=0, atol=0.02)  # bilinear


def test_scale_doubles():
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    found = Scale(limit=0.999999)(x, torch.full((1, 1), 1.0, dtype=torch.float64))
    expected = torch.nn.functional.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=False
    )[:, :, 4:12, 4:12]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_perspective_takes_the_corners_where_the_draws_say():
    """Of an image whose values are its coordinates, the answer is the place that was looked at."""
    side = 200
    place = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    x = torch.stack([place[None].expand(side, -1), place[:, None].expand(-1, side)])[None]
    draws = torch.rand(1, 8, dtype=torch.float64) * 0.5 + 0.25
    limit = 0.2
    found = Perspective(limit=limit)(x, draws)[0]
    moved = limit * (2 * draws[0] - 1)
    square = [(0, 0), (1, 0), (1, 1), (0, 1)]
    rows, right = [], []
    corners = [(u + moved[k], v + moved[4 + k]) for k, (u, v) in enumerate(square)]
    for (u, v), (a, b) in zip(square, corners, strict=True):  # the textbook's eight equations
        rows.append([u, v, 1, 0, 0, 0, -a * u, -a * v])
        rows.append([0, 0, 0, u, v, 1, -b * u, -b * v])
        right += [a, b]
    solved = torch.linalg.solve(
        torch.tensor(rows, dtype=torch.float64), torch.tensor(right, dtype=torch.float64)
    )
    matrix = torch.cat([solved, torch.ones(1, dtype=torch.float64)]).view(3, 3)
    for i, j in ((50, 60), (100, 100), (140, 90), (120, 150)):
        a, b, depth = matrix @ torch.stack([place[j], place[i], torch.ones_like(place[0])])
        torch.testing.assert_close(found[:, i, j], torch.stack([a, b]) / depth, rtol=0, atol=1e-9)


def _libjpeg(x, quality, subsampling):
    levels = (x[0] * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    buffer = io.BytesIO()
    sampling = {} if levels.shape[2] == 1 else {"subsampling": 2 if subsampling else 0}
    image.save(buffer, "JPEG", quality=quality, **sampling)
    with Image.open(buffer) as opened:
        back = np.asarray(opened).reshape(levels.shape)
    return torch.from_numpy(back.copy()).permute(2, 0, 1)[None].double() / 255


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
@pytest.mark.parametrize(
    ("channels", "subsampling"), [(1, False), (3, False), (3, True)], ids=["grey", "444", "420"]
)
@pytest.mark.parametrize("side", [(32, 48), (21, 35)], ids=str)
def test_jpeg_is_what_libjpeg_makes(quality, channels, subsampling, side):
    x = _scene(*side, channels)
    ours = JPEG(quality=(quality, quality), subsampling=subsampling)(x, _draws(JPEG(), x))
    apart = 255 * (ours - _libjpeg(x, quality, subsampling)).abs()
    # its cosines are in whole numbers: a coefficient between two levels may go the other way
    assert apart.mean() < 0.45
    assert apart.max() <= 8


def test_jpeg_quality_is_drawn_among_whole_numbers():
    x = _scene(16, 16, rows=1)
    at = {q: JPEG(quality=(q, q))(x, _draws(JPEG(), x)) for q in (40, 41, 42)}
    found = [
        JPEG(quality=(40, 42))(x, torch.tensor([[draw]], dtype=torch.float64))
        for draw in (0.1, 0.5, 0.99)
    ]
    for image, q in zip(found, (40, 41, 42), strict=True):
        assert torch.equal(image, at[q])


def test_jpegs_gradient_is_that_of_the_rest_of_it():
    """At quality 100 it is the identity but for rounding, and so is its gradient."""
    x = _scene(16, 16, rows=2).requires_grad_()
    found = JPEG(quality=(100, 100), subsampling=False)(x, _draws(JPEG(), x))
    weight = torch.randn_like(x)
    inside = (x > 0.05) & (x < 0.95)  # the rest is clipped
    (grad,) = torch.autograd.grad((found * weight * inside).sum(), x)
    torch.testing.assert_close(grad, weight * inside, rtol=0, atol=1e-4)


def test_jpegs_tables_are_brought_to_a_device_once(monkeypatch):
    """A copy from the host in a captured step is an error; one in inference mode bars gradients."""
    x, changes = torch.rand(2, 3, 9, 8), JPEG()
    draws = torch.full((2, 1), 0.5)
    jpeg._KEPT.clear()
    with torch.inference_mode():
        expected = changes(x, draws)

    def copied(*_, **__):
        raise AssertionError("a tensor was made of numbers of the host")

    monkeypatch.setattr(torch, "tensor", copied)
    monkeypatch.setattr(torch, "as_tensor", copied)
    monkeypatch.setattr(torch.Tensor, "new_tensor", copied)
    leaf = x.requires_grad_()
    found = changes(leaf, draws)
    assert torch.equal(found, expected)
    assert torch.autograd.grad(found.sum(), leaf)[0].abs().sum() > 0


def test_jpegs_tables_that_tracing_made_are_not_kept():
    x, draws = torch.rand(2, 3, 9, 8), torch.full((2, 1), 0.5)
    jpeg._KEPT.clear()
    with FakeTensorMode() as mode:
        JPEG()(mode.from_tensor(x), mode.from_tensor(draws))
    assert type(JPEG()(x, draws)) is torch.Tensor


def test_images_of_two_channels_are_refused():
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        EOT(mlp(), JPEG())(torch.rand(1, 2, 8, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianBlur(sigma=0), "sigma must be > 0"),
        (lambda: Perspective(limit=0.25), "limit must be > 0 and < 0.25, got 0.25"),
        (lambda: Rotation(degrees=-1), "degrees must be > 0"),
        (lambda: Scale(limit=1.0), "limit must be > 0 and < 1"),
        (lambda: JPEG(quality=(0, 50)), "quality must be .* within 1 to 100"),
        (lambda: JPEG(quality=(80, 50)), "quality must be"),
        (lambda: print_and_photograph(3.0), "strength must be > 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_attack_through_the_camera_outlives_it():
    """EOT over the camera gives images that the camera takes back less often."""
    model = mlp(pixels=144).float()
    small = torch.rand(48, 1, 4, 4)
    images = torch.nn.functional.interpolate(small, size=(12, 12), mode="bilinear")
    camera = print_and_photograph()
    with torch.no_grad():
        labels = model(images).argmax(1)
    rates = []
    for attacked in (model, EOT(model, camera, num_samples=8)):
        result = Engine(attacked, stop="never").run(PGD(eps=0.2, steps=20), images, labels)
        with torch.no_grad():
            logits = model(result.adv)
        assert (logits.argmax(1) != labels).all()
        right = torch.ones_like(result.clean_correct)
        result = dataclasses.replace(result, logits=logits, clean_correct=right)
        rates.append(destruction_rate(model, result, camera, num_samples=32))
    assert rates[1] < 0.5 * rates[0]


def test_destruction_rate_by_hand():
    """A model that reads the mean; brightness by draws that are known."""

    class Mean(torch.nn.Module):
        def forward(self, x):
            mean = x.flatten(1).mean(1)
            return torch.stack([mean - 0.5, 0.5 - mean], 1)

    model = Mean()
    images = torch.tensor([0.55, 0.6, 0.7, 0.4])[:, None, None, None].expand(4, 1, 2, 2)
    images = images.contiguous()
    labels = torch.zeros(4, dtype=torch.int64)  # the last is wrong before the attack
    result = run(FGSM(eps=0.12), model, images, labels)
    adv = result.adv.flatten(1).mean(1)
    assert result.success.tolist() == [True, True, False, True]

    class Brighter:
        def num_draws(self, shape):
            return 1

        def __call__(self, x, draws):
            return x + 0.05

    torch.testing.assert_close(adv[:2], torch.tensor([0.43, 0.48]))
    assert destruction_rate(model, result, Brighter()) == 0.5  # 0.48 + 0.05 is right again
    rates = [
        destruction_rate(model, result, Brightness(limit=0.1), num_samples=400, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert rates[0] == rates[1] != rates[2]
    # shifts above 0.07 and 0.02, uniform in +-0.1
    assert abs(rates[0] - (0.15 + 0.4) / 2) < 0.04
    nothing = run(FGSM(eps=0.001), model, images[:3], labels[:3])
    assert math.isnan(destruction_rate(model, nothing, Brighter()))
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        destruction_rate(model, result, Brighter(), num_samples=0)


def test_compositions_nest():
    inner = Compose(transforms=(GaussianBlur(sigma=1.0), GaussianNoise(std=0.1)))
    outer = Compose(transforms=(inner, JPEG()))
    flat = Compose(transforms=(GaussianBlur(sigma=1.0), GaussianNoise(std=0.1), JPEG()))
    x = _scene(10, 10, rows=2)
    draws = _draws(flat, x)
    assert torch.equal(outer(x, draws), flat(x, draws))
