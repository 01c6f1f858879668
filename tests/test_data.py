import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from deitsec.data import (
    ArrayImageSet,
    DataError,
    DataSource,
    balanced_rows,
    batches,
    digest,
    load_data,
    to_float,
)
from deitsec.data.resize import centred_box, cover

REPO = Path(__file__).parents[1]
SHARED = REPO / ".." / "shared" / "data"
DIGITS_SHA256 = "3453e8d02a9fc693ae610ba256fbcea7248e38baa27cd411551e3b066038cbb6"


def ramp(num: int, channels: int = 1, height: int = 2, width: int = 3) -> Tensor:
    count = num * channels * height * width
    return (torch.arange(count) % 251).to(torch.uint8).view(num, channels, height, width)


def array_set(num: int = 4, **changes: object) -> ArrayImageSet:
    given = {"pixels": ramp(num), "labels": torch.arange(num) % 2} | changes
    return ArrayImageSet(**given)  # pyright: ignore[reportArgumentType]


def source(test: ArrayImageSet, train: ArrayImageSet | None = None) -> DataSource:
    return DataSource(uri="x", name="x", train=train, test=test, class_names=("a", "b"))


# URIs


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("Mnist", "did you mean mnist?"),
        ("cifar", "did you mean cifar10?"),
        ("nzp:a.npz", "did you mean npz:a.npz?"),
        ("some/a.npz", "did you mean npz:some/a.npz?"),
        (str(REPO), f"did you mean folder:{REPO}?"),
        ("tfds:beans", "npz:FILE, folder:DIR, shards:DIR, hf:NAME"),
        ("", "unknown data source ''"),
        ("digits:1", "write digits"),
        ("npz", "write npz:FILE"),
        ("folder:", "write folder:DIR"),
    ],
)
def test_a_wrong_uri_names_the_right_ones(uri: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        load_data(uri)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_far_from_any_name_gets_no_guess() -> None:
    with pytest.raises(DataError) as caught:
        load_data("tfds:beans")
    assert "did you mean" not in str(caught.value)


def test_a_uri_is_a_string() -> None:
    with pytest.raises(TypeError, match="uri must be a str"):
        load_data(Path("digits"))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("image_size", "error"),
    [(0, ValueError), (-3, ValueError), (True, TypeError), (8.0, TypeError)],
)
def test_a_wrong_image_size_is_refused(image_size: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="image_size must be"):
        load_data("digits", image_size=image_size)


def test_a_data_error_stays_on_one_line() -> None:
    assert str(DataError("no file a\nb\r\nc")) == "no file a b c"
    assert issubclass(DataError, ValueError)


