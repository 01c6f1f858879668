"""`shards:DIR`: adversarial images as data to attack and to train on."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from reading_for_tests import NAMES, some_rows, write_dataset

pytest.importorskip("pyarrow")

from deitsec.data import DataError, load_data, shard_set
from deitsec.shards import ShardFolder, read_manifest, read_shard, write_manifest, write_shard


def test_the_adversarial_images_and_their_labels_are_the_test_split(tmp_path) -> None:
    shards = write_dataset(tmp_path / "data", (5, 0, 7))
    source = load_data(f"shards:{tmp_path}/data")
    assert (source.name, source.train, source.class_names) == ("data", None, NAMES)
    rows = torch.tensor([11, 0, 5, 4])
    everything = np.concatenate([part.image for part in shards])
    assert torch.equal(source.test.images(rows), torch.from_numpy(everything[rows.numpy()]))
    labels = np.concatenate([part.label for part in shards])
    assert source.test.labels.dtype == torch.int64
    assert source.test.labels.tolist() == labels.tolist()


def test_two_folders_are_two_splits(tmp_path) -> None:
    write_dataset(tmp_path / "train", (9,))
    write_dataset(tmp_path / "test", (4,))
    source = load_data(f"shards:{tmp_path}")
    assert source.train is not None
    assert (len(source.train), len(source.test)) == (9, 4)


@pytest.mark.parametrize(
    ("other", "said"),
    [({"names": ("a", "b", "c")}, "another class names"), ({"shape": (3, 4, 5)}, "another shape")],
)
def test_splits_that_do_not_fit(tmp_path, other, said) -> None:
    write_dataset(tmp_path / "train", (9,), **other)
    write_dataset(tmp_path / "test", (4,))
    with pytest.raises(DataError, match=said):
        load_data(f"shards:{tmp_path}")


def test_a_training_split_alone(tmp_path) -> None:
    write_dataset(tmp_path / "train", (9,))
    with pytest.raises(DataError, match=r"has train, but no dataset in .*test"):
        load_data(f"shards:{tmp_path}")


def test_images_come_to_the_size_asked_for(tmp_path) -> None:
    write_dataset(tmp_path / "data", (4,))
    source = load_data(f"shards:{tmp_path}/data", image_size=8)
    assert source.test.shape == (1, 8, 8)
    assert source.test.images(torch.arange(4)).shape == (4, 1, 8, 8)


def test_opening_reads_no_shard_and_the_digest_neither(tmp_path, monkeypatch) -> None:
    write_dataset(tmp_path / "data")
    from deitsec.shards import shard_folder

    monkeypatch.setattr(shard_folder, "OpenShard", None)
    assert len(load_data(f"shards:{tmp_path}/data").sha256) == 64


def test_the_digest_is_of_what_is_stored(tmp_path) -> None:
    write_dataset(tmp_path / "a", (4, 4))
    write_dataset(tmp_path / "b", (4, 4))
    write_dataset(tmp_path / "c", (4, 3))
    first, again, other = (load_data(f"shards:{tmp_path}/{name}").sha256 for name in "abc")
    assert first == again
    assert first != other


@pytest.mark.parametrize("uri", ["shards:nowhere", "shards:."])
def test_no_dataset(tmp_path, monkeypatch, uri) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"what `deitsec generate` wrote|folder that `deitsec"):
        load_data(uri)


def test_a_folder_without_a_scheme_is_recognised(tmp_path) -> None:
    write_dataset(tmp_path / "data", (1,))
    with pytest.raises(DataError, match=f"did you mean shards:{tmp_path}/data"):
        load_data(str(tmp_path / "data"))


def test_an_unfinished_dataset_is_refused(tmp_path) -> None:
    write_dataset(tmp_path / "data", complete=False)
    with pytest.raises(DataError, match="is not complete"):
        load_data(f"shards:{tmp_path}/data")


def test_a_missing_shard_is_named(tmp_path) -> None:
    write_dataset(tmp_path / "data")
    os.remove(tmp_path / "data" / "shard-00002.parquet")
    with pytest.raises(DataError, match=r"shard-00002.parquet is missing"):
        load_data(f"shards:{tmp_path}/data")


def test_a_shard_broken_later_is_a_row_that_cannot_be_read(tmp_path) -> None:
    """`deitsec generate --data shards:` lists such rows and goes on."""
    write_dataset(tmp_path / "data", (2, 2))
    source = load_data(f"shards:{tmp_path}/data")
    path = tmp_path / "data" / "shard-00001.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    assert source.test.images(torch.tensor([1])).shape == (1, 1, 4, 5)
    with pytest.raises(DataError, match=r"shard-00001.parquet cannot be read"):
        source.test.images(torch.tensor([1, 2]))


def test_a_label_without_a_name(tmp_path) -> None:
    write_dataset(tmp_path / "data", (4,))
    folder = tmp_path / "data"
    _, about = read_shard(folder / "shard-00000.parquet")
    rows = dataclasses.replace(some_rows(4), label=np.array([0, 1, 3, 2], np.int32))
    sha256, size = write_shard(folder, rows, about)
    manifest = read_manifest(folder)
    entry = dataclasses.replace(manifest.shards[0], sha256=sha256, bytes=size)
    write_manifest(folder, dataclasses.replace(manifest, shards=(entry,)))
    source = load_data(f"shards:{folder}")
    with pytest.raises(DataError, match=r"label 3 in row 2 of shard 0 has no name"):
        _ = source.test.labels
    assert shard_set.ShardSet(ShardFolder(folder)).label_range == (0, 2)


def test_what_generate_wrote_is_read_back(tmp_path) -> None:
    """Against the source itself: clean pixels, labels, and the distance that was noted."""
    pytest.importorskip("filelock")
    import deitsec
    from deitsec.generation import Settings
    from deitsec.models import build_own

    torch.manual_seed(0)
    model = build_own("logistic_regression", in_chans=1, image_size=32).eval()
    settings = Settings(per_class=2, shard_rows=8, clean_images=True)
    deitsec.generate(
        deitsec.Engine(model),
        deitsec.FGSM(eps=0.1),
        "digits",
        out=tmp_path / "d",
        settings=settings,
    )
    digits = load_data("digits").test
    columns = ["source_row", "clean_image", "linf_levels"]
    found = deitsec.ShardDataset(tmp_path / "d", columns=columns, dtype=torch.uint8)
    assert len(found) == 20
    for place in range(20):
        image, label, row, clean, levels = found[place]
        assert torch.equal(clean, digits.images(row[None])[0])
        assert label == digits.labels[row]
        assert (image.int() - clean.int()).abs().max() == levels
