"""`hf:NAME`: Hugging Face datasets as data, from folders, so that no network is needed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reading_for_tests import write_dataset

from deitsec.data import DataError, load_data

datasets = pytest.importorskip("datasets")

NAMES = ["cat", "dog", "eel"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (5, 6, 3), dtype=np.uint8)


def write(folder: Path, split: str, images: list[np.ndarray], **columns: Any) -> Path:
    """A split as a parquet file, as the Hub holds it."""
    features = {name: found[1] for name, found in columns.items()}
    values = {name: found[0] for name, found in columns.items()}
    rows = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in images], **values},
        features=datasets.Features({"image": datasets.Image(), **features}),
    )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def classes(*numbers: int) -> tuple[list[int], Any]:
    return list(numbers), datasets.ClassLabel(names=NAMES)


def chw(*images: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.as_tensor(image).permute(2, 0, 1) for image in images])


def test_test_and_training_split_with_the_names_of_the_classes(tmp_path: Path) -> None:
    test, train = [pixels(seed) for seed in (0, 1)], [pixels(seed) for seed in (2, 3, 4)]
    folder = write(tmp_path / "pets", "test", test, label=classes(2, 0))
    write(folder, "train", train, label=classes(1, 1, 0))
    data = load_data(f"hf:{folder}")
    assert (data.uri, data.name) == (f"hf:{folder}", "pets")
    assert data.class_names == tuple(NAMES)
    assert data.test.shape == (3, 5, 6)
    assert data.test.labels.tolist() == [2, 0]
    assert torch.equal(data.test.images(torch.tensor([1, 0, 1])), chw(test[1], test[0], test[1]))
    assert data.train is not None
    assert data.train.labels.tolist() == [1, 1, 0]
    assert torch.equal(data.train.images(torch.arange(3)), chw(*train))
    assert data.test.images(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 5, 6)


def test_a_validation_split_stands_in_and_a_single_split_is_a_test_split(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "validation", [pixels(0)], label=classes(0))
    write(folder, "train", [pixels(1)], label=classes(1))
    assert load_data(f"hf:{folder}").test.labels.tolist() == [0]
    alone = write(tmp_path / "b", "train", [pixels(0)], label=classes(1))
    data = load_data(f"hf:{alone}")
    assert data.train is None
    assert data.test.labels.tolist() == [1]


def test_grey_stays_grey_and_every_image_takes_the_size_of_the_first(tmp_path: Path) -> None:
    images = [pixels(0, 6, 6), pixels(1, 6, 6), np.full((12, 20), 77, np.uint8)]
    folder = write(tmp_path / "grey", "test", images, label=classes(0, 1, 2))
    data = load_data(f"hf:{folder}")
    assert data.test.shape == (1, 6, 6)
    found = data.test.images(torch.arange(3))
    assert torch.equal(found[0, 0], torch.as_tensor(images[0]))
    assert (found[2] == 77).all()
    assert load_data(f"hf:{folder}", image_size=8).test.images(torch.arange(3)).shape == (
        3,
        1,
        8,
        8,
    )


@pytest.mark.parametrize(
    ("name", "values", "kind", "names", "labels"),
    [
        ("fine_label", [0, 2], "class", NAMES, [0, 2]),
        ("label", [1, 3], "int64", ["0", "1", "2", "3"], [1, 3]),
        ("class", ["eel", "ant"], "string", ["ant", "eel"], [1, 0]),
    ],
)
def test_classes_come_from_names_numbers_or_words(
    tmp_path: Path, name: str, values: list[Any], kind: str, names: list[str], labels: list[int]
) -> None:
    feature = datasets.ClassLabel(names=NAMES) if kind == "class" else datasets.Value(kind)
    folder = write(tmp_path / "d", "test", [pixels(0), pixels(1)], **{name: (values, feature)})
    data = load_data(f"hf:{folder}")
    assert data.class_names == tuple(names)
    assert data.test.labels.tolist() == labels


def test_what_is_exported_comes_back(tmp_path: Path) -> None:
    from deitsec.generation.export import export_dataset

    shards = write_dataset(tmp_path / "shards")
    export_dataset(tmp_path / "shards", tmp_path / "out", form="hugging-face")
    data, stored = load_data(f"hf:{tmp_path / 'out'}"), load_data(f"shards:{tmp_path / 'shards'}")
    rows = torch.arange(sum(map(len, shards)))
    assert torch.equal(data.test.images(rows), stored.test.images(rows))
    assert torch.equal(data.test.labels, stored.test.labels)
    assert data.class_names == stored.class_names


def test_the_hash_hangs_on_files_and_classes_and_on_nothing_else(tmp_path: Path) -> None:
    images = [pixels(seed) for seed in range(2)]
    one = write(tmp_path / "one", "test", images, label=classes(0, 1))
    same = write(tmp_path / "two", "test", images, label=classes(0, 1))
    other = write(tmp_path / "three", "test", images, label=classes(0, 2))
    pixel = write(tmp_path / "four", "test", [images[0], pixels(9)], label=classes(0, 1))
    hashes = [load_data(f"hf:{folder}").sha256 for folder in (one, same, other, pixel)]
    assert hashes[0] == hashes[1] == load_data(f"hf:{one}", image_size=9).sha256
    assert len(set(hashes)) == 3


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    good = tmp_path / "good.png"
    Image.fromarray(pixels(0)).save(good)
    stored = [{"bytes": good.read_bytes(), "path": None}, {"bytes": b"no image", "path": None}]
    rows = datasets.Dataset.from_dict({"image": stored, "label": [0, 1]}, features=features)
    (tmp_path / "d").mkdir()
    rows.to_parquet(str(tmp_path / "d" / "test.parquet"))
    data = load_data(f"hf:{tmp_path / 'd'}")
    with pytest.raises(DataError, match=r"cannot decode row 1 of test of hf:.*\(Unidentified"):
        data.test.images(torch.arange(2))


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot load hf:nobody/nothing"):
        load_data("hf:nobody/nothing")
    with pytest.raises(DataError, match="names no path: write hf:NAME"):
        load_data("hf:")
    words = tmp_path / "words"
    words.mkdir()
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(str(words / "test.parquet"))
    with pytest.raises(DataError, match="no column of images: its columns are text"):
        load_data(f"hf:{words}")
    nothing = write(tmp_path / "n", "test", [pixels(0)], weight=([1.5], datasets.Value("float32")))
    with pytest.raises(DataError, match=r"no column of classes .*: its columns are image, weight"):
        load_data(f"hf:{nothing}")
    hidden = write(tmp_path / "h", "test", [pixels(0)], label=classes(-1))
    with pytest.raises(DataError, match=r"column label .* has rows without a class"):
        load_data(f"hf:{hidden}")
    parts = write(tmp_path / "p", "extra", [pixels(0)], label=classes(0))
    write(parts, "train", [pixels(0)], label=classes(0))
    with pytest.raises(DataError, match=r"has the splits .* and none of test, validation"):
        load_data(f"hf:{parts}")
