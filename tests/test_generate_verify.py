"""Verifying datasets: each kind of damage is found, named by shard and row, and mended."""

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from verify_for_tests import BATCH, ROWS, SHARD, SHARD_ROWS, SPECS, column, rewritten, templates

from deitsec.attacks import parse_spec
from deitsec.data import ArrayImageSet, DataSource, load_data
from deitsec.engine import Engine
from deitsec.generation import (
    Settings,
    generate,
    prediction_proof,
    repair_dataset,
    verify_dataset,
)
from deitsec.generation.distances import level_distances
from deitsec.shards import MANIFEST, read_manifest, read_shard, shard_name

pytest.importorskip("pyarrow")
pytest.importorskip("filelock")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return templates()


@pytest.fixture(scope="module")
def original(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "dataset"
    generate(
        Engine(model, batch_size=BATCH),
        [parse_spec(spec) for spec in SPECS],
        "digits",
        out=folder,
        settings=Settings(rows=ROWS, shard_rows=SHARD_ROWS, per_class=5),
    )
    return folder


@pytest.fixture
def dataset(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "dataset"))


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    change(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def found(folder: Path, **options: Any) -> set[tuple[str, int | None, int | None]]:
    """(kind, shard, row) of everything that is wrong."""
    proof = verify_dataset(folder, keep=None, **options)
    assert len(proof.findings) == sum(proof.counts.values())
    return {(finding.kind, finding.shard, finding.row) for finding in proof.findings}


def assert_repaired(folder: Path, original: Path, model: nn.Module, remade: list[int]) -> None:
    """The repair makes these shards again and no other; all bytes are the original ones."""
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*.parquet")}
    repair = repair_dataset(folder, models=model)
    assert list(repair.remade) == remade
    assert repair.sound
    for path in original.glob("shard-*.parquet"):
        mine = folder / path.name
        assert mine.read_bytes() == path.read_bytes()
        if mine in kept and int(path.stem[-5:]) not in remade:
            assert mine.stat().st_mtime_ns == kept[mine]
    ours, theirs = read_manifest(folder), read_manifest(original)
    untimed = [dataclasses.replace(entry, seconds=None) for entry in ours.shards]
    assert untimed == [dataclasses.replace(entry, seconds=None) for entry in theirs.shards]
    assert ours.complete
    assert ours.configuration == theirs.configuration
    assert verify_dataset(folder, models=model).sound


# what is sound


def test_a_sound_dataset_is_proved_in_every_row(original: Path, model: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proof = verify_dataset(original, models=model)
    rows = read_manifest(original).rows
    assert proof.sound
    assert not proof.unchecked
    names = ("identities", "labels", "distances", "predictions", "clean predictions")
    assert {proof.checked[name] for name in names} == {rows}
    assert proof.borderline == 0


def test_predictions_of_the_same_batch_size_are_the_same_bits(
    original: Path, model: nn.Module
) -> None:
    proof = verify_dataset(original, models=model)
    assert proof.checked["confidences of the same bits"] == proof.rows


def test_what_cannot_be_checked_is_said(dataset: Path) -> None:
    edit_manifest(dataset, lambda document: document["configuration"]["source"].update(uri="gone"))
    proof = verify_dataset(dataset)
    assert proof.sound
    assert [line.split(" ")[0] for line in proof.unchecked] == [
        "labels:",
        "distances",
        "predictions,",
    ]
    assert "distances" not in {name for name, count in proof.checked.items() if count}


def test_distances_are_those_of_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    images, clean = torch.randint(0, 256, (2, 5, 3, 11, 13), dtype=torch.uint8, generator=generator)
    linf, l2, l1, l0 = level_distances(images, clean)
    for row in range(5):
        pairs = zip(images[row].flatten().tolist(), clean[row].flatten().tolist(), strict=True)
        change = [abs(one - other) for one, other in pairs]
        assert linf[row] == max(change)
        assert l1[row] == np.float32(sum(change) / 255)
        assert l2[row] == np.float32(sum(size**2 for size in change) ** 0.5 / 255)
        assert l0[row] == sum(size > 0 for size in change)


# files that are damaged


@pytest.mark.parametrize("size", [0, 4, 200, -1])
def test_a_truncated_shard_is_named_and_repaired(
    dataset: Path, original: Path, model: nn.Module, size: int
) -> None:
    path = dataset / shard_name(SHARD)
    path.write_bytes(path.read_bytes()[:size])
    kinds = {kind for kind, shard, _ in found(dataset) if shard == SHARD}
    assert {"size", "hash", "parquet"} <= kinds
    assert {shard for _, shard, _ in found(dataset)} == {SHARD}
    assert_repaired(dataset, original, model, [SHARD])


def test_a_flipped_bit_of_a_pixel_names_the_row(
    dataset: Path, original: Path, model: nn.Module
) -> None:
    path, image = dataset / shard_name(SHARD), column(dataset, "image")
    place = path.read_bytes().index(image[5].tobytes())
    changed = int(np.flatnonzero(image[5].ravel() > 16)[0])  # within the digit
    flip(path, place + changed, bit=6)
    named = found(dataset)
    assert ("hash", SHARD, None) in named
    assert ("distance", SHARD, 5) in named
    assert {row for _, _, row in named} == {None, 5}
    assert_repaired(dataset, original, model, [SHARD])


def test_a_flipped_bit_of_a_label_names_the_row(
    dataset: Path, original: Path, model: nn.Module
) -> None:
    path, labels = dataset / shard_name(SHARD), column(dataset, "label")
    place = path.read_bytes().index(labels.tobytes())
    flip(path, place + 4 * 7)
    assert {("hash", SHARD, None), ("label", SHARD, 7)} <= found(dataset)
    assert {row for _, _, row in found(dataset)} == {None, 7}
    assert_repaired(dataset, original, model, [SHARD])


def test_flipped_bits_of_the_footer_are_found_wherever_they_are(
    dataset: Path, original: Path, model: nn.Module
) -> None:
    path = dataset / shard_name(SHARD)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    for place in generator.integers(1, footer, 12):
        flip(path, len(whole) - int(place), bit=int(place) % 8)
        named = found(dataset)
        assert ("hash", SHARD, None) in named
        assert {shard for _, shard, _ in named} == {SHARD}
        path.write_bytes(whole)
    flip(path, len(whole) - 2)
    assert ("parquet", SHARD, None) in found(dataset)
    assert_repaired(dataset, original, model, [SHARD])


def test_swapped_shards_are_both_named(dataset: Path, original: Path, model: nn.Module) -> None:
    one, other = dataset / shard_name(0), dataset / shard_name(SHARD)
    aside = dataset / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    named = found(dataset)
    assert {("metadata", 0, None), ("metadata", SHARD, None)} <= named
    assert {row for _, _, row in named} == {None}
    assert_repaired(dataset, original, model, [0, SHARD])


def test_a_deleted_shard_is_missing(dataset: Path, original: Path, model: nn.Module) -> None:
    (dataset / shard_name(SHARD)).unlink()
    assert found(dataset) == {("missing", SHARD, None)}
    assert_repaired(dataset, original, model, [SHARD])


def test_an_extra_shard_is_set_aside(dataset: Path, original: Path, model: nn.Module) -> None:
    shutil.copy(dataset / shard_name(0), dataset / shard_name(99))
    assert found(dataset) == {("extra", 99, None)}
    assert_repaired(dataset, original, model, [])
    assert (dataset / f"{shard_name(99)}.extra").is_file()


# manifests


@pytest.mark.parametrize("name", ["rows", "successes", "correct", "bytes", "variant"])
def test_an_edited_count_is_the_manifests_fault(
    dataset: Path, original: Path, model: nn.Module, name: str
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["shards"][SHARD][name] += 1
        if name in document["totals"]:
            document["totals"][name] += 1

    edit_manifest(dataset, change)
    assert found(dataset) == {("size" if name == "bytes" else "count", SHARD, None)}
    assert_repaired(dataset, original, model, [])


def test_an_edited_total_is_found(dataset: Path, original: Path, model: nn.Module) -> None:
    edit_manifest(dataset, lambda document: document["totals"].update(rows=10**6))
    assert found(dataset) == {("manifest", None, None)}
    assert_repaired(dataset, original, model, [])


@pytest.mark.parametrize(
    ("key", "value"), [("complete", "x"), ("command", "deitsec generate"), ("note", "mine")]
)
def test_a_manifest_that_does_not_fit_its_schema_is_found(
    dataset: Path, original: Path, model: nn.Module, key: str, value: str
) -> None:
    edit_manifest(dataset, lambda document: document.update({key: value}))
    proof = verify_dataset(dataset, models=model)
    assert proof.counts == {"manifest": 1}
    assert "does not fit its schema at" in proof.findings[0].message
    assert_repaired(dataset, original, model, [])


def test_an_edited_configuration_is_not_believed_against_the_shards(
    dataset: Path, original: Path, model: nn.Module
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["configuration"]["variants"][0]["eps"] = 0.5

    edit_manifest(dataset, change)
    assert found(dataset, models=model) == {("manifest", None, None)}
    assert_repaired(dataset, original, model, [])


@pytest.mark.parametrize("text", [None, "", "{}", '{"format": "deitsec-shards"'])
def test_a_lost_manifest_is_made_again_from_the_shards(
    dataset: Path, original: Path, model: nn.Module, text: str | None
) -> None:
    (dataset / MANIFEST).unlink()
    if text is not None:
        (dataset / MANIFEST).write_text(text)
    (dataset / shard_name(SHARD)).unlink()
    named = found(dataset, data="digits")
    assert named == {("manifest", None, None), ("missing", SHARD, None)}
    repair = repair_dataset(dataset, data="digits", models=model)
    assert repair.sound
    assert (dataset / shard_name(SHARD)).read_bytes() == (original / shard_name(SHARD)).read_bytes()
    assert read_manifest(dataset).configuration == read_manifest(original).configuration


def test_a_lost_selection_is_picked_again(dataset: Path, original: Path, model: nn.Module) -> None:
    flip(dataset / "selection.npy", 130)
    assert found(dataset) == {("selection", None, None)}
    repair = repair_dataset(dataset)
    assert repair.sound
    assert (dataset / "selection.npy").read_bytes() == (original / "selection.npy").read_bytes()


# rows that lie, in files whose hash the manifest knows


def test_a_row_one_level_out_of_its_ball_is_named(
    dataset: Path, original: Path, model: nn.Module
) -> None:
    image, clean = column(dataset, "image"), load_data("digits").test
    before = clean.images(torch.from_numpy(column(dataset, "source_row"))).numpy()
    place = np.unravel_index(np.argmax(image[4].astype(int) - before[4]), image[4].shape)
    assert int(image[4][place]) - int(before[4][place]) == 8
    image[4][place] += 1
    again = level_distances(torch.from_numpy(image), torch.from_numpy(before))
    names = ("linf_levels", "l2", "l1", "l0")
    distances = {name: one.numpy() for name, one in zip(names, again, strict=True)}
    rewritten(dataset, SHARD, image=image, **distances)  # the stated distances are true
    assert found(dataset) == {("ball", SHARD, 4)}
    assert_repaired(dataset, original, model, [SHARD])


def test_a_row_out_of_an_l2_ball_is_named(dataset: Path) -> None:
    shard = 1
    image = column(dataset, "image", shard)
    image[2, 0, :4] ^= 0x20
    rewritten(dataset, shard, image=image)
    named = found(dataset)
    assert {("ball", shard, 2), ("distance", shard, 2)} <= named
    assert {row for _, _, row in named} == {2}


def test_a_distance_that_is_off_in_its_last_bit_is_named(dataset: Path) -> None:
    l1 = column(dataset, "l1")
    l1[6] = np.nextafter(l1[6], np.float32(np.inf))
    rewritten(dataset, SHARD, l1=l1)
    assert found(dataset) == {("distance", SHARD, 6)}


def test_a_wrong_label_is_named(dataset: Path, original: Path, model: nn.Module) -> None:
    label = column(dataset, "label")
    label[9] = (label[9] + 1) % 10
    rewritten(dataset, SHARD, label=label)
    assert found(dataset) == {("label", SHARD, 9)}
    assert_repaired(dataset, original, model, [SHARD])


def test_a_wrong_success_needs_the_model(dataset: Path, original: Path, model: nn.Module) -> None:
    success = column(dataset, "success")
    success[3] = ~success[3]
    rewritten(dataset, SHARD, success=success)
    assert found(dataset) == set()
    assert found(dataset, models=model) == {("success", SHARD, 3)}
    assert_repaired(dataset, original, model, [SHARD])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adversarial_prediction", "prediction"),
        ("clean_prediction", "prediction"),
        ("confidence", "confidence"),
    ],
)
def test_a_wrong_prediction_is_named(dataset: Path, model: nn.Module, name: str, kind: str) -> None:
    values = column(dataset, name)
    values[3] = values[3] - np.float32(0.01) if name == "confidence" else (values[3] + 1) % 10
    rewritten(dataset, SHARD, **{name: values})
    named = found(dataset, models=model)
    assert (kind, SHARD, 3) in named
    assert {(shard, row) for _, shard, row in named} == {(SHARD, 3)}


def test_a_target_that_the_attack_does_not_aim_at_is_named(dataset: Path, model: nn.Module) -> None:
    target = column(dataset, "target", 2)
    assert set(target.tolist()) == {3}
    target[1] = 4
    rewritten(dataset, 2, target=target)
    assert ("target", 2, 1) in found(dataset, models=model)


def test_a_class_within_the_tolerance_is_borderline_and_not_wrong(
    dataset: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two classes whose logits differ by less than what the order of a sum may change."""
    tied = templates()
    with torch.no_grad():
        tied[1].weight[8] = tied[1].weight[9]
        tied[1].bias[8] = tied[1].bias[9] - 2e-4
    folder = dataset.parent / "tied"
    generate(
        Engine(tied, batch_size=BATCH),
        parse_spec("fgsm:eps=1/255"),
        "digits",
        out=folder,
        settings=Settings(rows=200, shard_rows=200),
    )
    predicted = column(folder, "adversarial_prediction", 0)
    row = int(np.flatnonzero(predicted == 9)[0])
    predicted[row] = 8
    rewritten(folder, 0, adversarial_prediction=predicted)
    proof = verify_dataset(folder, models=tied)
    assert proof.sound
    assert proof.borderline_rows == ((0, row),)
    monkeypatch.setattr(prediction_proof, "TOLERANCE", 1e-9)
    monkeypatch.setattr(prediction_proof, "_HALF", 0)
    assert ("prediction", 0, row) in found(folder, models=tied)


@pytest.mark.parametrize("way", ["twice", "dropped", "stray", "order"])
def test_rows_that_are_twice_missing_strange_or_moved_are_named(dataset: Path, way: str) -> None:
    rows, _ = read_shard(dataset / shard_name(SHARD))
    index = np.arange(len(rows))
    ids = rows.sample_id.copy()
    expected = {
        "twice": {("identity", SHARD, 5), ("identity", SHARD, None)},
        "dropped": {("identity", SHARD, None)},
        "stray": {("identity", SHARD, 5), ("identity", SHARD, None)},
        "order": {("identity", SHARD, 5)},
    }[way]
    if way == "twice":
        index[5] = 4
    elif way == "dropped":
        index = np.delete(index, 5)
    elif way == "order":
        index[[5, 6]] = 6, 5
    else:
        ids[5] += 10**6
    columns = {name: getattr(rows, name)[index] for name in rows.names}
    if way == "stray":
        columns["sample_id"] = ids
    rewritten(dataset, SHARD, **columns)
    assert found(dataset) == expected


def test_a_stored_clean_image_is_held_to_the_source(model: nn.Module, tmp_path: Path) -> None:
    generate(
        Engine(model, batch_size=BATCH),
        parse_spec(SPECS[0]),
        "digits",
        out=tmp_path / "d",
        settings=Settings(rows=10, clean_images=True),
    )
    clean = column(tmp_path / "d", "clean_image", 0)
    clean[2, 0, 0, 0] ^= 1
    rewritten(tmp_path / "d", 0, clean_image=clean)
    assert found(tmp_path / "d") == {("clean_image", 0, 2)}
    edit_manifest(tmp_path / "d", lambda d: d["configuration"]["source"].update(uri="gone"))
    assert ("distance", 0, 2) in found(tmp_path / "d")  # of the clean image that is stored


# bad input


def other_data() -> DataSource:
    digits = load_data("digits")
    rows = torch.arange(len(digits.test))
    labels = digits.test.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    test = ArrayImageSet(pixels=digits.test.images(rows), labels=labels)
    return DataSource(
        uri="mine", name="digits", train=digits.train, test=test, class_names=digits.class_names
    )


def test_other_data_and_another_model_are_refused(original: Path) -> None:
    with pytest.raises(ValueError, match="not the data that was attacked: its sha256"):
        verify_dataset(original, data=other_data())
    with pytest.raises(ValueError, match="give the checkpoint that was attacked"):
        verify_dataset(original, models=templates(seed=1))


def test_a_repair_refuses_without_model_data_or_the_same_software(
    dataset: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dataset / shard_name(SHARD)).unlink()
    with pytest.raises(ValueError, match="needs every model of the dataset"):
        repair_dataset(dataset)
    monkeypatch.setattr("deitsec.generation.repair.software_versions", lambda: {"torch": "1.0"})
    with pytest.raises(ValueError, match=r"would not be the same: versions\.deitsec was"):
        repair_dataset(dataset, models=model)
    edit_manifest(dataset, lambda document: document["configuration"]["source"].update(uri="gone"))
    with pytest.raises(ValueError, match="needs the data that was attacked"):
        repair_dataset(dataset, models=model)
    assert not (dataset / shard_name(SHARD)).exists()


def test_a_folder_that_holds_no_dataset_is_bad_input_and_left_alone(tmp_path: Path) -> None:
    for act in (verify_dataset, repair_dataset):
        with pytest.raises(ValueError, match=r"holds no manifest\.json"):
            act(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_findings_are_few_and_their_count_is_whole(dataset: Path) -> None:
    label = (column(dataset, "label") + 1) % 10
    rewritten(dataset, SHARD, label=label)
    proof = verify_dataset(dataset, keep=3)
    assert proof.counts == {"label": SHARD_ROWS}
    assert [finding.row for finding in proof.findings] == [0, 1, 2]
    assert proof.wrong_shards == (SHARD,)


def test_rows_that_could_not_be_read_are_no_missing_rows(model: nn.Module, tmp_path: Path) -> None:
    from PIL import Image

    for label in range(10):
        for number in range(3):
            path = tmp_path / "images" / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = load_data("digits").test.images(torch.tensor([10 * label + number]))
            Image.fromarray(pixels[0, 0].numpy()).save(path)
    grey = nn.Sequential(nn.AvgPool3d((3, 1, 1)), model)  # files are read as RGB
    broken = tmp_path / "images" / "4" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    folder, data = tmp_path / "d", load_data(f"folder:{tmp_path / 'images'}")
    generate(Engine(grey, batch_size=BATCH), parse_spec(SPECS[0]), data, out=folder)
    rows = data.test.labels.shape[0]
    proof = verify_dataset(folder, models=grey)
    assert proof.sound
    assert proof.rows == rows - 1
    edit_manifest(folder, lambda document: document["shards"][0].update(unreadable=[]))
    assert ("count", 0, None) in found(folder)
