"""The report's picture of where the model looks."""

import dataclasses

import numpy as np
import pytest
import torch
from models_for_tests import conv
from report_for_tests import build_document, build_examples
from vits_for_tests import tiny_deit

from deitsec.interpretation import saliency
from deitsec.report import Report, draw_plots, render_html
from deitsec.verification.looks import with_looks


@pytest.mark.parametrize("maps", [1, 2])
def test_the_page_shows_maps_where_there_are_some_and_they_read_back(maps, tmp_path):
    document, examples = build_document(), build_examples(3, maps=maps)
    Report(document, examples).save(tmp_path)
    assert (tmp_path / "plots" / "looks.png").exists()
    assert "Where the model looks" in (tmp_path / "report.html").read_text("utf-8")
    for ours, theirs in zip(Report.load(tmp_path).examples, examples, strict=True):
        assert np.array_equal(ours.looks, theirs.looks)
    plain = build_examples(3)
    assert "looks.png" not in draw_plots(document, plain)
    assert "Where the model looks" not in render_html(document, draw_plots(document, plain))
    Report(document, plain).save(tmp_path)
    assert not (tmp_path / "plots" / "looks.png").exists()


def test_maps_of_another_size_are_refused():
    (example,) = build_examples(1)
    with pytest.raises(ValueError, match=r"looks must be \(maps, 2, H, W\) uint8"):
        dataclasses.replace(example, looks=np.zeros((1, 2, 4, 4), np.uint8))


@pytest.mark.parametrize(("model", "maps"), [(tiny_deit().float(), 2), (conv(), 1)], ids=str)
def test_each_image_gets_its_own_maps(model, maps):
    side = 8 if maps == 2 else 6
    examples = build_examples(4, (side, side, 1))
    found = with_looks(model, examples)
    for before, after in zip(examples, found, strict=True):
        assert after.looks.shape == (maps, 2, side, side)
        for place, image in enumerate((before.clean, before.adversarial)):
            x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
            for number, method in enumerate(("gradient", "rollout")[:maps]):
                expected = (saliency(model, x, method=method)[0] * 255).round().numpy()
                apart = np.abs(after.looks[number, place].astype(float) - expected)
                assert apart.max() <= 1
    assert with_looks(model, []) == []
