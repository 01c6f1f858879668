"""The frame of a study: options, pieces that are done, results and pages."""

import dataclasses
import json
import sys
import types

import pytest
import torch

from deitsec.cli import main
from deitsec.report.figure import new_figure
from deitsec.studies import Page, Study, page_of, registry, reproduce, study
from deitsec.training import FitConfig, fit, new_model


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    steps: int = 3
    rates: tuple[float, ...] = (0.5, 1.0)
    word: str | None = None
    again: bool = True
    weight: float = 0.5

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")


MADE: list[str] = []


class Stopped(Exception):  # noqa: N818 - it names what happened
    """Somebody pulled the plug."""


def _measure(run):
    def make(name):
        MADE.append(name)
        if run.options.word == name:
            raise Stopped
        return {"value": run.options.steps}

    config = FitConfig(epochs=run.options.steps, batch_size=64, validation=0.0, threads=1)
    model = run.network(
        "net",
        lambda: new_model("logistic_regression", run.data, seed=run.seed),
        lambda model, **more: fit(model, run.data, config, **more),
    )
    total = sum(p.detach().sum().item() for p in model.parameters())
    parts = {name: run.part(name, lambda name=name: make(name)) for name in ("one", "two")}
    return {"parts": parts, "rates": list(run.options.rates), "total": total}


def _render(document):
    figure = new_figure(1.0)
    figure.subplots().plot([0, 1])
    total = document["found"]["total"]
    return Page(markdown=f"Sum {total:.3f}.\n\n![line](figure:line)", figures={"line": figure})


TOY = Study(
    name="toy",
    title="A toy",
    source="nobody, nowhere",
    data="digits",
    options=Options,
    quick={"steps": 1},
    measure=_measure,
    render=_render,
)


@pytest.fixture(autouse=True)
def _toy(monkeypatch, tmp_path):
    module = types.ModuleType("deitsec.studies.toy")
    module.STUDY = TOY
    monkeypatch.setitem(registry.STUDIES, "toy", "a toy")
    monkeypatch.setitem(sys.modules, "deitsec.studies.toy", module)
    monkeypatch.chdir(tmp_path)
    MADE.clear()


def test_a_result_says_what_made_it_and_the_page_is_made_of_it(tmp_path):
    options = {"rates": (1.0, 2.0), "again": False}
    found = reproduce("toy", out=tmp_path, quick=True, seed=3, options=options)
    assert found == json.loads((tmp_path / "toy" / "result.json").read_text())
    assert found["command"] == "deitsec reproduce toy --quick --seed 3 --rates 1,2 --no-again"
    assert found["options"].pop("weight") == 0.5
    assert found["options"] == {"steps": 1, "rates": [1.0, 2.0], "word": None, "again": False}
    assert len(found["data"]["sha256"]) == 64
    assert set(found["parts"]) == {"net", "one", "two"}
    assert found["seconds"] == pytest.approx(sum(found["parts"].values()))
    page = (tmp_path / "toy.md").read_text()
    assert "(toy/line.png)" in page
    assert found["command"] in page
    again, figures = page_of(found)
    assert again == page
    assert figures["line"] == (tmp_path / "toy" / "line.png").read_bytes()


def test_a_study_goes_on_from_what_is_done(tmp_path):
    with pytest.raises(Stopped):
        reproduce("toy", out=tmp_path, options={"word": "two"})
    assert MADE == ["one", "two"]
    assert not (tmp_path / "toy.md").exists()
    MADE.clear()
    with pytest.raises(Stopped):
        reproduce("toy", out=tmp_path, options={"word": "two"})
    assert MADE == ["two"]  # neither the network nor the first piece is made again


def test_runs_with_labels_stand_beside_each_other(tmp_path):
    reproduce("toy", out=tmp_path)
    found = reproduce("toy", out=tmp_path, label="short", options={"steps": 1})
    assert found["command"] == "deitsec reproduce toy --label short --steps 1"
    assert {page.name for page in tmp_path.glob("*.md")} == {"toy.md", "toy-short.md"}
    assert "(toy-short/line.png)" in (tmp_path / "toy-short.md").read_text()
    assert json.loads((tmp_path / "toy" / "result.json").read_text())["options"]["steps"] == 3


def test_a_label_that_makes_the_name_of_another_page_is_refused(tmp_path):
    reproduce("toy", out=tmp_path, options={"steps": 1}, label="other")
    path = tmp_path / "toy-other" / "result.json"
    document = json.loads(path.read_text())
    document["label"], document["data"]["name"] = None, "other"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"is of another run \(data other, no label\), whose page"):
        reproduce("toy", out=tmp_path, options={"steps": 1}, label="other")


