"""The study of the generator, in its quick form."""

import pytest

from deitsec.studies import reproduce
from deitsec.studies.advgan import Options


def test_it_measures_the_generator_beside_the_others_on_the_same_rows(tmp_path):
    options = {"networks_epochs": 3, "epochs": 2, "per_class": 2}
    found = reproduce("advgan", quick=True, out=tmp_path, options=options)["found"]
    (subject,) = found["subjects"]
    assert (subject["model"], subject["data"], subject["rows"]) == ("small_cnn", "digits", 20)
    by_name = {attack["name"]: attack for attack in subject["attacks"]}
    assert list(by_name) == ["random_search", "advgan", "fgsm", "pgd"]
    for attack in by_name.values():
        assert attack["rows"] == 20
        assert attack["linf"] <= subject["eps"] * (1 + 1e-5)
    assert by_name["advgan"]["spec"] == "advgan"  # no path of this machine
    assert by_name["pgd"]["success_rate"] >= by_name["fgsm"]["success_rate"]
    # on one model the matrix is the attack itself, judged without the engine
    assert found["transfer"]["rate"] == [[pytest.approx(by_name["advgan"]["success_rate"])]]
    page = (tmp_path / "advgan.md").read_text()
    assert "deitsec reproduce advgan --quick" in page
    assert 1000 < (tmp_path / "advgan" / "success.png").stat().st_size < 300_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ()}, "models must hold at least one name"),
        ({"epochs": 0}, "epochs must be >= 1"),
        ({"data_rows": 0}, "data_rows must be at least 1"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"kappa": -1.0}, "kappa must be at least 0"),
        ({"networks_epochs": -1}, "networks_epochs must be >= 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)
