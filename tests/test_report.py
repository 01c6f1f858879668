"""The report as data: its schema, and how it is saved and loaded."""

import copy
import errno
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from report_for_tests import build_document, build_examples

from deitsec.report import Example, Report, draw_plots, load_schema, validate
from deitsec.report.document import to_json
from deitsec.report.plots import PLOT_NAMES


@pytest.fixture(scope="module")
def document():
    return build_document()


@pytest.fixture(scope="module")
def plots(document):
    return draw_plots(document)


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_documents_fit_the_schema_and_survive_json(num_classes):
    built = build_document(num_classes)
    validate(built)
    assert json.loads(to_json(built)) == json.loads(json.dumps(built))
    validate(json.loads(to_json(built)))


def test_the_schema_itself_is_valid():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(load_schema())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), "deitsec.report/1", "'schema'"),
        (("clean", "accuracy"), 1.5, "'accuracy'"),
        (("attacks", 0, "goal"), "any", "'goal'"),
        (("model", "sha256"), "short", "'sha256'"),
        (("surprise",), 1, "surprise"),
        (("verdict", "level"), "safe", "'level'"),
        (("created",), "yesterday", "'created'"),
    ],
)
def test_what_does_not_fit_is_named(document, path, value, message):
    broken = copy.deepcopy(document)
    part = broken
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        validate(broken)


def test_nan_and_infinity_become_null_everywhere(document, tmp_path):
    odd = copy.deepcopy(document)
    odd["attacks"][0]["distances"]["l2"]["mean"] = math.nan
    odd["attacks"][2]["distances"]["l2"]["median"] = math.nan
    odd["attacks"][0]["images_per_second"] = np.float32(math.inf)
    odd["attacks"][0]["success_rate"] = None
    odd["clean"]["mean_confidence"] = math.nan
    Report(odd).save(tmp_path)
    text = (tmp_path / "report.json").read_text()
    assert not re.search("nan|infinity", text, re.IGNORECASE)
    assert json.loads(text)["attacks"][0]["images_per_second"] is None
    assert ">nan" not in (tmp_path / "report.html").read_text().lower()


def test_a_tensor_has_no_place_in_a_report(document):
    with pytest.raises(TypeError, match="Tensor"):
        Report(document | {"seed": torch.tensor(0)})


def test_every_key_is_documented():
    page = (Path(__file__).parents[1] / "docs" / "report-schema.md").read_text("utf-8")

    def keys(part):
        for name, inner in part.get("properties", {}).items():
            yield name
            yield from keys(inner)
        nested = (part.get("items"), *part.get("anyOf", ()), *part.get("$defs", {}).values())
        for inner in filter(None, nested):
            yield from keys(inner)

    assert [key for key in keys(load_schema()) if f"`{key}`" not in page] == []


def _files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_saved_report_loads_as_it_was(document, tmp_path):
    examples = build_examples(3, (5, 7, 3), maps=2)
    written = Report(document, examples).save(tmp_path / "new" / "folder")
    assert written[-1].name == "report.json"
    assert {str(p.relative_to(tmp_path / "new/folder")) for p in written} == {
        *(f"plots/{name}" for name in PLOT_NAMES),
        "examples.npz",
        "report.html",
        "report.json",
    }
    loaded = Report.load(tmp_path / "new" / "folder")
    assert loaded.to_json() == Report(document).to_json()
    for ours, theirs in zip(loaded.examples, examples, strict=True):
        for name in Example.__slots__:
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_plots_and_examples_of_an_earlier_report_do_not_stay(document, tmp_path):
    Report(document, build_examples()).save(tmp_path)
    (tmp_path / "plots" / "mine.png").write_bytes(b"kept")
    Report(document | {"sweeps": []}).save(tmp_path)
    assert set(_files(tmp_path)) == {
        "plots/confusion.png",
        "plots/confusion-narrow.png",
        "plots/per-class.png",
        "plots/mine.png",
        "report.html",
        "report.json",
    }


@pytest.mark.parametrize("write", [1, 3, 6])
@pytest.mark.parametrize("folder", ["old", "new"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_failed_save_changes_nothing(
    document, plots, tmp_path, monkeypatch, error, folder, write
):
    monkeypatch.setattr("deitsec.report.plots.draw_plots", lambda *_: plots)
    Report(document).save(tmp_path / "old")
    before = _files(tmp_path)
    calls = itertools.count(1)

    def fsync(_):
        if next(calls) == write:
            raise error

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(type(error)) as caught:
        Report(document | {"seed": 7}).save(tmp_path / folder)
    assert _files(tmp_path) == before
    if isinstance(error, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert "could not be written (No space left on device)" in str(caught.value)
        assert Path(caught.value.filename).suffix in (".png", ".html", ".json")


def test_save_refuses_a_document_that_does_not_fit(document, tmp_path):
    with pytest.raises(ValueError, match="does not fit the schema"):
        Report({k: v for k, v in document.items() if k != "clean"}).save(tmp_path)
    assert _files(tmp_path) == {}


def test_examples_of_unknown_classes_are_refused(document):
    with pytest.raises(ValueError, match=r"classes in \[0, 10\)"):
        Report(document, build_examples(12, num_classes=12))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "must be JSON"), ("[]", "deitsec.report/2"), ('{"schema": "deitsec.report/9"}', "/9")],
)
def test_load_says_what_is_wrong_with_the_file(tmp_path, text, message):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Report.load(tmp_path)


@pytest.mark.parametrize(
    ("clean", "adversarial"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)),
        (np.zeros((4, 4, 3)), np.zeros((4, 4, 3))),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)),
    ],
)
def test_example_refuses_images_it_cannot_show(clean, adversarial):
    fields = {name: getattr(build_examples(1)[0], name) for name in Example.__slots__}
    with pytest.raises(ValueError, match="got"):
        Example(**(fields | {"clean": clean, "adversarial": adversarial}))


def test_importing_the_report_imports_no_plotting():
    heavy = {"matplotlib", "jinja2", "jsonschema", "torchmetrics"}
    code = (
        "import sys; from deitsec.report import Report, judge; "
        f"print(sorted({heavy} & {{*sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == "[]"
