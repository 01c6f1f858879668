"""Exports, read back by the libraries that they are for: the same pixels and labels."""

import csv
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from reading_for_tests import NAMES, write_dataset

pytest.importorskip("pyarrow")

from deitsec.cli.app import run
from deitsec.data import load_data
from deitsec.generation.export import export_dataset
from deitsec.generation.export.class_folders import class_folders
from deitsec.generation.export.whole_folder import whole_folder

COLOUR = (3, 4, 5)


def pixels_of(image) -> np.ndarray:
    """(C, H, W) of a Pillow image."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def by_label(pairs) -> dict[int, list[bytes]]:
    """Images as readers show them, RGB, by label."""
    found: dict[int, list[bytes]] = {}
    for image, label in pairs:
        pixels = pixels_of(image) if isinstance(image, Image.Image) else image
        found.setdefault(int(label), []).append(
            np.ascontiguousarray(np.broadcast_to(pixels, (3, *pixels.shape[1:]))).tobytes()
        )
    return {label: sorted(images) for label, images in found.items()}


def stored(shards):
    return by_label(
        (image, label)
        for rows in shards
        for image, label in zip(rows.image, rows.label, strict=True)
    )


# ImageFolder


@pytest.mark.parametrize("shape", [(1, 4, 5), COLOUR])
@pytest.mark.parametrize("names", [NAMES, ("a", "b", "c"), tuple("zyx"), ("10", "9", "8")])
def test_image_folder_in_every_reader(tmp_path, shape, names) -> None:
    from timm.data import ImageDataset
    from torchvision.datasets import ImageFolder

    shards = write_dataset(tmp_path / "data", shape=shape, names=names)
    done = export_dataset(tmp_path / "data", tmp_path / "out", form="image-folder")
    assert (done.rows, done.files) == (15, 17)
    assert by_label(ImageFolder(tmp_path / "out")) == stored(shards)
    assert by_label(ImageDataset(str(tmp_path / "out"))) == stored(shards)
    ours = load_data(f"folder:{tmp_path}/out").test
    images = ours.images(torch.arange(len(ours))).numpy()
    assert by_label(zip(images, ours.labels.tolist(), strict=True)) == stored(shards)


def test_grey_stays_grey_and_rows_csv_says_which(tmp_path) -> None:
    shards = write_dataset(tmp_path / "data", (5, 0, 7))
    export_dataset(tmp_path / "data", tmp_path / "out", form="image-folder")
    with (tmp_path / "out" / "rows.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 12
    row = table[6]
    with Image.open(tmp_path / "out" / row["file"]) as image:
        assert image.mode == "L"
        assert np.array_equal(pixels_of(image), shards[2].image[1])
    assert row["sample_id"] == str(shards[2].sample_id[1])
    assert (table[0]["target"], row["target"]) == ("", "1")


def test_a_class_without_images_is_no_image_folder(tmp_path) -> None:
    write_dataset(tmp_path / "data", names=(*NAMES, "unseen"))
    with pytest.raises(ValueError, match="class 'unseen' has no image here"):
        export_dataset(tmp_path / "data", tmp_path / "out", form="image-folder")
    assert os.listdir(tmp_path) == ["data"]


@given(st.lists(st.text(max_size=80), min_size=1, max_size=12))
@example(["../../etc", "/abs", "..", ".", "", "a/b", "a\\b", "con", "CON.txt"])
@example(["Cat", "cat"])
@example(["rows.csv", "source-manifest.json"])
@example([".hidden", "x\x00y", "²", "é", "e\u0301"])
@settings(max_examples=200, deadline=None)
def test_folder_names_are_safe_distinct_and_in_order(names) -> None:
    found = class_folders(names)
    assert len({name.casefold() for name in found}) == len(names)
    assert list(found) == sorted(found)
    for name in found:
        assert os.path.basename(name) == name not in ("", ".", "..", "rows.csv")
        assert "\\" not in name
        assert "\x00" not in name
        assert not name.startswith(".")
        assert len(name.encode()) <= 255


def test_timm_counts_numbers_by_their_value() -> None:
    digits = [str(digit) for digit in range(10)]
    assert list(class_folders(digits)) == digits
    assert class_folders([*digits, "10"])[2::8] == ("02_2", "10_10")


def test_names_of_classes_stay_in_the_folder(tmp_path) -> None:
    write_dataset(tmp_path / "data", names=("../../up", "/tmp/x", ".."))
    export_dataset(tmp_path / "data", tmp_path / "deep" / "out", form="image-folder")
    assert sorted(os.listdir(tmp_path)) == ["data", "deep"]
    assert os.listdir(tmp_path / "deep") == ["out"]


# WebDataset


@pytest.mark.parametrize("shape", [(1, 4, 5), COLOUR])
def test_webdataset_reads_it(tmp_path, shape) -> None:
    webdataset = pytest.importorskip("webdataset")
    shards = write_dataset(tmp_path / "data", shape=shape, clean=True)
    export_dataset(tmp_path / "data", tmp_path / "out", form="webdataset")
    urls = str(tmp_path / "out" / "{00000..00002}.tar")
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(samples) == 15
    assert len({sample["__key__"] for sample in samples}) == 15
    rows = [(part, row) for part in shards for row in range(len(part))]
    for sample, (part, row) in zip(samples, rows, strict=True):
        # it makes RGB of grey
        expected = np.broadcast_to(part.image[row], (3, *shape[1:]))
        assert np.array_equal(pixels_of(sample["png"]), expected)
        clean = np.broadcast_to(part.clean_image[row], (3, *shape[1:]))
        assert np.array_equal(pixels_of(sample["clean.png"]), clean)
        about = sample["json"]
        assert sample["cls"] == about["label"] == part.label[row]
        assert about["class"] == NAMES[part.label[row]]
        assert about["target"] == (None if part.target[row] == -1 else part.target[row])
        assert about["sample_id"] == part.sample_id[row]
        assert np.float32(about["confidence"]) == part.confidence[row]


def test_tar_files_have_the_same_bytes_each_time(tmp_path) -> None:
    pytest.importorskip("webdataset")
    write_dataset(tmp_path / "data")
    for name in "ab":
        export_dataset(tmp_path / "data", tmp_path / name, form="webdataset")
    names = sorted(os.listdir(tmp_path / "a"))
    assert names == ["00000.tar", "00001.tar", "00002.tar", "source-manifest.json"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with tarfile.open(tmp_path / "a" / "00001.tar") as tar:
        assert tar.getnames()[:3] == [f"00002_000000.{end}" for end in ("cls", "json", "png")]
        assert {member.mtime for member in tar} == {0}


# Hugging Face


@pytest.mark.parametrize("shape", [(1, 4, 5), COLOUR])
def test_datasets_opens_it(tmp_path, monkeypatch, shape) -> None:
    datasets = pytest.importorskip("datasets")
    shards = write_dataset(tmp_path / "data", shape=shape, clean=True, split="train")
    export_dataset(tmp_path / "data", tmp_path / "out", form="hugging-face")
    found = datasets.load_dataset(
        str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(found.features["image"], datasets.Image)
    assert found.features["label"] == datasets.ClassLabel(names=list(NAMES))
    rows = [(part, row) for part in shards for row in range(len(part))]
    for sample, (part, row) in zip(found, rows, strict=True):
        assert np.array_equal(pixels_of(sample["image"]), part.image[row])
        assert np.array_equal(pixels_of(sample["clean_image"]), part.clean_image[row])
        assert sample["label"] == part.label[row]
        assert sample["target"] == (None if part.target[row] == -1 else part.target[row])
        assert sample["success"] == part.success[row]
        assert np.float32(sample["l2"]) == part.l2[row]


def test_the_card_says_how_it_was_made(tmp_path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("datasets")
    write_dataset(tmp_path / "data", (6, 4), variants=2)
    export_dataset(tmp_path / "data", tmp_path / "out", form="hugging-face", variant=0)
    card = hub.DatasetCard.load(tmp_path / "out" / "README.md")
    text = " ".join(card.text.split())
    assert card.data.to_dict()["dataset_info"]["splits"][0]["num_examples"] == 6
    assert "6 adversarial images of 3 classes, 1 x 4 x 5" in text
    assert f"| 0 | `pgd:eps=8/255` | linf | 0.0313725 | `tiny` | `{'ab' * 32}` | 6 | 50.00%" in text
    assert "| 1 |" not in text
    assert "`deitsec generate --out somewhere`" in text
    assert f"sha256 `{'cd' * 32}`" in text
    assert "fooled the model" not in text


# All of them


@pytest.mark.parametrize("form", ["image-folder", "webdataset", "hugging-face"])
def test_only_successes_of_one_variant(tmp_path, form) -> None:
    pytest.importorskip("webdataset")
    pytest.importorskip("datasets")
    shards = write_dataset(tmp_path / "data", (9, 7, 12, 5), variants=2)
    seen: list[tuple[int, int]] = []
    done = export_dataset(
        tmp_path / "data",
        tmp_path / "out",
        form=form,
        variant=1,
        only_success=True,
        progress=lambda *event: seen.append(event),
    )
    expected = sum(int(rows.success.sum()) for rows in (shards[1], shards[3]))
    assert done.rows == expected
    assert seen[-1] == (expected, expected)
    if form == "image-folder":
        names = {path.name for path in (tmp_path / "out").rglob("*.png")}
        assert names == {
            f"{shard:05d}_{row:06d}.png"
            for shard in (1, 3)
            for row in np.flatnonzero(shards[shard].success)
        }


def test_a_folder_that_holds_something_is_refused(tmp_path) -> None:
    write_dataset(tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    with pytest.raises(ValueError, match="out is not an empty folder"):
        export_dataset(tmp_path / "data", tmp_path / "out", form="image-folder")
    assert os.listdir(tmp_path / "out") == ["x"]


def test_an_interrupted_export_leaves_nothing(tmp_path) -> None:
    (tmp_path / "out").mkdir()

    def interrupted() -> None:
        with whole_folder(tmp_path / "out") as part:
            (part / "half").touch()
            assert os.listdir(tmp_path / "out") == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_to_an_empty_folder_is_followed(tmp_path) -> None:
    write_dataset(tmp_path / "data")
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "empty")
    export_dataset(tmp_path / "data", tmp_path / "out", form="image-folder")
    assert (tmp_path / "out").is_symlink()
    assert len(list((tmp_path / "disk" / "empty").rglob("*.png"))) == 15
    assert os.listdir(tmp_path / "disk") == ["empty"]


def test_what_a_killed_export_left_is_removed_but_not_what_is_being_filled(tmp_path) -> None:
    left = [tmp_path / name for name in (".out.0123abcd.part", ".other.0123abcd.part", ".out.x")]
    for folder in left:
        (folder / "class").mkdir(parents=True)
    with whole_folder(tmp_path / "out") as first:
        assert [folder.exists() for folder in left] == [False, True, True]
        (first / "x").touch()
        with pytest.raises(KeyError), whole_folder(tmp_path / "out"):
            raise KeyError
        assert (first / "x").exists()
    assert (tmp_path / "out" / "x").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "zip"}, "form must be one of image-folder, webdataset, hugging-face, got 'zip'"),
        ({"form": "webdataset", "variant": 3}, r"variant must be in \[0, 1\), got 3"),
    ],
)
def test_bad_requests(tmp_path, options, said) -> None:
    write_dataset(tmp_path / "data")
    with pytest.raises(ValueError, match=said):
        export_dataset(tmp_path / "data", tmp_path / "out", **options)


def test_two_channels_are_no_png(tmp_path) -> None:
    write_dataset(tmp_path / "data", shape=(2, 4, 5))
    with pytest.raises(ValueError, match="images must have 1 or 3 channels"):
        export_dataset(tmp_path / "data", tmp_path / "out", form="image-folder")


def test_the_command(tmp_path, capsys) -> None:
    write_dataset(tmp_path / "data")
    words = ["generate", "export", str(tmp_path / "data"), "--to", "image-folder", "--json"]
    assert run([*words, "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 15
    assert run([*words, "--out", str(tmp_path / "out")]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
