"""The committed pages: each is made of the committed result beside it."""

import json
import re
from pathlib import Path

import pytest

from deitsec.studies import page_name, page_of
from deitsec.studies.registry import STUDIES

PAGES = Path(__file__).parent.parent / "docs" / "studies"
RESULTS = sorted(PAGES.glob("*/result.json"))


def test_some_studies_are_committed():
    found = {json.loads(path.read_text())["study"] for path in RESULTS}
    assert found >= {
        "adversarial-lecture",
        "attack-lecture",
        "defensive-distillation",
        "deit-fgsm",
        "mnist-adversarial",
    }
    assert found <= set(STUDIES)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_the_page_is_that_of_the_result(path):
    document = json.loads(path.read_text())
    name = path.parent.name
    page, figures = page_of(document)
    assert name == page_name(document)
    assert page == (PAGES / f"{name}.md").read_text()
    shown = {picture.name for picture in path.parent.glob("*.png")}
    assert shown == {f"{figure}.png" for figure in figures}
    assert all(picture.stat().st_size < 300_000 for picture in path.parent.glob("*.png"))
    assert not document["quick"]
    assert document["command"].startswith(f"deitsec reproduce {document['study']}")
    assert "/" not in document["data"]["uri"]


def test_every_page_is_listed():
    listed = re.findall(r"\(studies/([\w.-]+)\.md\)", (PAGES.parent / "studies.md").read_text())
    assert sorted(listed) == sorted(path.parent.name for path in RESULTS)


@pytest.mark.parametrize(
    ("data", "quick", "name"),
    [
        ("mnist", False, "defensive-distillation"),
        ("cifar10", False, "defensive-distillation-cifar10"),
        ("my ../data", False, "defensive-distillation-my-..-data"),
        ("digits", True, "defensive-distillation"),
    ],
)
def test_a_study_on_other_data_has_a_page_of_its_own(data, quick, name):
    study = {"study": "defensive-distillation", "data": {"name": data}, "quick": quick}
    assert page_name(study) == name
    assert page_name({**study, "label": "short"}) == f"{name}-short"
