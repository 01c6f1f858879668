"""MNIST and CIFAR-10 from files laid out as torchvision keeps them; nothing is downloaded here."""

import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, cifar, mnist

from deitsec.data import DataError, load_data
from deitsec.data.downloads import data_root

NUM = 20


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no network\nin tests")

    monkeypatch.setenv("DEITSEC_DATA", str(tmp_path))
    monkeypatch.setattr(mnist, "download_and_extract_archive", offline)
    monkeypatch.setattr(cifar, "download_and_extract_archive", offline)
    return tmp_path


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(NUM, *shape), dtype=np.uint8)


def write_mnist(root: Path, labels: np.ndarray) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        for name, array in (("images-idx3", pixels(28, 28)), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            content = header + array.astype(np.uint8).tobytes()
            (raw / f"{split}-{name}-ubyte").write_bytes(content)


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda _: None)
    folder = root / CIFAR10.base_folder
    folder.mkdir()
    batch = {"data": pixels(3, 32, 32).reshape(NUM, -1), "labels": [i % 10 for i in range(NUM)]}
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        (folder / name).write_bytes(pickle.dumps(batch))


def test_mnist_is_read_from_the_root(root: Path) -> None:
    write_mnist(root, np.arange(NUM) % 10)
    data = load_data("mnist")
    assert data.train is not None
    assert (data.uri, data.name, data.class_names) == ("mnist", "mnist", tuple("0123456789"))
    assert data.train.shape == data.test.shape == (1, 28, 28)
    assert data.test.labels.tolist() == [i % 10 for i in range(NUM)]
    assert np.array_equal(data.test.images(torch.arange(NUM))[:, 0].numpy(), pixels(28, 28))


def test_cifar10_is_read_from_the_root_with_its_names(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(root, monkeypatch)
    data = load_data("cifar10", image_size=16)
    assert data.train is not None
    assert len(data.train) == 5 * NUM
    assert data.test.shape == (3, 16, 16)
    assert ",".join(data.class_names) == (
        "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
    )
    whole = load_data("cifar10").test.images(torch.arange(NUM))
    assert np.array_equal(whole.numpy(), pixels(3, 32, 32))


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("mnist", "t10k-labels-idx1-ubyte.gz", "MNIST/raw"),
        ("cifar10", "cifar-10-python.tar.gz", ""),
    ],
)
def test_without_a_network_one_line_says_what_to_put_where(
    root: Path, name: str, file: str, folder: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_data(name)
    message = str(caught.value)
    assert message.startswith(f"cannot load {name} (")
    assert "no network" in message
    assert file in message
    assert f"into {root / folder} " in message
    assert message.endswith("or use npz:FILE")
    assert "\n" not in message


@pytest.mark.parametrize("kept", [0, 3, 40])
def test_a_damaged_file_is_a_data_error(root: Path, kept: int) -> None:
    write_mnist(root, np.arange(NUM) % 10)
    file = root / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match="replacing what is damaged there"):
        load_data("mnist")


def test_a_label_without_a_class_is_a_data_error(root: Path) -> None:
    write_mnist(root, np.arange(NUM))
    with pytest.raises(DataError, match="class_names must name every label"):
        load_data("mnist")


def test_the_root_is_in_the_cache_unless_the_environment_names_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data_root() == root
    monkeypatch.delenv("DEITSEC_DATA")
    monkeypatch.setenv("DEITSEC_CACHE", str(root / "cache"))
    assert data_root() == root / "cache" / "data"
    monkeypatch.delenv("DEITSEC_CACHE")
    assert data_root() == Path.home() / ".cache" / "deitsec" / "data"
