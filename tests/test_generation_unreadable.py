"""Rows that cannot be read: content is listed, a disk that went away stops the run."""

import errno
import shutil
from pathlib import Path

import pytest
import torch

from deitsec import FGSM
from deitsec.data import DataError, Subset, load_data
from deitsec.generation import Settings, generate, repair_dataset, verify_dataset
from deitsec.generation.reading import read_rows
from deitsec.shards import read_manifest, read_shard, shard_name
from tests.generation_for_tests import CLASSES, digests, engine, pixels, source
from tests.models_for_tests import conv

pytest.importorskip("pyarrow", reason="shards are written with pyarrow")
ATTACK = FGSM(eps=8 / 255)
AWAY = (errno.ENOENT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EACCES)


@pytest.mark.parametrize(
    "cause", [*(OSError(code, "gone") for code in AWAY), MemoryError()], ids=repr
)
@pytest.mark.parametrize("only_correct", [False, True])
def test_data_that_is_not_at_hand_stops_the_run_and_loses_no_row(tmp_path, cause, only_correct):
    settings = Settings(shard_rows=4, only_correct=only_correct)
    out, whole = tmp_path / "out", tmp_path / "whole"
    with pytest.raises(DataError, match="not at hand") as caught:
        generate(engine(), ATTACK, source(bad=(9,), cause=cause), out=out, settings=settings)
    assert "\n" not in str(caught.value)
    generate(engine(), ATTACK, source(), out=out, settings=settings, resume=True)
    generate(engine(), ATTACK, source(), out=whole, settings=settings)
    assert digests(out) == digests(whole)


@pytest.mark.parametrize("cause", [OSError("truncated"), OSError(errno.EINVAL, "seek"), None])
def test_content_is_listed_whatever_the_decoder_raised(cause):
    torn = source(bad=(9,), cause=cause).test
    _, kept, unreadable = read_rows(torn, torch.arange(20), strict=False)
    assert [row.row for row in unreadable] == [9]
    assert int(kept.sum()) == 19


def images(folder: Path) -> Path:
    from PIL import Image

    for number, image in enumerate(pixels(12)):
        path = folder / "abcd"[number % CLASSES] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    (folder / "b" / "1.png").write_bytes(b"no image at all")
    cut = folder / "c" / "2.png"
    cut.write_bytes(cut.read_bytes()[:50])
    return folder


def grey():
    return torch.nn.Sequential(torch.nn.AvgPool3d((3, 1, 1)), conv(CLASSES))


def test_a_file_that_is_gone_meanwhile_is_no_unreadable_row(tmp_path):
    split = load_data(f"folder:{images(tmp_path / 'images')}").test
    row = split.paths.index("a/4.png")
    (tmp_path / "images" / "a" / "4.png").unlink()
    with pytest.raises(DataError, match="not at hand"):
        read_rows(split, torch.tensor([row]), strict=False)


def test_where_the_data_lies_decides_no_byte(tmp_path):
    near, far = tmp_path / "n", tmp_path / ("far" * 30) / ("away" * 20) / "quo'te"
    images(near)
    far.parent.mkdir(parents=True)
    shutil.copytree(near, far)
    for place, out in ((near, tmp_path / "0"), (far, tmp_path / "1")):
        generate(engine(grey()), ATTACK, f"folder:{place}", out=out)
    assert digests(tmp_path / "0") == digests(tmp_path / "1")
    _, about = read_shard(tmp_path / "1" / shard_name(0))
    assert len(about.unreadable) == 2
    assert all(text.startswith("cannot decode ") for _, text in about.unreadable)
    assert not any(str(tmp_path) in text for _, text in about.unreadable)
    moved = generate(engine(grey()), ATTACK, f"folder:{near}", out=tmp_path / "1", resume=True)
    assert moved.complete
    assert verify_dataset(tmp_path / "1", data=f"folder:{near}").sound


def test_a_subset_of_files_names_no_folder_either(tmp_path):
    split = load_data(f"folder:{images(tmp_path / 'images')}").test
    part = Subset(base=split, rows=torch.tensor([split.paths.index("b/1.png")]))
    (found,) = read_rows(part, torch.tensor([0]), strict=False)[2]
    assert found.reason.startswith("cannot decode b/1.png (")


def test_the_name_of_the_data_is_where_it_lies(tmp_path):
    generate(engine(), ATTACK, source(), out=tmp_path / "0")
    generate(engine(), ATTACK, source(name="moved"), out=tmp_path / "1")
    assert digests(tmp_path / "0") == digests(tmp_path / "1")
    generate(engine(), ATTACK, source(name="moved"), out=tmp_path / "0", resume=True)
    (tmp_path / "0" / shard_name(0)).unlink()
    model = engine().model
    assert repair_dataset(tmp_path / "0", data=source(name="moved"), models=model).sound
    (tmp_path / "0" / "manifest.json").unlink()
    assert repair_dataset(tmp_path / "0", data=source(), models=model).sound
    assert read_manifest(tmp_path / "0").configuration.source.name == "made up"


def test_rows_that_can_be_read_after_all_are_found_and_made(tmp_path):
    settings = Settings(shard_rows=5)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    generate(engine(), ATTACK, source(), out=whole, settings=settings)
    generate(engine(), ATTACK, source(bad=(7,)), out=torn, settings=settings)
    assert verify_dataset(torn, data=source(bad=(7,))).sound
    proof = verify_dataset(torn, data=source())
    (found,) = proof.findings
    assert (found.kind, found.fault, found.shard, found.source_row) == ("unreadable", "shard", 1, 7)
    assert any("listed as unreadable" in line for line in verify_dataset(torn).unchecked)
    repair = repair_dataset(torn, data=source(), models=engine().model)
    assert repair.remade == (1,)
    assert repair.sound
    assert digests(torn) == digests(whole)