def test_importing_the_room_imports_no_library_of_a_source() -> None:
    code = (
        "import sys, deitsec.data; "
        "print(*[m for m in ('torchvision', 'sklearn', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


# digits


def test_digits_are_the_pinned_ones() -> None:
    data = load_data("digits")
    assert data.sha256 == DIGITS_SHA256
    assert data.class_names == tuple("0123456789")
    assert data.num_classes == 10
    assert (data.uri, data.name) == ("digits", "digits")


def test_digits_are_split_into_100_a_class_and_the_rest() -> None:
    data = load_data("digits")
    assert data.train is not None
    assert data.test.labels.bincount().tolist() == [100] * 10
    assert (len(data.test), len(data.train)) == (1000, 797)
    assert data.test.shape == data.train.shape == (1, 32, 32)


def test_digits_are_scikit_learns_bilinear_and_rounded_each_once() -> None:
    from sklearn.datasets import load_digits

    # Output pixels 2, 6, 10, ... lie an eighth of the way from one input pixel to the next.
    levels, labels = load_digits().images, load_digits().target
    across = 0.875 * levels[:, :, :-1] + 0.125 * levels[:, :, 1:]
    both = 0.875 * across[:, :-1] + 0.125 * across[:, 1:]
    expected = np.round(both * 255 / 16).astype(np.uint8)
    for_test = np.zeros(1797, dtype=bool)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        for_test[[rows[i * len(rows) // 100] for i in range(100)]] = True
    data = load_data("digits")
    assert data.train is not None
    for images, mask in ((data.test, for_test), (data.train, ~for_test)):
        got = images.images(torch.arange(len(images)))[:, 0, 2:-2:4, 2:-2:4].numpy()
        assert np.array_equal(got, expected[mask])
        assert np.array_equal(images.labels.numpy(), labels[mask])


# MNIST and CIFAR-10 as archives, at hand during development only


@pytest.mark.parametrize(
    ("name", "shape", "train", "test", "sha256"),
    [
        ("mnist", (1, 28, 28), 60000, 10000, "06c28e9ef807cc67"),
        ("cifar10", (3, 32, 32), 12000, 2000, "eeb02bd84360266e"),
    ],
)
def test_real_archives_load(
    name: str, shape: tuple[int, int, int], train: int, test: int, sha256: str
) -> None:
    path = SHARED / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    data = load_data(f"npz:{path}")
    assert data.train is not None
    assert (data.name, data.num_classes, data.test.shape) == (name, 10, shape)
    assert (len(data.train), len(data.test)) == (train, test)
    assert data.sha256.startswith(sha256)
    with np.load(path) as archive:
        pixels = archive["x_test"][[5, 0]].reshape(2, shape[1], shape[2], shape[0])
    got = data.test.images(torch.tensor([5, 0]))
    assert np.array_equal(got.permute(0, 2, 3, 1).numpy(), pixels)


# sets in memory


def test_images_come_in_the_order_of_the_rows_contiguous_and_copied() -> None:
    stored = (
        ramp(4, channels=3).permute(0, 2, 3, 1).contiguous()
    )  # channels last, as an npz has them
    images = array_set(pixels=stored.permute(0, 3, 1, 2))
    got = images.images(torch.tensor([2, 0, 2]))
    assert torch.equal(got, ramp(4, channels=3)[[2, 0, 2]])
    assert got.is_contiguous()
    got.zero_()
    assert torch.equal(images.images(torch.arange(4)), ramp(4, channels=3))


@pytest.mark.parametrize("image_size", [None, 5])
def test_no_rows_give_no_images(image_size: int | None) -> None:
    images = array_set(image_size=image_size)
    assert images.images(torch.tensor([], dtype=torch.int64)).shape == (0, *images.shape)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (torch.tensor([4]), ValueError),
        (torch.tensor([0, -1]), ValueError),
        (torch.tensor([0.0]), TypeError),
        (torch.tensor([True, False, True, False]), TypeError),
        (torch.tensor([[0]]), TypeError),
        (torch.tensor(0), TypeError),
    ],
)
def test_rows_that_name_no_image_are_refused(rows: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error, match="rows must be"):
        array_set().images(rows)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"pixels": ramp(4).float()}, TypeError, "pixels must be torch.uint8"),
        ({"labels": torch.zeros(4)}, TypeError, "labels must be torch.int64"),
        ({"pixels": ramp(4)[:, 0]}, ValueError, "pixels must be"),
        ({"pixels": ramp(4, channels=2)}, ValueError, "C 1 or 3"),
        ({"pixels": ramp(0), "labels": torch.arange(0)}, ValueError, "no side 0"),
        ({"labels": torch.arange(3)}, ValueError, "one for each image"),
        ({"labels": torch.tensor([0, 1, -2, 0])}, ValueError, "labels must be >= 0"),
        ({"image_size": 0}, ValueError, "image_size must be >= 1"),
    ],
)
def test_tensors_that_make_no_image_set_are_refused(
    changes: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        array_set(**changes)


def test_a_source_refuses_splits_that_do_not_fit() -> None:
    wide = array_set(pixels=ramp(4, width=4))
    with pytest.raises(ValueError, match="one image shape"):
        source(array_set(), wide)
    with pytest.raises(ValueError, match="class_names must name every label"):
        source(array_set(labels=torch.tensor([0, 1, 2, 0])))


# sizes


@pytest.mark.parametrize(
    ("given", "size", "box"),
    [
        ((28, 28), (32, 32), (0, 0, 28, 28)),
        ((100, 60), (32, 32), (20, 0, 80, 60)),
        ((61, 100), (30, 30), (0, 19, 61, 80)),
        ((10, 10), (5, 10), (2, 0, 7, 10)),
        ((1, 500), (7, 7), (0, 249, 1, 250)),
    ],
)
def test_the_box_is_centred_and_has_the_aspect_ratio(
    given: tuple[int, int], size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert centred_box(given, size) == box


def test_an_image_that_has_the_size_is_untouched() -> None:
    assert torch.equal(cover(ramp(3, 3, 7, 7), (7, 7)), ramp(3, 3, 7, 7))


def test_resampling_agrees_with_pillow() -> None:
    smooth = Image.fromarray(ramp(1, 1, 6, 8)[0, 0].numpy()).resize(
        (40, 30), Image.Resampling.BICUBIC
    )
    ours = cover(torch.as_tensor(np.array(smooth))[None, None], (12, 12))[0, 0].numpy()
    theirs = smooth.crop((5, 0, 35, 30)).resize((12, 12), Image.Resampling.BICUBIC)
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 1


def test_image_size_changes_the_images_and_not_the_digest() -> None:
    small = load_data("digits", image_size=20)
    assert small.test.shape == (1, 20, 20)
    assert small.test.images(torch.tensor([0, 7])).shape == (2, 1, 20, 20)
    assert small.sha256 == DIGITS_SHA256


# digests


def test_the_digest_is_of_split_dtype_shape_pixels_and_labels() -> None:
    test, train = array_set(2), array_set(3)
    expected = hashlib.sha256()
    for split, images in (("test", test), ("train", train)):
        expected.update(f"{split} uint8 {tuple(images.pixels.shape)}\n".encode())
        expected.update(images.pixels.numpy().tobytes())
        expected.update(images.labels.numpy().astype("<i8").tobytes())
    assert source(test, train).sha256 == expected.hexdigest()


def test_the_digest_does_not_depend_on_blocks_or_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = ramp(5, channels=3)
    whole = source(array_set(5, pixels=pixels)).sha256
    last = pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    monkeypatch.setattr(digest, "_BLOCK_BYTES", 2 * 18)
    assert source(array_set(5, pixels=last)).sha256 == whole


@pytest.mark.parametrize(
    "other",
    [
        array_set(pixels=ramp(4).index_fill(0, torch.tensor([3]), 0)),
        array_set(labels=torch.tensor([0, 1, 1, 1])),
        array_set(pixels=ramp(4, height=3, width=2)),
        array_set(5),
    ],
    ids=["pixels", "labels", "shape", "count"],
)
def test_the_digest_tells_data_apart(other: ArrayImageSet) -> None:
    assert source(other).sha256 != source(array_set()).sha256
    assert source(array_set(), array_set()).sha256 != source(array_set()).sha256


@dataclass(frozen=True)
class Foreign:
    """An image set of somebody else's: the protocol and nothing more."""

    labels: Tensor
    shape: tuple[int, int, int] = (1, 2, 3)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Tensor) -> Tensor:
        return ramp(len(self))[rows]


def test_a_set_of_somebody_elses_is_hashed_by_what_it_returns() -> None:
    foreign = Foreign(labels=torch.arange(4) % 2)
    data = DataSource(uri="x", name="x", train=None, test=foreign, class_names=("a", "b"))
    assert data.sha256 == source(array_set()).sha256


# rows, floats, batches


def test_balanced_rows_are_the_first_of_each_class_in_row_order() -> None:
    labels = torch.tensor([2, 0, 0, 1, 2, 0, 1, 2, 5])
    assert balanced_rows(labels, 2, 3).tolist() == [0, 1, 2, 3, 4, 6]


def test_balanced_rows_name_the_class_that_has_too_few() -> None:
    with pytest.raises(ValueError, match="class 1 has 2 images, fewer than the 3 asked for"):
        balanced_rows(torch.tensor([0, 0, 0, 1, 1]), 3, 2)


@pytest.mark.parametrize(("per_class", "num_classes"), [(0, 2), (2, 0)])
def test_balanced_rows_want_at_least_one(per_class: int, num_classes: int) -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        balanced_rows(torch.tensor([0, 1]), per_class, num_classes)


def test_to_float_divides_every_level_by_255() -> None:
    levels = torch.arange(256).to(torch.uint8)
    got = to_float(levels)
    assert got.dtype == torch.float32
    assert torch.equal(got, torch.arange(256, dtype=torch.float32) / 255)
    assert torch.equal((got * 255).round().to(torch.uint8), levels)


def test_to_float_takes_uint8_only() -> None:
    with pytest.raises(TypeError, match=r"images must be torch\.uint8"):
        to_float(torch.zeros(2))


def test_batches_follow_the_rows_and_end_with_the_rest() -> None:
    images = array_set(5)
    got = list(batches(images, torch.tensor([4, 1, 0]), 2))
    assert [rows.tolist() for rows, _, _ in got] == [[4, 1], [0]]
    assert [labels.tolist() for _, _, labels in got] == [[0, 1], [0]]
    assert torch.equal(torch.cat([x for _, x, _ in got]), to_float(ramp(5)[[4, 1, 0]]))
    assert list(batches(images, torch.tensor([], dtype=torch.int64), 2)) == []


def test_batches_hold_at_least_one_row() -> None:
    with pytest.raises(ValueError, match="batch_size must be >= 1"):
        next(batches(array_set(), torch.arange(4), 0))
