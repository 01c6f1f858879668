"""The study of the detector, in its quick form."""

import pytest

from deitsec.studies import reproduce
from deitsec.studies.detector import Options
from deitsec.studies.detector_page import _verdict


def test_it_detects_what_it_has_seen_and_falls_to_one_who_knows_it(tmp_path):
    found = reproduce("detector", quick=True, out=tmp_path)["found"]
    seen = [attack for attack in found["attacks"] if attack["kind"] == "seen"]
    assert [attack["spec"] for attack in seen] == ["fgsm:eps=26/255", "pgd:eps=26/255"]
    for attack in seen:
        assert attack["auroc"] >= 0.95
        assert attack["success_undefended"] >= 0.5
        evades = attack["success_undefended"] * (1 - attack["detected"])
        assert attack["success"] == pytest.approx(evades)
    (adaptive,) = found["adaptive"]
    assert adaptive["success"] >= 0.5 > max(attack["success"] for attack in seen)
    assert adaptive["auroc"] < min(attack["auroc"] for attack in seen) - 0.3
    assert len(adaptive["evaded_rows"]) == round(adaptive["success"] * adaptive["rows"])
    page = (tmp_path / "detector.md").read_text()
    assert "deitsec reproduce detector --quick" in page
    assert (tmp_path / "detector" / "roc.png").stat().st_size > 1000


def _run(spec, evaded, auroc, **more):
    return {"spec": spec, "rows": 10, "success": evaded / 10, "auroc": auroc, **more}


def test_the_verdict_is_the_worst_case_over_rows_and_says_what_the_roc_does():
    naive = _run("fgsm", 1, 0.9)
    known = [
        _run("pgd", 2, 0.95, evaded_rows=[3, 4]),
        _run("apgd", 3, 0.4, evaded_rows=[4, 5, 6]),
    ]
    said = _verdict({"attacks": [naive], "adaptive": known}, known[1])
    assert "40.00% by whichever of them" in said
    assert "ROC falls, from 0.900 to 0.400" in said
    assert "does not fall, from 0.900 to 0.950" in (
        _verdict({"attacks": [naive], "adaptive": known}, known[0])
    )
    old = [_run("pgd", 2, 0.95)]  # a result that kept no rows
    assert "whichever" not in _verdict({"attacks": [naive], "adaptive": old}, old[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seen": ()}, "seen, adaptive and weights"),
        ({"weights": (0.0,)}, "weights must be > 0"),
        ({"false_positives": 0.0}, "false_positives must be in"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"epochs": 0}, "epochs must be >= 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)
