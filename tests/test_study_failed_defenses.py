"""The study of failed defenses, in its quick form, and the verdicts by given figures."""

import pytest

from deitsec.studies import reproduce
from deitsec.studies.failed_defenses import DEFENSES, Options
from deitsec.studies.failed_defenses_page import notable, verdict


def test_each_defense_is_measured_and_none_is_stronger_when_it_is_known(tmp_path):
    document = reproduce("failed-defenses", quick=True, out=tmp_path)
    found = {entry["name"]: entry for entry in document["found"]["defenses"]}
    assert list(found) == list(DEFENSES)
    for entry in found.values():
        assert entry["clean"] >= 0.8
        assert entry["adaptive"] <= entry["plain"] <= entry["clean_attacked"]
    rounding = found["bit-depth reduction"]
    assert rounding["plain"] > 0.9 > 0.6 > rounding["adaptive"]
    robust = found["adversarial training"]["adaptive"]
    assert robust > found["undefended"]["adaptive"] + 0.2
    page = (tmp_path / "failed-defenses.md").read_text()
    assert "deitsec reproduce failed-defenses --quick" in page
    assert all(f"| {name} |" in page for name in DEFENSES)


BASE = {"name": "undefended", "clean": 0.98, "plain": 0.1, "adaptive": 0.05}


@pytest.mark.parametrize(
    ("clean", "plain", "adaptive", "said"),
    [
        (0.97, 0.90, 0.02, "broken; the plain attack overstates it by 88.0 points"),
        (0.97, 0.05, 0.04, "broken"),
        (0.97, 0.12, 0.12, "no better than undefended"),
        (0.97, 0.60, 0.55, "helps: 50.0 points more than undefended"),
        (0.80, 0.60, 0.40,
         "helps: 35.0 points more than undefended; the plain attack overstates it by 20.0 points; "
         "costs 18.0 points of clean accuracy"),
    ],
)  # fmt: skip
def test_verdicts_follow_from_the_figures(clean, plain, adaptive, said):
    entry = {"name": "any", "clean": clean, "plain": plain, "adaptive": adaptive}
    assert verdict(entry, BASE, 0.1) == said


def test_few_rows_tell_less():
    assert notable(25) == 0.4
    assert notable(100) == 0.2
    assert notable(1000) == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": 0}, "per_class must be at least 1, got 0"),
        ({"members": 0}, "members must be at least 1"),
        ({"eps": 2.0}, r"eps in \[0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)
