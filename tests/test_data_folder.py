import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deitsec.data import DataError, FolderImageSet, load_data


def picture(seed: int, height: int = 6, width: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def write(path: Path, seed: int = 0, **shape: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, **shape)).save(path)


def chw(seed: int, **shape: int) -> torch.Tensor:
    return torch.as_tensor(picture(seed, **shape)).permute(2, 0, 1)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    write(tmp_path / "dog" / "1.png", 1)
    write(tmp_path / "cat" / "b.png", 2)
    write(tmp_path / "cat" / "a.PNG", 3)
    write(tmp_path / "cat" / "deep" / "c.bmp", 4)
    return tmp_path


def test_class_folders_alone_are_a_test_split(flat: Path) -> None:
    data = load_data(f"folder:{flat}")
    assert data.train is None
    assert data.class_names == ("cat", "dog")
    assert data.name == flat.name
    assert data.test.labels.tolist() == [0, 0, 0, 1]
    assert data.test.shape == (3, 6, 6)
    expected = torch.stack([chw(seed) for seed in (3, 2, 4, 1)])
    assert torch.equal(data.test.images(torch.arange(4)), expected)


def test_images_come_in_the_order_of_the_rows_and_contiguous(flat: Path) -> None:
    test = load_data(f"folder:{flat}").test
    got = test.images(torch.tensor([3, 0, 3]))
    assert torch.equal(got, torch.stack([chw(1), chw(3), chw(1)]))
    assert got.is_contiguous()
    assert test.images(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 6, 6)


@pytest.mark.parametrize("row", [-1, 4])
def test_a_row_out_of_range_is_refused(flat: Path, row: int) -> None:
    with pytest.raises(ValueError, match=r"rows must be in \[0, 4\)"):
        load_data(f"folder:{flat}").test.images(torch.tensor([row]))


def test_hidden_and_other_files_are_passed_over(flat: Path) -> None:
    (flat / ".cache").mkdir()
    (flat / "cat" / "notes.txt").write_text("x")
    (flat / "cat" / "._a.png").write_text("x")
    (flat / "readme.md").write_text("x")
    write(flat / "cat" / ".trash" / "z.png")
    assert len(load_data(f"folder:{flat}").test) == 4


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_two_splits(tmp_path: Path, held_out: str) -> None:
    for split, seed in (("train", 1), (held_out, 2)):
        write(tmp_path / split / "cat" / "1.png", seed)
        write(tmp_path / split / "dog" / "1.png", seed + 10)
    data = load_data(f"folder:{tmp_path}")
    assert data.train is not None
    assert data.class_names == ("cat", "dog")
    assert torch.equal(data.train.images(torch.tensor([1]))[0], chw(11))
    assert torch.equal(data.test.images(torch.tensor([0]))[0], chw(2))


def test_test_goes_before_val(tmp_path: Path) -> None:
    write(tmp_path / "val" / "cat" / "1.png", 1)
    write(tmp_path / "test" / "cat" / "1.png", 2)
    test = load_data(f"folder:{tmp_path}").test
    assert torch.equal(test.images(torch.tensor([0]))[0], chw(2))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write(tmp_path / "bus" / "1.png")
    write(tmp_path / "train" / "1.png")
    assert load_data(f"folder:{tmp_path}").class_names == ("bus", "train")


def test_a_class_absent_from_train_keeps_its_number(tmp_path: Path) -> None:
    write(tmp_path / "train" / "dog" / "1.png")
    write(tmp_path / "test" / "cat" / "1.png")
    write(tmp_path / "test" / "dog" / "1.png")
    data = load_data(f"folder:{tmp_path}")
    assert data.train is not None
    assert data.train.labels.tolist() == [1]


# sizes and modes


