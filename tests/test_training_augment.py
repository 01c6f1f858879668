"""Moves of the images."""

import dataclasses

import pytest
import torch
from training_for_tests import (
    MOVED,
)

from deitsec.training import (
    Augmentation,
    augment,
)


def test_no_amount_moves_nothing():
    images = torch.rand(4, 3, 7, 9)
    torch.testing.assert_close(
        augment(images, Augmentation(), torch.Generator()), images, atol=1e-5, rtol=0
    )


def test_flip_mirrors_whole_images_and_about_half_of_them():
    images = torch.rand(400, 1, 5, 6)
    moved = augment(images, Augmentation(flip=True), torch.Generator().manual_seed(0))
    mirrored = ((moved - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5).float()
    kept = ((moved - images).abs().amax((1, 2, 3)) < 1e-5).float()
    assert torch.equal(mirrored + kept, torch.ones(400))
    assert 0.4 < mirrored.mean().item() < 0.6


def mass(images):
    """Total, mean row, mean column and spread of rows and columns, in pixels."""
    rows, columns = torch.meshgrid(
        *(torch.arange(float(n)) for n in images.shape[-2:]), indexing="ij"
    )
    total = images.sum((1, 2, 3))
    moments = [(images[:, 0] * place).sum((1, 2)) / total for place in (rows, columns)]
    return total, *moments


def spot(rows=300, side=41):
    """A round spot in the middle: smooth, so that resampling is exact to a percent."""
    axis = torch.arange(float(side)) - side // 2
    square = axis[:, None] ** 2 + axis[None, :] ** 2
    return (-square / 18).exp().expand(rows, 1, side, side)


def test_shift_stays_within_its_share_and_reaches_it():
    moved = augment(spot(), Augmentation(shift=0.1), torch.Generator().manual_seed(0))
    _, row, column = mass(moved)
    for place in (row, column):
        distance = (place - 20).abs()
        assert distance.max() <= 4.1 + 0.02
        assert distance.max() > 3.8


def test_scale_changes_the_area_within_its_share():
    total, _, _ = mass(augment(spot(), Augmentation(scale=0.2), torch.Generator().manual_seed(0)))
    size = (total / mass(spot())[0]).sqrt()
    assert 0.79 < size.min() < 0.82
    assert 1.18 < size.max() < 1.21


@pytest.mark.parametrize(("height", "width"), [(41, 41), (31, 61)])
def test_rotation_turns_pixels_rigidly(height, width):
    # A spot 10 pixels right of the centre keeps its distance from it, whatever the aspect.
    rows = torch.arange(float(height)) - height // 2
    columns = torch.arange(float(width)) - width // 2 - 10
    images = (-(rows[:, None] ** 2 + columns[None, :] ** 2) / 4.5).exp()
    images = images.expand(200, 1, height, width)
    moved = augment(images, Augmentation(rotation=30), torch.Generator().manual_seed(0))
    _, row, column = mass(moved)
    row, column = row - height // 2, column - width // 2
    assert (row.hypot(column) - 10).abs().max() < 0.1
    angles = torch.atan2(row, column).rad2deg().abs()
    assert 28 < angles.max() < 30.5


def test_draws_belong_to_the_generator_alone():
    images = torch.rand(5, 1, 8, 8)
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    moved = augment(images, MOVED, first)
    assert torch.equal(moved, augment(images, MOVED, second))
    augment(images, Augmentation(), first)
    augment(images, MOVED, second)
    assert torch.equal(first.get_state(), second.get_state())


def test_noise_is_normal_of_the_deviation_that_was_asked_for_and_is_not_clipped():
    images = torch.ones(64, 3, 16, 16)
    noise = augment(images, Augmentation(noise=0.25), torch.Generator().manual_seed(0)) - images
    values = noise.flatten().double().sort().values / 0.25
    # Kolmogorov and Smirnov: true normal draws pass 1.63 / sqrt(n) once in a hundred seeds
    steps = (torch.arange(len(values), dtype=torch.float64) + 0.5) / len(values)
    assert (torch.special.ndtr(values) - steps).abs().max() < 1.63 / len(values) ** 0.5
    assert noise.max() > 0.5


def test_noise_is_another_for_each_image_each_step_and_each_seed():
    images = torch.zeros(2, 1, 4, 4)
    generator = torch.Generator().manual_seed(0)
    first, second = (augment(images, Augmentation(noise=1.0), generator) for _ in range(2))
    other = augment(images, Augmentation(noise=1.0), torch.Generator().manual_seed(1))
    rows = torch.cat([first, second, other]).flatten(1)
    assert len(rows.unique(dim=0)) == 6
    again = augment(images, Augmentation(noise=1.0), torch.Generator().manual_seed(0))
    assert torch.equal(again, first)


def test_noise_is_added_after_the_moves():
    images = torch.rand(3, 1, 8, 8)
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    moved = augment(images, MOVED, first)
    noisy = augment(images, dataclasses.replace(MOVED, noise=0.1), second)
    third = torch.Generator().manual_seed(3)
    alone = augment(torch.zeros_like(images), Augmentation(noise=0.1), third)
    torch.testing.assert_close(noisy, moved + alone)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_out_of_range_is_refused(noise):
    with pytest.raises(ValueError, match="noise must be >= 0 and finite"):
        Augmentation(noise=noise)
