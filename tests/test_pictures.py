"""Pictures as text within a result, and in a grid with a model's answers."""

import json

import numpy as np
import pytest
import torch

from deitsec.report.figure import plot_style
from deitsec.report.prediction_grid import Prediction, prediction_grid
from deitsec.studies.pictures import packed, unpacked


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back_from_text(channels):
    images = torch.randint(0, 256, (5, channels, 4, 6), dtype=torch.uint8)
    text = json.loads(json.dumps(packed(images)))
    assert np.array_equal(unpacked(text), images.permute(0, 2, 3, 1).numpy())


def test_floats_are_rounded_to_the_nearest_level():
    images = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0]).reshape(1, 1, 2, 2)
    assert unpacked(packed(images)).ravel().tolist() == [0, 0, 1, 255]


def test_text_of_another_length_is_refused():
    text = packed(torch.zeros(2, 1, 3, 3))
    for shape in ([1, 3, 3, 1], [3, 3, 3, 1]):
        with pytest.raises(ValueError, match="take"):
            unpacked({**text, "shape": shape})
    with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\)"):
        packed(torch.zeros(3, 3))


def _prediction(label, predicted):
    image = np.zeros((4, 4, 1), dtype=np.uint8)
    return Prediction(image=image, label=label, predicted=predicted, confidence=0.75)


def test_a_wrong_answer_is_marked_and_says_what_is_right():
    with plot_style():
        figure = prediction_grid(
            {"all": [_prediction(0, 0), _prediction(0, 1)], "few": [_prediction(1, 1)]},
            ("cat", "dog"),
        )
    captions = [axis.get_xlabel() for axis in figure.axes]
    assert captions == ["✓ cat, 75%", "✗ dog, 75%\nis cat", "✓ dog, 75%", ""]
    assert not figure.axes[3].axison


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one picture"):
        prediction_grid({"none": []}, ("cat",))
