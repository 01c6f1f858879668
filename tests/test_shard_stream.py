"""The PyTorch datasets over shards: each row once, in an order that can be found again."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_for_tests import write_dataset
from torch.utils.data import DataLoader

pytest.importorskip("pyarrow")

import deitsec
from deitsec import ShardDataset, ShardStream
from deitsec.data.epoch_order import EpochOrder, share

COUNTS = (5, 0, 17, 3, 9)
TOTAL = sum(COUNTS)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream") / "data"
    return folder, write_dataset(folder, COUNTS, clean=True)


def ids_of(loader) -> list[int]:
    return [int(value) for _, _, ids in loader for value in ids]


def all_ids(shards) -> list[int]:
    return [int(value) for rows in shards for value in rows.sample_id]


# The order


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    readers=st.integers(1, 9),
    shuffle_rows=st.integers(0, 60),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_readers_share_every_row_exactly_once(counts, readers, shuffle_rows, seed, epoch) -> None:
    starts = np.append(0, np.cumsum(counts)).astype(np.int64)
    order = EpochOrder(starts=starts, shuffle_rows=shuffle_rows, seed=seed, epoch=epoch)
    total = int(starts[-1])
    found = [list(order.rows(*share(total, part, readers))) for part in range(readers)]
    sizes = [sum(map(len, pieces)) for pieces in found]
    assert max(sizes) - min(sizes) <= 1
    rows = [int(row) for pieces in found for piece in pieces for row in piece]
    assert sorted(rows) == list(range(total))
    # whoever reads: the same order
    assert rows == [int(row) for piece in order.rows(0, total) for row in piece]


@given(start=st.integers(0, TOTAL), shuffle_rows=st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_the_order_is_found_again_at_any_place(start, shuffle_rows) -> None:
    starts = np.append(0, np.cumsum(COUNTS)).astype(np.int64)
    order = EpochOrder(starts=starts, shuffle_rows=shuffle_rows, seed=1, epoch=2)
    every = [int(row) for piece in order.rows(0, TOTAL) for row in piece]
    assert [int(row) for piece in order.rows(start, TOTAL) for row in piece] == every[start:]


def test_windows_mix_rows_of_several_shards_and_no_more() -> None:
    starts = np.arange(0, 101, 10)
    order = EpochOrder(starts=starts, shuffle_rows=20, seed=0, epoch=0)
    pieces = list(order.rows(0, 100))
    assert [len(piece) for piece in pieces] == [20] * 5
    assert all(len(np.unique(piece // 10)) == 2 for piece in pieces)
    assert not np.array_equal(np.sort(pieces[0]), pieces[0])


# Map-style


def test_a_sample(dataset) -> None:
    folder, shards = dataset
    found = ShardDataset(folder, columns=["success", "target", "clean_image"])
    image, label, success, target, clean = found[5]
    assert torch.equal(image, torch.from_numpy(shards[2].image[0]).float() / 255)
    assert torch.equal(clean, torch.from_numpy(shards[2].clean_image[0]).float() / 255)
    assert (label.dtype, int(label), bool(success), int(target)) == (torch.int64, 0, False, -1)
    raw, _ = ShardDataset(folder, dtype=torch.uint8)[-1]
    assert torch.equal(raw, torch.from_numpy(shards[4].image[-1]))
    assert (len(found), found.class_names) == (TOTAL, ("zero", "one", "two"))
    with pytest.raises(IndexError, match=r"row must be in \[0, 34\), got 34"):
        found[TOTAL]


def test_a_batch_is_the_samples(dataset) -> None:
    found = ShardDataset(dataset[0], columns=["l2"], transform=lambda image: image.sum())
    for together, row in zip(found.__getitems__([33, 0, 4, 6]), (33, 0, 4, 6), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(together, found[row], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_shuffles_all_rows(dataset, workers) -> None:
    found = ShardDataset(dataset[0], columns=["sample_id"])
    loader = DataLoader(found, batch_size=4, shuffle=True, num_workers=workers)
    assert sorted(ids_of(loader)) == all_ids(dataset[1])


def test_only_successes(dataset) -> None:
    found = ShardDataset(dataset[0], columns=["success"], only_success=True)
    assert len(found) == sum(int(rows.success.sum()) for rows in dataset[1])
    assert all(bool(success) for _, _, success in DataLoader(found, batch_size=None))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": torch.float16}, "dtype must be torch.float32 or torch.uint8"),
        ({"columns": ["colour"]}, "columns must be among image"),
    ],
)
def test_bad_requests(dataset, options, said) -> None:
    for kind in (ShardDataset, ShardStream):
        with pytest.raises(ValueError, match=said):
            kind(dataset[0], **options)


def test_clean_images_that_were_not_stored(tmp_path) -> None:
    write_dataset(tmp_path / "data", (1,))
    with pytest.raises(ValueError, match="holds no clean images: generate with --clean-images"):
        ShardDataset(tmp_path / "data", columns=["clean_image"])


# Stream


def stream(folder, **options) -> ShardStream:
    return ShardStream(folder, columns=["sample_id"], shuffle_rows=8, **options)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_each_row_once_over_workers_and_ranks(dataset, workers) -> None:
    found = []
    for rank in range(2):
        part = stream(dataset[0], rank=rank, world_size=2)
        ids = ids_of(DataLoader(part, batch_size=4, num_workers=workers))
        assert len(ids) == TOTAL // 2
        found += ids
    assert sorted(found) == all_ids(dataset[1])


def test_epochs_differ_and_come_back(dataset) -> None:
    part = stream(dataset[0])
    orders = []
    for epoch in (0, 1, 0):
        part.set_epoch(epoch)
        orders.append(ids_of(DataLoader(part, batch_size=4)))
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != ids_of(DataLoader(stream(dataset[0], seed=1), batch_size=4))


def test_workers_that_live_on_hear_of_an_epoch(dataset) -> None:
    part = stream(dataset[0])
    loader = DataLoader(part, batch_size=4, num_workers=1, persistent_workers=True)
    first = ids_of(loader)
    part.set_epoch(1)
    second = ids_of(loader)
    assert first != second
    alone = stream(dataset[0])
    alone.set_epoch(1)
    assert second == ids_of(DataLoader(alone, batch_size=4))


def test_unshuffled_rows_come_in_pieces_however_many_there_are() -> None:
    starts = np.array([0, 10**12])  # all at once would be 8 TB
    order = EpochOrder(starts=starts, shuffle_rows=0, seed=0, epoch=0)
    pieces = order.rows(5, 10**12)
    first, second = next(pieces), next(pieces)
    assert first[0] == 5
    assert second[0] == first[-1] + 1 == 5 + len(first)
    assert len(first) < 100_000


def test_unshuffled_is_the_order_of_the_rows(dataset) -> None:
    part = ShardStream(dataset[0], columns=["sample_id"], shuffle_rows=0)
    assert ids_of(DataLoader(part, batch_size=4)) == all_ids(dataset[1])


@given(stop=st.integers(0, TOTAL))
@settings(max_examples=25, deadline=None)
def test_it_resumes_at_the_very_row(dataset, stop) -> None:
    part = stream(dataset[0])
    part.set_epoch(3)
    samples = iter(part)
    before = [int(next(samples)[2]) for _ in range(stop)]
    state = pickle.loads(pickle.dumps(part.state_dict()))
    after = [int(sample[2]) for sample in samples]
    again = stream(dataset[0])
    again.load_state_dict(state)
    assert again.epoch == 3
    assert again.state_dict() == state
    assert [int(sample[2]) for sample in again] == after
    assert sorted(before + after) == all_ids(dataset[1])


def test_a_new_epoch_forgets_the_place(dataset) -> None:
    part = stream(dataset[0])
    samples = iter(part)
    next(samples)
    again = stream(dataset[0])
    again.load_state_dict(part.state_dict())
    again.set_epoch(1)
    assert len(list(again)) == TOTAL


def test_a_state_of_another_order_or_reader(dataset) -> None:
    state = stream(dataset[0]).state_dict()
    with pytest.raises(ValueError, match="the state is of another order"):
        stream(dataset[0], seed=1).load_state_dict(state)
    other = stream(dataset[0], rank=1, world_size=2)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="the state is of reader 0 of 1, and this is 1 of 2"):
        iter(other)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batches", [1, 4, 7])
def test_torchdata_resumes_it(dataset, workers, batches) -> None:
    loaders = pytest.importorskip("torchdata.stateful_dataloader")
    kind = loaders.StatefulDataLoader
    loader = kind(stream(dataset[0]), batch_size=4, num_workers=workers)
    batch = iter(loader)
    before = [int(value) for _ in range(batches) for value in next(batch)[2]]
    state = loader.state_dict()
    after = [int(value) for _, _, ids in batch for value in ids]
    again = kind(stream(dataset[0]), batch_size=4, num_workers=workers)
    again.load_state_dict(state)
    assert ids_of(again) == after
    assert sorted(before + after) == all_ids(dataset[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": -1}, "seed must be >= 0"),
        ({"rank": 1}, "give both rank and world_size"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, world_size\)"),
    ],
)
def test_bad_streams(dataset, options, said) -> None:
    with pytest.raises(ValueError, match=said):
        stream(dataset[0], **options)


def test_public_names() -> None:
    assert deitsec.ShardDataset is ShardDataset
    assert deitsec.ShardStream is ShardStream