def test_figures_that_a_result_no_longer_has_are_removed(tmp_path):
    stale = tmp_path / "toy" / "old.png"
    stale.parent.mkdir()
    stale.touch()
    reproduce("toy", out=tmp_path, options={"steps": 1})
    assert {path.name for path in stale.parent.glob("*.png")} == {"line.png"}


def test_what_a_study_refuses_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="topics: unknown 'typo'; there are photograph, "):
        reproduce("attack-lecture", out=tmp_path, quick=True, options={"topics": ("typo",)})
    assert not list(tmp_path.iterdir())


def test_a_lecture_goes_on_with_more_topics(tmp_path):
    def topics(*names):
        document = reproduce(
            "adversarial-lecture", out=tmp_path, quick=True, options={"topics": names}
        )
        assert document["options"]["topics"] == list(names)
        return list(document["found"]["topics"])

    assert topics("example") == ["example"]
    assert topics("linear", "example") == ["example", "linear"]


def test_a_training_that_was_stopped_goes_on(tmp_path):
    class Unplugged:
        def rows(self, stage, done, total): ...

        def training(self, stage, event):
            if (event.epoch, event.step) == (2, event.steps):
                raise Stopped

    with pytest.raises(Stopped):
        reproduce("toy", out=tmp_path / "stopped", shown=Unplugged())
    resumed = reproduce("toy", out=tmp_path / "stopped")
    whole = reproduce("toy", out=tmp_path / "whole")
    assert resumed["found"] == whole["found"]


def test_pieces_of_other_settings_are_refused(tmp_path):
    reproduce("toy", out=tmp_path)
    with pytest.raises(ValueError, match=r"options was .*'steps': 3.* and is .*'steps': 2"):
        reproduce("toy", out=tmp_path, options={"steps": 2})
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        reproduce("toy", out=tmp_path, seed=1)
    MADE.clear()
    reproduce("toy", out=tmp_path, seed=1, fresh=True)
    assert MADE == ["one", "two"]


def test_the_random_stream_is_left_as_found(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    reproduce("toy", out=tmp_path, quick=True)
    assert torch.equal(torch.rand(3), expected)


def test_the_command_has_the_options_of_the_study(tmp_path, capsys):
    words = ["toy", "--quick", "--rates", "3,9/2", "--no-again", "--json"]
    words += ["--weight", "8/255", "--device", "cpu"]
    assert main(["reproduce", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["options"]["again"] is False
    assert found["options"]["rates"] == [3.0, 4.5]
    assert found["options"]["weight"] == 8 / 255
    assert "--device cpu" in found["command"]
    assert (tmp_path / "studies" / "toy.md").exists()
    assert main(["reproduce", "toy", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--rates" in shown
    assert "(default 3, quick 1)" in " ".join(shown.replace("│", " ").split())


def test_a_page_is_written_again_from_its_result(tmp_path, capsys):
    reproduce("toy", out=tmp_path, quick=True)
    before = (tmp_path / "toy.md").read_bytes()
    (tmp_path / "toy.md").unlink()
    assert main(["reproduce", "render", "toy/result.json"]) == 0
    assert (tmp_path / "toy.md").read_bytes() == before


def test_studies_are_listed(capsys):
    assert main(["reproduce", "list"]) == 0
    assert "toy" in capsys.readouterr().out
    assert main(["reproduce", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["toy"] == "a toy"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["defensive-destillation"], "unknown study 'defensive-destillation': the nearest name is"),
        (["toy", "--rates", "a,b"], "--rates must be floats with commas between them, got 'a,b'"),
        (["toy", "--weight", "heavy"], "--weight must be a number such as 8/255, got 'heavy'"),
        (["toy", "--steps", "0"], "steps must be >= 1, got 0"),
        (["toy", "--label", "../a"], "label must be letters, digits, '.', '_' and '-', got '../a'"),
        (["toy", "--out", "pyproject"], "--out must be a folder"),
        (["render", "nothing.json"], "nothing.json"),
        (["render", "pyproject"], "pyproject is no JSON"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, tmp_path):
    (tmp_path / "pyproject").write_text("text")
    assert main(["reproduce", *words]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]


@pytest.mark.parametrize("name", sorted(registry.STUDIES))
def test_every_study_is_where_its_name_says(name):
    found = study(name)
    assert found.name == name
    assert set(found.quick) <= {field.name for field in dataclasses.fields(found.options)}
    for field in dataclasses.fields(found.options):
        assert field.metadata.get("help"), f"{name}: {field.name} says nothing"
