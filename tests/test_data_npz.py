import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deitsec.data import DataError, load_data


def images(num: int = 6, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(num, *(shape or (4, 5))), dtype=np.uint8)


def labels(num: int = 6) -> np.ndarray:
    return np.arange(num) % 3


def save(path: Path, **changes: Any) -> str:
    arrays = {"x_test": images(), "y_test": labels()} | changes
    np.savez(path / "a.npz", **{key: array for key, array in arrays.items() if array is not None})
    return f"npz:{path / 'a.npz'}"


def test_the_training_pair_and_other_keys_are_optional(tmp_path: Path) -> None:
    data = load_data(save(tmp_path, exact=np.ones(6, bool)))
    assert data.train is None
    assert (data.name, data.num_classes, data.class_names) == ("a", 3, ("0", "1", "2"))
    assert data.test.shape == (1, 4, 5)
    assert torch.equal(data.test.images(torch.arange(6))[:, 0], torch.as_tensor(images()))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_come_last_in_the_file_and_first_out_of_it(tmp_path: Path, channels: int) -> None:
    stored = images(6, 4, 5, channels)
    data = load_data(save(tmp_path, x_test=stored, x_train=stored[:2], y_train=labels(2)))
    assert data.train is not None
    assert data.train.shape == data.test.shape == (channels, 4, 5)
    got = data.train.images(torch.tensor([1]))
    assert np.array_equal(got[0].permute(1, 2, 0).numpy(), stored[1])


def test_one_channel_may_be_written_or_left_out(tmp_path: Path) -> None:
    flat = load_data(save(tmp_path)).sha256
    assert load_data(save(tmp_path, x_test=images()[..., None])).sha256 == flat


@pytest.mark.parametrize("dtype", ["u1", "i1", ">i2", "<i4", "u8"])
def test_labels_are_integers_of_any_dtype(tmp_path: Path, dtype: str) -> None:
    data = load_data(save(tmp_path, y_test=labels().astype(dtype)))
    assert data.test.labels.dtype == torch.int64
    assert data.test.labels.tolist() == labels().tolist()


def test_class_names_are_taken_from_the_file(tmp_path: Path) -> None:
    data = load_data(save(tmp_path, class_names=np.array(["cat", "dog", "eel"])))
    assert data.class_names == ("cat", "dog", "eel")


def test_classes_are_counted_over_both_splits(tmp_path: Path) -> None:
    uri = save(tmp_path, x_train=images(2), y_train=np.array([0, 3]))
    with pytest.raises(DataError, match="class 3 of 0 to 3 has no image in x_test"):
        load_data(uri)


def floats(**at: float) -> np.ndarray:
    x = images().astype(np.float32) / 255
    for row, value in at.items():
        x[int(row[1:]), 0, 0] = value
    return x


HUGE = np.array([0, 1, 2, 2**63 + 5, 1, 2], dtype=np.uint64)

