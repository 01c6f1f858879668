"""Rows of a dataset by their number: the right ones, whatever shards they lie in."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_for_tests import SHAPE, some_rows, write_dataset

pq = pytest.importorskip("pyarrow.parquet")

from deitsec.shards import ShardError, ShardFolder, read_manifest, shard_file, shard_folder  # noqa: E402
from deitsec.shards.open_shard import OpenShard  # noqa: E402
from deitsec.shards.plain_pages import plain_pages  # noqa: E402


def joined(shards, name):
    return np.concatenate([getattr(rows, name) for rows in shards])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read") / "data"
    return folder, write_dataset(folder, (5, 0, 7, 3, 0), clean=True)


@given(rows=st.lists(st.integers(0, 14), max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_rows_in_any_order(dataset, rows) -> None:
    folder, shards = dataset
    index = np.array(rows, np.int64)
    found = ShardFolder(folder).read(index, shards[0].names)
    for name in shards[0].names:
        expected = joined(shards, name)[index]
        assert found[name].dtype == expected.dtype
        assert np.array_equal(found[name], expected), name


@given(rows=st.lists(st.integers(0, 5), max_size=10))
@settings(max_examples=20, deadline=None)
def test_successes_only(dataset, rows) -> None:
    folder, shards = dataset
    successes = np.flatnonzero(joined(shards, "success"))
    opened = ShardFolder(folder, only_success=True)
    assert len(opened) == len(successes)
    index = np.array(rows, np.int64)
    found = opened.read(index, ["image", "sample_id"])
    assert np.array_equal(found["image"], joined(shards, "image")[successes[index]])
    numbers, local = opened.places(index)
    ids = [shards[shard].sample_id[row] for shard, row in zip(numbers, local, strict=True)]
    assert found["sample_id"].tolist() == ids


def test_a_whole_column(dataset) -> None:
    folder, shards = dataset
    assert np.array_equal(ShardFolder(folder).column("label"), joined(shards, "label"))


def test_a_variant_is_every_so_many_shards(tmp_path) -> None:
    shards = write_dataset(tmp_path / "data", (4, 3, 2, 1), variants=2)
    second = ShardFolder(tmp_path / "data", variant=1)
    assert np.array_equal(second.column("sample_id"), joined([shards[1], shards[3]], "sample_id"))
    with pytest.raises(ValueError, match=r"variant must be in \[0, 2\), got 2"):
        ShardFolder(tmp_path / "data", variant=2)


def test_it_survives_pickling_with_shards_open(dataset) -> None:
    folder, shards = dataset
    opened = ShardFolder(folder)
    opened.read(np.arange(15), ["image"])
    again = pickle.loads(pickle.dumps(opened))
    assert np.array_equal(again.read(np.arange(15), ["image"])["image"], joined(shards, "image"))


def test_only_so_many_files_stay_open(dataset, monkeypatch) -> None:
    monkeypatch.setattr(shard_folder, "_OPEN_SHARDS", 2)
    opened = ShardFolder(dataset[0])
    opened.column("label")
    opened.read(np.arange(15), ["image"])
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert {Path(link).name for link in links if str(dataset[0]) in link} == {
        "shard-00002.parquet",
        "shard-00003.parquet",
    }


def test_processes_that_share_an_open_file_by_forking_do_not_disturb_each_other(dataset) -> None:
    shard = OpenShard(dataset[0] / "shard-00002.parquet")
    shard.take("image", np.array([0]))
    before = shard._opened_file().tell()
    shard.take("image", np.array([3, 1, 6]))
    assert shard._opened_file().tell() == before


def test_a_file_that_was_cut_since_it_was_opened(tmp_path) -> None:
    write_dataset(tmp_path / "data")
    path = tmp_path / "data" / "shard-00002.parquet"
    shard = OpenShard(path)
    shard.take("image", np.array([0]))
    os.truncate(path, 100)
    with pytest.raises(ShardError, match=r"shard-00002.parquet has lost its end"):
        shard.take("image", np.array([5]))
    shard.close()
    path.unlink()
    with pytest.raises(ShardError, match=r"shard-00002.parquet cannot be read \(No such file"):
        shard.take("image", np.array([5]))


@pytest.mark.parametrize("only_success", [False, True])
def test_a_shard_is_parsed_once_however_few_stay_open(dataset, monkeypatch, only_success) -> None:
    """Else an epoch in random order costs a footer and a column for nearly each of its rows."""
    folder, shards = dataset
    monkeypatch.setattr(shard_folder, "_OPEN_SHARDS", 1)
    opened = ShardFolder(folder, only_success=only_success)
    every = np.arange(len(opened))
    rows = np.flatnonzero(joined(shards, "success")) if only_success else every
    parse, decode, parsed, decoded = OpenShard.__init__, OpenShard.column, [], []
    monkeypatch.setattr(OpenShard, "__init__", lambda *a: parsed.append(a) or parse(*a))
    monkeypatch.setattr(OpenShard, "column", lambda *a: decoded.append(a[1]) or decode(*a))
    opened.read(every, ["image", "label"])
    before = len(parsed), len(decoded)
    assert before == (3, 6 if only_success else 3)
    monkeypatch.setattr(pq, "ParquetFile", None)  # nothing is parsed from here on
    for row in reversed(every):
        found = opened.read(np.array([row]), ["image", "label"])
        assert np.array_equal(found["image"], joined(shards, "image")[rows[[row]]])
        assert np.array_equal(found["label"], joined(shards, "label")[rows[[row]]])
    assert (len(parsed), len(decoded)) == before


def test_images_are_read_where_they_lie_not_decoded(dataset) -> None:
    shard = OpenShard(dataset[0] / "shard-00002.parquet")
    shard.take("image", np.arange(7))
    shard.take("clean_image", np.arange(7))
    assert shard.held_bytes == 0


def test_a_shard_of_several_row_groups(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shard_file, "_GROUP_ROWS", 3)
    shards = write_dataset(tmp_path / "data", (10,))
    path = tmp_path / "data" / "shard-00000.parquet"
    assert pq.read_metadata(path).num_row_groups == 4
    rows = np.array([9, 0, 3, 3, 2, 8])
    found = ShardFolder(tmp_path / "data").read(rows, ["image"])["image"]
    assert np.array_equal(found, shards[0].image[rows])


def test_large_images_are_encoded_and_read_back_in_small_groups(tmp_path) -> None:
    shape = (3, 512, 512)  # at one group, writing the shard would take several of it
    write_dataset(tmp_path / "data", (50,), shape=shape)
    found = pq.read_metadata(tmp_path / "data" / "shard-00000.parquet")
    groups = [found.row_group(group).num_rows for group in range(found.num_row_groups)]
    assert sum(groups) == 50
    assert all(rows * 3 * 512 * 512 <= 1 << 24 for rows in groups)


def test_a_shard_that_does_not_read_back_gets_no_name(tmp_path, monkeypatch) -> None:
    encode = shard_file.encode
    rows = some_rows(5)
    about = shard_file.ShardAbout(
        shard=0, shape=SHAPE, attack="", model={}, source={}, seed=0, options={}, versions={}
    )
    for other in (some_rows(5, seed=1), rows.part(0, 4), rows.part(0, 0)):
        monkeypatch.setattr(shard_file, "encode", lambda _, *rest, o=other: encode(o, *rest))
        with pytest.raises(ShardError, match=r"shard-00000.parquet: the encoded rows differ"):
            shard_file.write_shard(tmp_path, rows, about)
        assert not list(tmp_path.iterdir())


def test_pages_are_whole_at_more_rows_than_pyarrow_puts_into_one(tmp_path) -> None:
    # from 22 on it starts a page after 20,000 rows
    rows = some_rows(40_000, (1, 1, 1))
    about = shard_file.ShardAbout(
        shard=0, shape=(1, 1, 1), attack="", model={}, source={}, seed=0, options={}, versions={}
    )
    with (tmp_path / "x").open("xb") as file:
        shard_file.encode(rows, about, file)
    shard = OpenShard(tmp_path / "x")
    assert np.array_equal(shard.take("image", np.arange(39_000, 40_000)), rows.image[39_000:])
    assert shard.held_bytes == 0


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"use_dictionary": True, "compression": "none"},
        {"data_page_size": 16, "write_batch_size": 1, "compression": "none"},
        {"use_dictionary": False, "column_encoding": {"image": "BYTE_STREAM_SPLIT"}},
        {"data_page_version": "2.0", "compression": "none", "use_dictionary": False},
    ],
    ids=["compressed", "dictionary", "many pages", "split bytes", "version 2"],
)
def test_a_shard_that_another_program_laid_out_is_decoded(tmp_path, options) -> None:
    shards = write_dataset(tmp_path / "data", (50,))
    path = tmp_path / "data" / "shard-00000.parquet"
    pq.write_table(pq.read_table(path), tmp_path / "other", **options)
    shard = OpenShard(tmp_path / "other")
    with (tmp_path / "other").open("rb") as file:
        assert plain_pages(file, pq.read_metadata(tmp_path / "other"), "image") is None
    assert np.array_equal(shard.take("image", np.arange(50)), shards[0].image)
    assert shard.held_bytes > 0


def test_a_missing_column_is_named(tmp_path) -> None:
    write_dataset(tmp_path / "data")
    folder = ShardFolder(tmp_path / "data")
    with pytest.raises(ShardError, match="holds no column clean_image"):
        folder.read(np.array([0]), ["clean_image"])
    with pytest.raises(ValueError, match=r"columns must be among image, .*, got 'colour'"):
        folder.read(np.array([0, 14]), ["colour"])


def test_rows_out_of_range(dataset) -> None:
    for row in (-1, 15):
        with pytest.raises(ValueError, match=r"rows must be in \[0, 15\)"):
            ShardFolder(dataset[0]).read(np.array([row]), ["label"])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2000:-8] = bytes(1992)
    path.write_bytes(data)


def _swap(path: Path) -> None:
    path.write_bytes(path.with_name("shard-00000.parquet").read_bytes())


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (Path.unlink, "shard-00002.parquet is missing"),
        (_cut, r"shard-00002.parquet has \d+ bytes and should have \d+"),
        (_scribble, "shard-00002.parquet (cannot be read as Parquet|is no deitsec-shard)"),
    ],
)
def test_a_broken_shard_is_named(tmp_path, harm, said) -> None:
    write_dataset(tmp_path / "data")
    harm(tmp_path / "data" / "shard-00002.parquet")
    with pytest.raises(ShardError, match=said):
        ShardFolder(tmp_path / "data").read(np.array([6]), ["image"])


def test_a_shard_under_the_name_of_another_is_named(tmp_path) -> None:
    write_dataset(tmp_path / "data", (5, 5, 5))
    _swap(tmp_path / "data" / "shard-00002.parquet")
    with pytest.raises(ShardError, match=r"shard-00002.parquet is shard 0 of 5 rows"):
        ShardFolder(tmp_path / "data").read(np.array([14]), ["image"])


def test_an_unfinished_dataset_is_refused_unless_asked_for(tmp_path) -> None:
    write_dataset(tmp_path / "data", complete=False)
    with pytest.raises(ShardError, match="is not complete, 4 shards are there"):
        ShardFolder(tmp_path / "data")
    assert len(ShardFolder(tmp_path / "data", incomplete=True)) == 15


def test_no_rows(tmp_path) -> None:
    write_dataset(tmp_path / "data", (0, 1))
    with pytest.raises(ShardError, match="holds no successful attack"):
        ShardFolder(tmp_path / "data", only_success=True)


def test_opening_reads_no_shard(dataset, monkeypatch) -> None:
    """So that a folder of 100,000 opens in seconds: the manifest knows the counts."""
    monkeypatch.setattr(shard_folder, "OpenShard", None)
    counts = {
        only_success: len(ShardFolder(dataset[0], only_success=only_success))
        for only_success in (False, True)
    }
    assert 0 < counts[True] < counts[False] == read_manifest(dataset[0]).rows
