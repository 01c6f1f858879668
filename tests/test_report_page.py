"""The plots of a report and its page: small, self-contained, and safe with hostile names."""

import re
import struct
from html.parser import HTMLParser

import numpy as np
import pytest
from report_for_tests import build_document, build_examples

from deitsec.report import Example, Report, draw_plots, render_html, validate
from deitsec.report.example_grid import amplified_change
from deitsec.report.plots import PLOT_NAMES

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=http://evil.test/x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    r"$\frac{1",
    "line\nbreak\x07\t",
    "\udcff not text",
    "名前",
    "",
    "a" * 300,
    "&amp; <b>",
)


class _Page(HTMLParser):
    """Collects what a browser would load or run, and whether the tags match."""

    VOID = frozenset({"meta", "link", "img", "source", "br"})

    def __init__(self, text):
        super().__init__()
        self.loads, self.tags, self.handlers, self.alts, self.open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.alts.append(dict(attrs).get("alt"))
        self.loads += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def document():
    return build_document()


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_plots_are_small_pngs_even_of_noise(num_classes):
    side = 224 if num_classes == 100 else 32
    examples = build_examples(6, (side, side, 3), num_classes, maps=2)
    plots = draw_plots(build_document(num_classes), examples)
    assert tuple(plots) == PLOT_NAMES
    for name, png in plots.items():
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG"), name
        assert len(png) <= 300_000, name
        assert min(width, height) > 100, name


def test_plots_without_figures_are_left_out(document):
    bare = document | {"sweeps": [], "per_class": []}
    assert set(draw_plots(bare)) == {"confusion.png", "confusion-narrow.png"}


def test_sweeps_in_two_norms_get_two_panels(document):
    from deitsec.report.plots import accuracy_against_eps

    points = [{"eps": 0.5, "robust_accuracy": 0.3}]
    sweeps = [*document["sweeps"], {"attack": "cw", "rows": 300, "points": points}]
    axes = accuracy_against_eps(document | {"sweeps": sweeps}).axes
    assert ["L∞" in axis.get_xlabel() for axis in axes] == [True, False]
    assert list(axes[1].lines[0].get_xdata()) == [0.0, 0.5]


def test_a_sweep_on_fewer_images_does_not_start_at_their_clean_accuracy(document):
    from deitsec.report.plots import accuracy_against_eps

    fewer = document | {"sweeps": [document["sweeps"][0] | {"rows": 100}]}
    validate(fewer)
    assert accuracy_against_eps(fewer).axes[0].lines[0].get_xdata()[0] == 1.0
    assert "Measured on 100 images." in render_html(fewer, draw_plots(fewer))


def test_drawing_is_repeatable_and_leaves_the_users_style_alone(document):
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert draw_plots(document) == draw_plots(document)
    assert dict(matplotlib.rcParams) == before


def test_amplified_change_by_hand():
    example = build_examples(1)[0]
    clean = np.full((1, 3, 1), 100, dtype=np.uint8)
    adversarial = np.array([[[100], [108], [96]]], dtype=np.uint8)
    fields = {name: getattr(example, name) for name in Example.__slots__}
    change, scale = amplified_change(
        Example(**(fields | {"clean": clean, "adversarial": adversarial}))
    )
    assert scale == 15
    assert change.ravel().tolist() == [128, 248, 68]


def test_page_loads_nothing_and_runs_nothing(document):
    text = render_html(document, draw_plots(document, build_examples()))
    page = _Page(text)
    assert page.open == []
    assert page.loads
    assert all(load.startswith("data:") for load in page.loads)
    assert not {"script", "iframe", "object", "form", "base"} & set(page.tags)
    assert not re.search(r"url\(|@import", text)
    assert len(page.alts) == 4
    assert all(page.alts)


def test_page_shows_the_figures_of_the_study_table(document):
    text = render_html(document, draw_plots(document))
    for metrics in (document["clean"], *document["attacks"]):
        for key in ("precision", "recall", "f1", "accuracy"):
            assert f"<td>{metrics[key]:.4f}</td>" in text
    assert document["model"]["sha256"] in text
    assert document["attacks"][1]["command"] in text


def test_page_says_in_which_precision_the_attacks_were_driven_and_what_fp32_refuted(document):
    attack = {**document["attacks"][0], "disagreement": 0.0125, "lost_in_rounding": 0.034}
    document = {**document, "attacks": [attack]}
    text = render_html(document, draw_plots(document))
    assert "bf16 was asked for to drive the attacks; fp32 judged them" in text
    assert "batch size: 64: as asked" in text
    assert "<td>3.40%</td><td>1.25%</td>" in text


def test_hostile_names_are_text_on_the_page_and_in_plots(tmp_path):
    built = build_document(names=HOSTILE)
    built["model"]["name"] = HOSTILE[1]
    built["command"] = "deitsec verify --out '</pre><script>x</script>'"
    Report(built, build_examples(6)).save(tmp_path)
    page = _Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.open == []
    assert "script" not in page.tags
    assert page.handlers == []
    assert all(load.startswith("data:") for load in page.loads)
    assert Report.load(tmp_path).document["data"]["class_names"] == list(HOSTILE)
