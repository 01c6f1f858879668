"""A page tells a radius that is not the usual one."""

import pytest

from deitsec.studies.radius import radius_note


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"eps": 0.1, "usual_eps": 0.3}, "a smaller radius than the 76.5 grey levels of 255"),
        ({"eps": 0.5, "usual_eps": 0.3}, "a larger radius than the 76.5 grey levels of 255"),
    ],
)
def test_another_radius_is_told(found, words):
    assert words in radius_note(found)


@pytest.mark.parametrize("found", [{"eps": 0.3, "usual_eps": 0.3}, {"eps": 0.3}])
def test_the_usual_radius_needs_no_word(found):
    assert radius_note(found) == ""
