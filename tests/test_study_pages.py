"""The committed pages: each is made of the committed result beside it."""

import json
from pathlib import Path

import pytest

from deitsec.studies import page_of
from deitsec.studies.registry import STUDIES

PAGES = Path(__file__).parent.parent / "docs" / "studies"
RESULTS = sorted(PAGES.glob("*/result.json"))


def test_some_studies_are_committed():
    assert {path.parent.name for path in RESULTS} <= set(STUDIES)
    assert RESULTS


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_the_page_is_that_of_the_result(path):
    document = json.loads(path.read_text())
    name = path.parent.name
    page, figures = page_of(document)
    assert page == (PAGES / f"{name}.md").read_text()
    shown = {picture.name for picture in path.parent.glob("*.png")}
    assert shown == {f"{figure}.png" for figure in figures}
    assert all(picture.stat().st_size < 300_000 for picture in path.parent.glob("*.png"))
    assert not document["quick"]
    assert document["command"].startswith(f"deitsec reproduce {name}")
    assert "/" not in document["data"]["uri"]
