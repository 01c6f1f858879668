"""A finished report: its document and examples, saved as a folder and loaded from one."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deitsec.report.document import from_json, plain, to_json, validate
from deitsec.report.example import Example, pack_examples, unpack_examples
from deitsec.whole_files import replace_files

_DOCUMENT, _PAGE, _EXAMPLES, _PLOTS = "report.json", "report.html", "examples.npz", "plots"


class Report:
    """What a run of deitsec found out about one model."""

    document: dict[str, Any]
    """The content of report.json (docs/report-schema.md); NaN and infinity are None."""
    examples: tuple[Example, ...]

    def __init__(self, document: Mapping[str, Any], examples: Sequence[Example] = ()) -> None:
        """Hold a document and the examples of its picture grid.

        Args:
            document: every key that docs/report-schema.md lists. It is copied.
            examples: of one image shape; the page shows the first six.

        Raises:
            TypeError: when the document holds what JSON cannot.
            ValueError: when an example has a class that the data has no name for.
        """
        self.document = plain(document)
        self.examples = tuple(examples)
        for example in self.examples:
            known = range(len(self.document["data"]["class_names"]))
            classes = (example.label, example.clean_prediction, example.adversarial_prediction)
            if not all(label in known for label in classes):
                raise ValueError(
                    f"an example must have classes in [0, {len(known)}), got {classes} "
                    f"in row {example.row}"
                )

    def to_json(self) -> str:
        """The text of report.json."""
        return to_json(self.document)

    def save(self, directory: str | Path) -> list[Path]:
        """Write report.html, plots/*.png, examples.npz (with examples) and report.json.

        Either all files are written or none: see `replace_files`. report.json comes last, so where
        it is, the report is complete. Plots and examples of an earlier report in the same folder
        that this one does not have are removed.

        Args:
            directory: made when it does not exist.

        Returns:
            The files written.

        Raises:
            ValueError: when the document does not fit its schema (checked where jsonschema is
                installed).
            OSError: when a file cannot be written.
        """
        from deitsec.report.html import render_html
        from deitsec.report.plots import PLOT_NAMES, draw_plots

        if find_spec("jsonschema") is not None:
            validate(self.document)
        directory = Path(directory)
        plots = draw_plots(self.document, self.examples)
        # A file name may hold bytes that are no text; they become `?` on the page.
        page = render_html(self.document, plots).encode("utf-8", "replace")
        contents = {f"{_PLOTS}/{name}": png for name, png in plots.items()}
        if self.examples:
            contents[_EXAMPLES] = pack_examples(self.examples)
        contents |= {_PAGE: page, _DOCUMENT: self.to_json().encode("ascii")}
        files = {directory / name: content for name, content in contents.items()}
        replace_files(files)
        for name in (_EXAMPLES, *(f"{_PLOTS}/{plot}" for plot in PLOT_NAMES)):
            if name not in contents:
                (directory / name).unlink(missing_ok=True)
        return list(files)

    @classmethod
    def load(cls, directory: str | Path) -> "Report":
        """Read a report that `save` wrote.

        Raises:
            FileNotFoundError: when the folder has no report.json.
            ValueError: when report.json is not a report of this version.
        """
        path = Path(directory) / _DOCUMENT
        document = from_json(path.read_text("utf-8"), origin=str(path))
        packed = Path(directory) / _EXAMPLES
        return cls(document, unpack_examples(packed.read_bytes()) if packed.exists() else ())