def test_every_image_takes_the_size_of_the_first(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png", 1, height=4, width=8)
    write(tmp_path / "a" / "2.png", 2, height=8, width=8)
    test = load_data(f"folder:{tmp_path}").test
    assert test.shape == (3, 4, 8)
    got = test.images(torch.arange(2))
    assert torch.equal(got[0], chw(1, height=4, width=8))
    assert torch.equal(got[1], chw(2, height=8, width=8)[:, 2:6])  # the centred box, not a squeeze


def test_train_takes_the_size_of_the_first_test_image(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a" / "1.png", height=12, width=12)
    write(tmp_path / "test" / "a" / "1.png")
    data = load_data(f"folder:{tmp_path}")
    assert data.train is not None
    assert data.train.images(torch.tensor([0])).shape == (1, 3, 6, 6)


def test_image_size_resamples_the_centred_square(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png", 1, height=12, width=20)
    got = load_data(f"folder:{tmp_path}", image_size=5).test.images(torch.tensor([0]))[0]
    square = Image.fromarray(picture(1, height=12, width=20)[:, 4:16])
    expected = np.asarray(square.resize((5, 5), Image.Resampling.BICUBIC))
    assert np.array_equal(got.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture(1)).convert(mode)
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / ("1.tif" if mode == "CMYK" else "1.png"))
    got = load_data(f"folder:{tmp_path}").test.images(torch.tensor([0]))[0]
    assert np.array_equal(got.permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB")))


def test_a_transparent_palette_keeps_its_colours_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(picture(1)).convert("P")
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "1.png", transparency=bytes(range(36)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = load_data(f"folder:{tmp_path}").test.images(torch.tensor([0]))[0]
    assert np.array_equal(got.permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("dtype", "name"), [("u2", "1.png"), ("i4", "1.tif"), ("f4", "1.tif")])
def test_more_than_8_bits_are_refused_rather_than_clipped(
    tmp_path: Path, dtype: str, name: str
) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 300, dtype=dtype)).save(tmp_path / "a" / name)
    with pytest.raises(DataError, match=rf"{name} has more than 8 bits"):
        load_data(f"folder:{tmp_path}").test.images(torch.tensor([0]))


# digests


def sha256(root: Path) -> str:
    return load_data(f"folder:{root}", image_size=4).sha256


def test_the_digest_is_of_paths_and_bytes_and_not_of_the_place(flat: Path, tmp_path: Path) -> None:
    before = sha256(flat)
    assert load_data(f"folder:{flat}").sha256 == before
    moved = flat.rename(flat.with_name("moved"))
    assert sha256(moved) == before
    (moved / "dog" / "notes.txt").write_text("not an image")
    assert sha256(moved) == before
    (moved / "dog" / "1.png").rename(moved / "dog" / "2.png")
    assert sha256(moved) != before
    (moved / "dog" / "2.png").rename(moved / "dog" / "1.png")
    with (moved / "dog" / "1.png").open("ab") as file:
        file.write(b"x")
    assert sha256(moved) != before


def test_a_file_that_is_gone_is_named_by_the_digest(flat: Path) -> None:
    data = load_data(f"folder:{flat}")
    (flat / "dog" / "1.png").unlink()
    with pytest.raises(DataError, match=r"cannot read .*dog/1\.png"):
        _ = data.sha256


# refusals


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def overwrite(path: Path) -> None:
    path.write_bytes(b"no image")


@pytest.mark.parametrize("damage", [cut, overwrite, Path.unlink], ids=["cut", "no image", "gone"])
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, damage: Any, ending: str) -> None:
    write(tmp_path / "a" / "1.png")
    broken = tmp_path / "a" / f"2.{ending}"
    write(broken)
    test = load_data(f"folder:{tmp_path}").test
    damage(broken)
    assert torch.equal(test.images(torch.tensor([0]))[0], chw(0))
    with pytest.raises(DataError) as caught:
        test.images(torch.tensor([0, 1]))
    assert str(caught.value).startswith(f"cannot decode {broken} (")
    assert "\n" not in str(caught.value)


def test_a_first_image_that_cannot_be_decoded_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot decode .*1\.png"):
        load_data(f"folder:{tmp_path}")


def no_folder(root: Path) -> str:
    return f"no folder {root / 'there'}"


def a_file(root: Path) -> str:
    (root / "there").write_text("x")
    return f"no folder {root / 'there'}"


def nothing(root: Path) -> str:
    (root / "there").mkdir()
    return "there has no class folder"


def images_without_class(root: Path) -> str:
    write(root / "there" / "1.png")
    return "there has no class folder"


def empty_class(root: Path) -> str:
    write(root / "there" / "cat" / "1.png")
    (root / "there" / "dog").mkdir()
    return f"class folder {root / 'there' / 'dog'} has no image"


def empty_train_class(root: Path) -> str:
    write(root / "there" / "test" / "cat" / "1.png")
    (root / "there" / "train" / "cat").mkdir(parents=True)
    return f"class folder {root / 'there' / 'train' / 'cat'} has no image"


def train_only(root: Path) -> str:
    write(root / "there" / "train" / "cat" / "1.png")
    write(root / "there" / "test" / "1.png")
    return "there has train, but no test or val"


def class_without_test(root: Path) -> str:
    write(root / "there" / "train" / "cat" / "1.png")
    write(root / "there" / "train" / "dog" / "1.png")
    write(root / "there" / "val" / "dog" / "1.png")
    return f"{root / 'there' / 'val'} has no folder for class 'cat'"


LAYOUTS = [
    no_folder,
    a_file,
    nothing,
    images_without_class,
    empty_class,
    empty_train_class,
    train_only,
    class_without_test,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, layout: Any) -> None:
    said = layout(tmp_path)
    with pytest.raises(DataError) as caught:
        load_data(f"folder:{tmp_path / 'there'}")
    assert said in str(caught.value)


def test_a_folder_that_cannot_be_listed_is_refused(flat: Path, monkeypatch: Any) -> None:
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"cannot list .*Permission denied.*make it readable"):
        load_data(f"folder:{flat}")


def test_a_set_of_files_has_a_label_for_each() -> None:
    with pytest.raises(ValueError, match="labels must be one for each"):
        FolderImageSet(root=Path(), paths=("a.png",), labels=torch.arange(2), size=(4, 4))
