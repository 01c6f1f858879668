"""The study of randomised smoothing, in its quick form."""

import pytest

from deitsec.studies import reproduce
from deitsec.studies.smoothing import Options


def test_what_is_certified_withstands_the_attacks_and_the_shares_are_those_of_the_rows(tmp_path):
    document = reproduce("smoothing", quick=True, out=tmp_path)
    found = document["found"]
    (entry,) = found["smoothed"]
    certified, attacked = entry["certified"], entry["attacked"]
    assert certified["accuracy"] >= 0.5  # certifying nothing proves nothing
    reached = 0
    for point in attacked["points"]:
        pairs = zip(certified["right"], certified["radii"], strict=True)
        share = sum(right and radius >= point["radius"] for right, radius in pairs) / found["rows"]
        assert point["certified"] == pytest.approx(share)
        assert point["certified_and_broken"] == 0
        assert point["certified"] <= point["empirical"] <= point["softmax"]
        assert point["empirical"] <= point["logits"]
        reached += point["certified"] > 0
    assert reached >= 1
    page = (tmp_path / "smoothing.md").read_text()
    assert "deitsec reproduce smoothing --quick" in page
    assert "No image that was certified at a radius was broken within it" in page
    assert (tmp_path / "smoothing" / "certified-accuracy.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigmas": (0.25, 0.0)}, "sigma must be > 0"),
        ({"sigmas": ()}, "sigmas and radii"),
        ({"radii": (-1.0,)}, "sigmas and radii"),
        ({"alpha": 0.0}, r"alpha must be in \(0, 1\)"),
        ({"votes": 0}, "votes must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)
