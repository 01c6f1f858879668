"""Contamination of a training set: who is changed and how, and that nothing else is."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_for_tests import digits

from deitsec.data import (
    ArrayImageSet,
    Blend,
    Patch,
    Subset,
    flip_labels,
    load_data,
    plant_backdoor,
    with_trigger,
)


def _all(images):
    return images.images(torch.arange(len(images)))


def test_a_backdoor_changes_as_many_rows_as_asked_and_the_rest_stays_bit_for_bit():
    data = digits()
    pixels = _all(data.train).clone()
    trigger = Patch(size=3, margin=1)
    poisoned = plant_backdoor(data, rate=0.1, target=4, trigger=trigger, seed=5)
    dirty, mask = poisoned.data.train, poisoned.mask
    assert len(poisoned.rows) == int(mask.sum()) == round(0.1 * len(data.train)) == 80
    assert not (data.train.labels[mask] == 4).any()
    assert (dirty.labels[mask] == 4).all()
    assert torch.equal(dirty.labels[~mask], data.train.labels[~mask])
    found = _all(dirty)
    assert found.is_contiguous()
    assert torch.equal(found[~mask], pixels[~mask])
    assert torch.equal(found[mask], trigger.stamp(pixels[mask]))
    assert torch.equal(_all(data.train), pixels)  # the clean set is as it was
    assert poisoned.data.test is data.test


def test_rows_are_read_in_any_order_as_they_are_all_together():
    poisoned = plant_backdoor(digits(), rate=0.3, target=0, trigger=Blend(), seed=1)
    whole = _all(poisoned.data.train)
    rows = torch.tensor([5, 700, 5, 31])
    assert torch.equal(poisoned.data.train.images(rows), whole[rows])
    assert poisoned.data.train.images(rows[:0]).shape == (0, 1, 8, 8)


def test_the_patch_is_chequered_white_first_and_touches_nothing_else():
    images = torch.full((2, 3, 6, 7), 100, dtype=torch.uint8)
    marked = Patch(size=2, margin=1).stamp(images)
    expected = images.clone()
    expected[:, :, 3:5, 4:6] = torch.tensor([[255, 0], [0, 255]], dtype=torch.uint8)
    assert torch.equal(marked, expected)
    assert (images == 100).all()
    one = Patch(size=1, margin=0).stamp(images)
    assert int((one != images).sum()) == 2 * 3
    assert (one[:, :, 5, 6] == 255).all()


def test_the_blend_is_the_formula_rounded():
    images = torch.randint(0, 256, (5, 3, 6, 7), dtype=torch.uint8)
    black, white = (torch.full((1, 3, 6, 7), v, dtype=torch.uint8) for v in (0, 255))
    pattern = Blend(alpha=1.0, seed=3).stamp(black).numpy().astype(float)
    found = Blend(alpha=0.2, seed=3).stamp(images).numpy()
    exact = 0.8 * images.numpy() + 0.2 * pattern
    assert np.abs(found - exact).max() <= 0.5 + 1e-4
    assert pattern.std() > 60  # noise over all levels
    assert torch.equal(Blend(alpha=1.0, seed=3).stamp(white), Blend(alpha=1.0, seed=3).stamp(black))
    assert not torch.equal(Blend(seed=3).stamp(images), Blend(seed=4).stamp(images))


@pytest.mark.parametrize(("source", "target"), [(None, None), (3, None), (None, 7), (3, 7)])
def test_flips_are_wrong_labels_of_the_rows_asked_for_and_images_stay(source, target):
    data = digits()
    poisoned = flip_labels(data, rate=0.25, source=source, target=target, seed=2)
    dirty, mask = poisoned.data.train, poisoned.mask
    whole = len(data.train) if source is None else int((data.train.labels == source).sum())
    assert int(mask.sum()) == round(0.25 * whole)
    assert (dirty.labels[mask] != data.train.labels[mask]).all()
    assert torch.equal(dirty.labels[~mask], data.train.labels[~mask])
    assert int(dirty.labels.min()) >= 0
    assert int(dirty.labels.max()) < 10
    if source is not None:
        assert (data.train.labels[mask] == source).all()
    if target is not None:
        assert (dirty.labels[mask] == target).all()
    elif source is None:
        # every other label with the same chance: 199 draws of 9 steps
        steps = (dirty.labels[mask] - data.train.labels[mask]) % 10
        assert set(steps.tolist()) == set(range(1, 10))
    assert torch.equal(_all(dirty), _all(data.train))


@pytest.mark.parametrize(
    "contaminate",
    [
        lambda data, rate, seed: flip_labels(data, rate=rate, seed=seed),
        lambda data, rate, seed: flip_labels(data, rate=rate, source=2, target=5, seed=seed),
        lambda data, rate, seed: plant_backdoor(
            data, rate=rate, target=1, trigger=Patch(size=2), seed=seed
        ),
    ],
)
def test_the_seed_decides_and_a_lower_rate_poisons_a_part_of_the_same_rows(contaminate):
    data = digits()
    few, many = contaminate(data, 0.1, 3), contaminate(data, 0.4, 3)
    assert torch.equal(few.rows, contaminate(data, 0.1, 3).rows)
    assert set(few.rows.tolist()) < set(many.rows.tolist())
    assert torch.equal(few.data.train.labels[few.rows], many.data.train.labels[few.rows])
    assert not torch.equal(few.rows, contaminate(data, 0.1, 4).rows)


def test_clean_labels_stay_and_only_images_of_the_target_are_marked():
    data = digits()
    poisoned = plant_backdoor(data, rate=1.0, target=6, trigger=Patch(size=2), clean_label=True)
    assert torch.equal(poisoned.mask, data.train.labels == 6)
    assert torch.equal(poisoned.data.train.labels, data.train.labels)
    assert not torch.equal(_all(poisoned.data.train), _all(data.train))


def test_all_rows_can_be_flipped_and_the_largest_share_is_counted_by_the_given_labels():
    data = digits()
    assert flip_labels(data, rate=1.0).largest_share == 1.0
    poisoned = plant_backdoor(data, rate=0.1, target=0, trigger=Patch(size=2))
    own = int((data.train.labels == 0).sum())
    assert poisoned.largest_share == pytest.approx(80 / (80 + own))


def test_the_digest_tells_contaminated_data_from_clean():
    data = digits()
    digests = {
        data.sha256,
        flip_labels(data, rate=0.1).data.sha256,
        flip_labels(data, rate=0.1, seed=1).data.sha256,
        plant_backdoor(data, rate=0.1, target=0, trigger=Patch(size=2)).data.sha256,
        plant_backdoor(data, rate=0.1, target=0, trigger=Patch(size=3)).data.sha256,
    }
    assert len(digests) == 5


def test_a_trigger_on_every_test_image_keeps_the_labels():
    data = digits()
    marked = with_trigger(data.test, Patch(size=2))
    assert torch.equal(marked.labels, data.test.labels)
    rows = torch.tensor([3, 9])
    assert torch.equal(marked.images(rows), Patch(size=2).stamp(data.test.images(rows)))


def test_a_subset_is_its_rows():
    data = digits()
    part = Subset(base=data.train, rows=torch.tensor([9, 2, 4]))
    assert len(part) == 3
    assert torch.equal(part.labels, data.train.labels[[9, 2, 4]])
    assert torch.equal(part.images(torch.tensor([2, 0])), data.train.images(torch.tensor([4, 9])))
    with pytest.raises(ValueError, match="at least one row"):
        Subset(base=data.train, rows=torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match=re.escape("rows must be in [0, 3), got 3")):
        part.images(torch.tensor([3]))


class _Unlabelled:
    shape = (1, 8, 8)
    labels = torch.full((5,), -1)

    def __len__(self):
        return 5


BAD = [
    (lambda d: flip_labels(d, rate=0.0), "rate must be in (0, 1], got 0"),
    (lambda d: flip_labels(d, rate=1.5), "rate must be in (0, 1], got 1.5"),
    (lambda d: flip_labels(d, rate=float("nan")), "rate must be in (0, 1], got nan"),
    (lambda d: flip_labels(d, rate=0.0001), "rate 0.0001 of 797 rows is 0"),
    (lambda d: flip_labels(d, rate=0.1, source=3, target=3), "two classes, got 3 twice"),
    (lambda d: flip_labels(d, rate=0.1, source=10), "source must be a class of digits, 0 to 9"),
    (lambda d: flip_labels(d, rate=0.1, target=-1), "target must be a class of digits, 0 to 9"),
    (
        lambda d: plant_backdoor(d, rate=0.1, target=12, trigger=Patch()),
        "target must be a class of digits, 0 to 9, got 12",
    ),
    (
        lambda d: plant_backdoor(d, rate=0.95, target=0, trigger=Patch()),
        "rate 0.95 of 797 rows is 757, and 719 may be poisoned",
    ),
    (
        lambda d: plant_backdoor(d, rate=0.1, target=0, trigger=Patch(size=8)),
        "size 8 and margin 1 do not fit on images of 8 x 8 pixels",
    ),
    (lambda d: with_trigger(d.test, Patch(size=9)), "do not fit on images of 8 x 8 pixels"),
    (lambda d: Patch(size=0), "size must be >= 1, got 0"),
    (lambda d: Patch(margin=-1), "margin must be >= 0, got -1"),
    (lambda d: Blend(alpha=0.0), "alpha must be in (0, 1], got 0"),
    (lambda d: Blend(alpha=1.1), "alpha must be in (0, 1], got 1.1"),
    (lambda d: flip_labels(replace(d, train=None), rate=0.1), "has no training split"),
    (lambda d: flip_labels(replace(d, train=_Unlabelled()), rate=0.5), "without a label"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_bad_requests_are_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        make(digits())
    assert "\n" not in str(caught.value)


def test_colour_images_are_marked_in_every_channel():
    pixels = torch.randint(0, 255, (6, 3, 10, 10), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    images = ArrayImageSet(pixels=pixels, labels=labels)
    data = replace(load_data("digits"), train=images, test=images, class_names=("a", "b"))
    poisoned = plant_backdoor(data, rate=0.5, target=1, trigger=Patch(size=1, margin=0))
    assert poisoned.rows.tolist() == [0, 2, 4]
    assert (poisoned.data.train.images(poisoned.rows)[:, :, 9, 9] == 255).all()
