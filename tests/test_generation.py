"""Adversarial datasets: what is in the shards, and that nothing else is."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import deitsec
from deitsec import FGSM, PGD
from deitsec.attacks import PGDL2
from deitsec.data import DataError
from deitsec.generation import Settings, generate
from deitsec.generation.plan import MOST_IDS, Plan
from deitsec.generation.run import usual_shard_rows
from deitsec.shards import read_manifest
from tests.generation_for_tests import BATCH, CLASSES, digests, engine, rows_of, source
from tests.models_for_tests import conv

pytest.importorskip("pyarrow", reason="shards are written with pyarrow")
EPS = 16 / 255
PGD_3 = PGD(eps=EPS, steps=3)

counts = st.integers(1, 60)


@given(
    rows=counts, shard_rows=counts, variants=st.integers(1, 4), source_rows=counts, data=st.data()
)
@settings(max_examples=150, deadline=None)
def test_every_row_of_every_variant_is_in_one_shard(rows, shard_rows, variants, source_rows, data):
    picked = data.draw(st.none() | st.lists(st.integers(0, source_rows - 1), min_size=1))
    selection = None if picked is None else torch.tensor(sorted(set(picked)))
    plan = Plan(
        rows=rows,
        shard_rows=shard_rows,
        variants=variants,
        source_rows=source_rows,
        selection=selection,
    )
    pool = list(range(source_rows)) if selection is None else selection.tolist()
    # row by row, by the words of the docstring
    expected = [(pool[r % len(pool)], r // len(pool)) for r in range(rows)]
    for variant in range(variants):
        found, starts = [], []
        for shard in range(variant, plan.shards, variants):
            job = plan.job(shard)
            assert (job.shard, job.variant) == (shard, variant)
            sources, ids = plan.rows_of(job)
            assert 1 <= len(sources) == job.stop - job.start <= shard_rows
            starts.append(job.start)
            found += list(zip(sources.tolist(), ids.tolist(), strict=True))
        assert starts == list(range(0, rows, shard_rows))
        assert found == [(row, row + turn * source_rows) for row, turn in expected]
        assert len({id for _, id in found}) == rows


@pytest.mark.parametrize("shard", [-1, 3])
def test_no_job_beyond_the_plan(shard):
    plan = Plan(rows=5, shard_rows=2, variants=1, source_rows=5)
    with pytest.raises(ValueError, match="shard must be in"):
        plan.job(shard)


def test_more_turns_than_sample_ids_are_refused():
    Plan(rows=MOST_IDS, shard_rows=1, variants=1, source_rows=1)
    with pytest.raises(ValueError, match="sample ids have 48 bits"):
        Plan(rows=MOST_IDS + 1, shard_rows=1, variants=1, source_rows=1)


@pytest.mark.parametrize(
    "attack",
    [
        PGD_3,
        FGSM(eps=EPS),
        PGDL2(eps=0.6, steps=3),
        PGD(eps=96 / 255, steps=9, target="least-likely"),
    ],
    ids=lambda attack: deitsec.attacks.format_spec(attack),
)
def test_columns_are_what_numpy_finds_in_the_images(tmp_path, attack):
    data, model = source(21), conv(CLASSES)
    generate(
        engine(model),
        attack,
        data,
        out=tmp_path,
        settings=Settings(shard_rows=8, clean_images=True),
    )
    rows = rows_of(tmp_path)
    clean = data.test.images(torch.arange(21)).numpy()
    np.testing.assert_array_equal(rows.source_row, np.arange(21))
    np.testing.assert_array_equal(rows.sample_id, np.arange(21))
    np.testing.assert_array_equal(rows.clean_image, clean)
    np.testing.assert_array_equal(rows.label, data.test.labels.numpy())

    change = np.abs(rows.image.astype(np.int64) - clean).reshape(21, -1)
    np.testing.assert_array_equal(rows.linf_levels, change.max(1))
    np.testing.assert_array_equal(rows.l0, (change > 0).sum(1))
    np.testing.assert_array_equal(rows.l1, (change.sum(1) / 255).astype(np.float32))
    l2 = np.sqrt((change**2).sum(1)) / 255
    np.testing.assert_array_equal(rows.l2, l2.astype(np.float32))
    farthest = l2 if attack.traits.norm == "l2" else change / 255
    assert (farthest <= attack.eps).all()

    exact = model.double()
    with torch.no_grad():
        logits = exact(torch.from_numpy(rows.image).double() / 255).numpy()
        before = exact(torch.from_numpy(clean).double() / 255).numpy()
    np.testing.assert_array_equal(rows.clean_prediction, before.argmax(1))
    np.testing.assert_array_equal(rows.adversarial_prediction, logits.argmax(1))
    share = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(rows.confidence, (share / share.sum(1, keepdims=True)).max(1), 1e-5)
    if attack.target is None:
        assert (rows.target == -1).all()
        np.testing.assert_array_equal(rows.success, logits.argmax(1) != rows.label)
    else:
        others = np.where(np.arange(CLASSES) == rows.label[:, None], np.inf, before)
        np.testing.assert_array_equal(rows.target, others.argmin(1))
        np.testing.assert_array_equal(rows.success, logits.argmax(1) == rows.target)
    assert rows.success.sum() > 0


def test_the_manifest_counts_what_is_in_the_shards(tmp_path):
    attacks = [FGSM(eps=EPS), PGD_3]
    manifest = generate(
        engine(), attacks, source(21), out=tmp_path, settings=Settings(shard_rows=8)
    )
    assert manifest == read_manifest(tmp_path)
    assert manifest.complete
    assert [entry.shard for entry in manifest.shards] == list(range(6))
    for variant in range(2):
        rows = rows_of(tmp_path, variant, 2)
        entries = [entry for entry in manifest.shards if entry.variant == variant]
        assert [entry.rows for entry in entries] == [8, 8, 5]
        assert sum(entry.successes for entry in entries) == rows.success.sum()
        assert (
            sum(entry.correct for entry in entries) == (rows.clean_prediction == rows.label).sum()
        )
    found = digests(tmp_path)
    assert {entry.name: entry.sha256 for entry in manifest.shards} == found
    assert all((tmp_path / e.name).stat().st_size == e.bytes for e in manifest.shards)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((1, 28, 28), 4096), ((3, 32, 32), 4096), ((3, 224, 224), 425), ((3, 1024, 1024), 64)],
)
def test_shards_hold_so_many_bytes_where_no_rows_are_asked_for(shape, rows) -> None:
    assert usual_shard_rows(shape) == rows


def test_the_usual_rows_of_a_shard_are_in_the_plan(tmp_path) -> None:
    manifest = generate(engine(), PGD_3, source(), out=tmp_path)
    assert manifest.configuration.plan.shard_rows == 4096


@pytest.mark.parametrize("shard_rows", [3, 8, 100])
def test_a_row_hangs_neither_on_its_shard_nor_on_the_attacks_beside_it(tmp_path, shard_rows):
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    generate(engine(), PGD_3, source(), out=alone, settings=Settings(shard_rows=20))
    attacks = [FGSM(eps=EPS), PGD_3]
    generate(engine(), attacks, source(), out=beside, settings=Settings(shard_rows=shard_rows))
    # passes are those of a batch, which the row leaves when others do
    assert _but_passes(rows_of(alone)).equals(_but_passes(rows_of(beside, 1, 2)))


def _but_passes(rows):
    nothing = np.zeros_like(rows.queries)
    return dataclasses.replace(rows, queries=nothing, gradients=nothing)


def test_a_row_is_the_same_among_other_rows(tmp_path):
    every, some = tmp_path / "every", tmp_path / "some"
    generate(engine(), PGD_3, source(), out=every)
    generate(engine(), PGD_3, source(), out=some, settings=Settings(only_correct=True))
    whole, picked = rows_of(every), rows_of(some)
    np.testing.assert_array_equal(picked.image, whole.image[picked.source_row])
    np.testing.assert_array_equal(picked.sample_id, whole.sample_id[picked.source_row])


def test_further_turns_of_a_source_draw_other_numbers(tmp_path):
    generate(engine(), PGD_3, source(10), out=tmp_path, settings=Settings(rows=25, shard_rows=7))
    rows = rows_of(tmp_path)
    np.testing.assert_array_equal(rows.source_row, np.arange(25) % 10)
    np.testing.assert_array_equal(rows.sample_id, np.arange(25))
    assert (rows.image[:10] != rows.image[10:20]).any((1, 2, 3)).all()


def test_copies_are_refused(tmp_path):
    with pytest.raises(ValueError, match="draws no random number"):
        generate(engine(), FGSM(eps=EPS), source(10), out=tmp_path, settings=Settings(rows=11))
    assert digests(tmp_path) == {}


def test_fewer_rows_are_the_first_ones(tmp_path):
    generate(engine(), PGD_3, source(), out=tmp_path, settings=Settings(rows=7))
    np.testing.assert_array_equal(rows_of(tmp_path).source_row, np.arange(7))


def test_only_rows_that_every_model_gets_right(tmp_path):
    data, models = source(40), [conv(CLASSES), conv(CLASSES, seed=1)]
    manifest = generate(
        [engine(model) for model in models],
        PGD_3,
        data,
        out=tmp_path,
        settings=Settings(only_correct=True, shard_rows=8),
    )
    images = data.test.images(torch.arange(40)).double() / 255
    with torch.no_grad():
        right = [model.double()(images).argmax(1) == data.test.labels for model in models]
    expected = (right[0] & right[1]).nonzero()[:, 0].numpy()
    assert 0 < len(expected) < 40
    for variant in range(2):
        rows = rows_of(tmp_path, variant, 2)
        np.testing.assert_array_equal(rows.source_row, expected)
        np.testing.assert_array_equal(rows.clean_prediction, rows.label)
    assert manifest.configuration.plan.rows == len(expected)


def test_per_class_takes_the_first_of_each_class_in_their_order(tmp_path):
    data = source(40)
    generate(engine(), PGD_3, data, out=tmp_path, settings=Settings(per_class=2))
    labels = data.test.labels.tolist()
    expected = sorted(row for row in range(40) if labels[:row].count(labels[row]) < 2)
    np.testing.assert_array_equal(rows_of(tmp_path).source_row, expected)


def test_nobody_impersonates_the_own_class_and_nothing_else_is_missing(tmp_path):
    data = source(40)
    attacks = [PGD(eps=EPS, steps=3, target=2), FGSM(eps=EPS)]
    generate(engine(), attacks, data, out=tmp_path, settings=Settings(shard_rows=3))
    expected = (data.test.labels != 2).nonzero()[:, 0].numpy()
    assert 0 < len(expected) < 40
    np.testing.assert_array_equal(rows_of(tmp_path, 0, 2).source_row, expected)
    np.testing.assert_array_equal(rows_of(tmp_path, 1, 2).source_row, np.arange(40))


@pytest.mark.parametrize("only_correct", [False, True])
def test_rows_that_cannot_be_read_are_listed_and_the_rest_goes_on(tmp_path, only_correct):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    options = Settings(shard_rows=8, only_correct=only_correct)
    generate(engine(), PGD_3, source(), out=whole, settings=options)
    manifest = generate(engine(), PGD_3, source(bad=(1, 9)), out=torn, settings=options)
    expected, found = rows_of(whole), rows_of(torn)
    keep = ~np.isin(expected.source_row, [1, 9])
    np.testing.assert_array_equal(found.source_row, expected.source_row[keep])
    np.testing.assert_array_equal(found.image, expected.image[keep])
    listed = [*manifest.unreadable, *(row for e in manifest.shards for row in e.unreadable)]
    assert [row.row for row in listed] == [1, 9]
    assert all("cannot decode ../row" in row.reason for row in listed)
    assert not any("\n" in row.reason for row in listed)
    assert manifest.to_json()["totals"]["unreadable"] == 2


@pytest.mark.parametrize("only_correct", [False, True])
def test_strict_stops_at_a_row_that_cannot_be_read(tmp_path, only_correct):
    options = Settings(shard_rows=8, strict=True, only_correct=only_correct)
    with pytest.raises(DataError, match="row 9"):
        generate(engine(), PGD_3, source(bad=(9,)), out=tmp_path, settings=options)
    # the shard before it was attacked and is kept; with --only-correct rows are picked first
    assert len(digests(tmp_path)) == (0 if only_correct else 1)


def test_a_shard_of_which_no_row_can_be_read_is_empty(tmp_path):
    options = Settings(shard_rows=4)
    manifest = generate(engine(), PGD_3, source(bad=(4, 5, 6, 7)), out=tmp_path, settings=options)
    assert [entry.rows for entry in manifest.shards] == [4, 0, 4, 4, 4]
    assert manifest.complete


def test_the_model_is_left_as_found(tmp_path):
    model = conv(CLASSES).train()
    model[0].weight.requires_grad_(False)
    model[2].weight.grad = torch.ones_like(model[2].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    options = Settings(only_correct=True)
    generate(engine(model), PGD_3, source(), out=tmp_path, settings=options)
    assert all(module.training for module in model.modules())
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad
    assert (model[2].weight.grad == 1).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_in_train_mode_is_told_of_once(tmp_path):
    model = nn.Sequential(conv(CLASSES), nn.Dropout(0.5)).train()
    with pytest.warns(UserWarning, match="was in train mode") as told:
        generate(engine(model), PGD_3, source(), out=tmp_path, settings=Settings(shard_rows=4))
    assert len(told) == 1


def test_a_batch_that_does_not_fit_ends_the_run_and_says_which_does(tmp_path, monkeypatch):
    # half of the batch fits: the engine alone would go on with it, and the bytes would be others
    model = conv(CLASSES)

    def no_room(module, given):
        if len(given[0]) > BATCH // 2:
            raise torch.OutOfMemoryError("no room")

    model.register_forward_pre_hook(no_room)
    with pytest.raises(MemoryError, match="--batch-size 4"):
        generate(engine(model), PGD_3, source(), out=tmp_path)
    assert digests(tmp_path) == {}


def test_names_from_the_data_stay_inside_the_folder(tmp_path):
    names = ("../../up", "a\nb", "/abs\x1b[2J", "\udcff")
    data = source(names=names, uri="folder:../../x\ny")
    out = tmp_path / "in" / "here"
    manifest = generate(engine(), PGD_3, data, out=out, settings=Settings(only_correct=True))
    everything = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    files = {".generate.lock", "manifest.json", "selection.npy", "shard-00000.parquet"}
    assert everything == {"in", "in/here", *(f"in/here/{name}" for name in files)}
    text = (out / "manifest.json").read_text(encoding="ascii")
    assert "\x1b" not in text
    assert manifest.configuration.source.class_names == names
    assert read_manifest(out) == manifest


@pytest.mark.parametrize(
    ("attack", "message"),
    [(PGD(eps=EPS, confidence=0.5), "confidence is for targeted"), ([], "at least one engine")],
)
def test_what_cannot_run_is_refused_before_the_folder_is_made(tmp_path, attack, message):
    with pytest.raises(ValueError, match=message):
        generate(engine(), attack, source(), out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_engines_of_several_seeds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one seed, got 3 and 4"):
        generate([engine(), engine(seed=4)], PGD_3, source(), out=tmp_path)
