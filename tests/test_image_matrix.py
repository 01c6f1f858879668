"""The table of pictures."""

import io

import numpy as np
import pytest

from deitsec.report.figure import plot_style, png_bytes
from deitsec.report.image_matrix import image_matrix


def _pictures(rows, columns, shape=(28, 28, 1)):
    return np.random.default_rng(0).integers(0, 256, (rows, columns, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 12, 3), (224, 224, 3)])
def test_every_picture_stands_at_its_place(shape):
    pictures = _pictures(2, 3, shape)
    with plot_style():
        figure = image_matrix(pictures, rows=["a", "b"], columns=["x", "y", "z"])
    axes = np.array(figure.axes).reshape(2, 3)
    for (i, j), axis in np.ndenumerate(axes):
        (drawn,) = axis.images
        expected = pictures[i, j].squeeze(-1) if shape[2] == 1 else pictures[i, j]
        assert np.array_equal(drawn.get_array(), expected)
        assert drawn.get_clim() == (0, 255)
    assert [axis.get_title() for axis in axes[0]] == ["x", "y", "z"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["a", "b"]
    assert all(not axis.get_title() for axis in axes[1])


def test_ten_by_ten_is_a_small_png_with_names_marks_and_gaps():
    from PIL import Image

    digits = [str(digit) for digit in range(10)]
    table = [
        [None if i == j else picture for j, picture in enumerate(row)]
        for i, row in enumerate(_pictures(10, 10))
    ]
    marked = np.eye(10, k=1, dtype=bool)
    with plot_style():
        figure = image_matrix(
            table,
            rows=digits,
            columns=digits,
            row_name="source $x$",
            column_name="target",
            marked=marked,
        )
        content = png_bytes(figure)
    assert len(content) <= 300_000
    with Image.open(io.BytesIO(content)) as image:
        assert min(image.size) > 500
        assert image.size[0] == pytest.approx(image.size[1], rel=0.15)
    axes = np.array(figure.axes).reshape(10, 10)
    framed = [[axis.spines["left"].get_visible() for axis in row] for row in axes]
    assert np.array_equal(framed, marked)
    assert not axes[3, 3].images
    assert figure.get_suptitle() == "target"
    assert figure.get_supylabel() == "source $x$"


def test_titles_are_cut_and_shown_as_they_are():
    with plot_style():
        figure = image_matrix(_pictures(1, 1), rows=["a" * 50], columns=["$x_1$"])
    assert len(figure.axes[0].get_ylabel()) <= 13
    assert figure.axes[0].get_title() == "$x_1$"


def test_what_does_not_fit_is_refused():
    pictures = _pictures(2, 3)
    with pytest.raises(ValueError, match="2 rows of 2 pictures"):
        image_matrix(pictures, rows=["a", "b"], columns=["x", "y"])
    with pytest.raises(ValueError, match="3 rows of 3 pictures"):
        image_matrix(pictures, rows=["a", "b", "c"], columns=["x", "y", "z"])
    with pytest.raises(ValueError, match="one shape"):
        image_matrix([[None]], rows=["a"], columns=["x"])
    with pytest.raises(ValueError, match=r"marked must be \(2, 3\), got \(3, 2\)"):
        image_matrix(
            pictures, rows=["a", "b"], columns=["x", "y", "z"], marked=np.zeros((3, 2), bool)
        )