REFUSED = {
    "no x_test": ({"x_test": None}, "no key x_test (keys found: y_test)"),
    "no y_test": ({"y_test": None}, "no key y_test (keys found: x_test)"),
    "no y_train": ({"x_train": images()}, "no key y_train"),
    "no x_train": ({"y_train": labels()}, "no key x_train"),
    "NaN": ({"x_test": floats(r4=np.nan)}, "x_test row 4 holds NaN"),
    "infinity": ({"x_test": floats(r2=np.inf)}, "x_test row 2 holds infinity"),
    "unit floats": ({"x_test": floats()}, "save numpy.round(x * 255).astype(numpy.uint8)"),
    "scaled floats": (
        {"x_test": floats(r1=-2.5)},
        "float32 from -2.5 to 0.972549: undo the scaling",
    ),
    "int64 images": ({"x_test": images().astype(np.int64)}, "must be uint8, got int64"),
    "bool images": ({"x_test": images() > 9}, "must be uint8, got bool"),
    "channels first": ({"x_test": images(6, 3, 8, 8)}, "x.transpose(0, 2, 3, 1)"),
    "four channels": ({"x_test": images(6, 8, 8, 4)}, "C 1 or 3, got (6, 8, 8, 4)"),
    "flat images": ({"x_test": images(6, 64)}, "must be (N, H, W)"),
    "no test images": ({"x_test": images(0), "y_test": labels(0)}, "x_test is empty"),
    "no train images": ({"x_train": images(0), "y_train": labels(0)}, "x_train is empty"),
    "side 0": ({"x_test": images(6, 0, 4)}, "x_test is empty, shape (6, 0, 4)"),
    "negative label": ({"y_test": np.array([0, 1, 2, 0, -1, 2])}, "y_test row 4 is -1"),
    "label over int64": ({"y_test": HUGE}, f"y_test row 3 is {2**63 + 5}"),
    "float labels": ({"y_test": labels() * 1.0}, "y_test must be integers, got float64"),
    "one-hot labels": ({"y_test": np.eye(3, dtype=int)[labels()]}, "save y.argmax(axis=1)"),
    "label column": ({"y_test": labels()[:, None]}, "save y.reshape(-1)"),
    "counts": ({"y_test": labels(5)}, "x_test has 6 images and y_test 5 labels"),
    "gap": ({"y_test": np.array([0, 1, 3, 3, 1, 0])}, "class 2 of 0 to 3 has no image in x_test"),
    "stray label": ({"y_test": labels() * 10**9}, "class 1 of 0 to 2000000000 has no image"),
    "label without name": (
        {"class_names": np.array(["a", "b"])},
        "y_test row 2 is 2, but class_names has 2 names",
    ),
    "name without image": ({"class_names": np.array(list("abcd"))}, "class 3 of 0 to 3 has no"),
    "numbers for names": ({"class_names": np.arange(3)}, "class_names must be (K,) strings"),
    "two shapes": (
        {"x_train": images(6, 5, 5), "y_train": labels()},
        "images of one (H, W, C), got (5, 5, 1) and (4, 5, 1)",
    ),
    "objects": ({"x_test": np.array([{}] * 6)}, "x_test is an array of objects"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_an_archive_that_cannot_be_used_says_what_where_and_how_to_mend_it(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    uri = save(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        load_data(uri)
    message = str(caught.value)
    assert said in message
    assert str(tmp_path / "a.npz") in message
    assert "\n" not in message


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    objects = np.empty(6, dtype=object)
    objects[:] = [Bomb() for _ in range(6)]
    with pytest.raises(DataError, match="array of objects"):
        load_data(save(tmp_path, y_test=objects))


def archive_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x_test=images(), y_test=labels())
    return buffer.getvalue()


def flip_pixels() -> bytes:
    return archive_bytes().replace(images().tobytes(), images()[::-1].tobytes())


def no_array() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x_test.npy", b"hello")
        archive.writestr("y_test.npy", b"hello")
    return buffer.getvalue()


def one_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not an .npz file"),
        (b"PK\x03\x04 and then nothing", "is not an .npz file"),
        (one_array(), "is not an .npz file"),
        (archive_bytes()[:-40], "is not an .npz file (no zip archive, or cut short)"),
        (flip_pixels(), "cannot read x_test (BadZipFile: Bad CRC-32"),
        (no_array(), "x_test is not a NumPy array"),
    ],
    ids=["empty", "garbage", "npy", "cut short", "bad checksum", "no array"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_data(f"npz:{path}")
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere/a.npz", "no file nowhere/a.npz"),
        ("a" * 5000, "bad path"),
        ("~nobody-has-this-name/a.npz", "bad path"),
        ("a\0b", "no file"),
    ],
    ids=["missing", "too long", "no home", "null byte"],
)
def test_a_bad_path_is_refused(path: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_data(f"npz:{path}")


def test_a_folder_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"use folder:{tmp_path}"):
        load_data(f"npz:{tmp_path}")
