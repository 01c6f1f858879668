"""The page of the study of adversarial training."""

from collections.abc import Mapping, Sequence
from typing import Any

from deitsec.report.learning_curves import learning_curves
from deitsec.studies.radius import radius_note
from deitsec.studies.study import Document, Page
from deitsec.studies.tables import share, table

_ONE_STEP = 0.2  # accuracy under FGSM above that under PGD which is remarked on


def render(document: Document) -> Page:
    """Make the page of a result."""
    found, options = document["found"], document["options"]
    curved = [entry for entry in found["methods"] if _curve(entry)]
    whole = found["methods"][0].get("clean_rows")
    of_clean = f" *Clean* is of all {whole:,} test images." if whole else ""
    parts = [
        f"{found['model']} trained by each method, and attacked within "
        f"{found['eps'] * 255:.4g}/255 (L-infinity) on {found['rows']} test images."
        f"{radius_note(found)} *PGD* takes {options['steps']} steps. The figure to believe is the "
        "least of a row, that of the strongest attack tried, and still an upper bound of the "
        "truth. Seconds an epoch are those of the whole epoch on this machine, the judging of it "
        f"included.{of_clean}",
        _table(found),
        _verdict(found),
    ]
    if any(entry["method"].startswith("fast") for entry in found["methods"]):
        parts += [
            "## Catastrophic overfitting",
            "Fast adversarial training may come to withstand its one step and nothing else. The "
            "detector ends the run when accuracy under PGD on held-out training rows falls far "
            "below both its best and that under FGSM; *fast-unwatched* is the same training "
            "without it.",
            _detector(found),
        ]
    if curved:
        each = found.get("curve_rows")
        some = f"{each} training and {each} test" if each else "some training and test"
        parts += [
            "## Learning curves",
            f"Accuracy on {some} images, clean and under PGD; they pick nothing.",
            "![learning curves](figure:learning-curves)",
        ]
    figures = {}
    if curved:
        figures["learning-curves"] = learning_curves(
            *(entry["training"]["history"] for entry in curved),
            titles=[entry["method"] for entry in curved],
        )
    return Page(markdown="\n\n".join(parts), figures=figures)


def _curve(entry: Mapping[str, Any]) -> bool:
    history = entry["training"].get("history", ())
    return any("test_robust_accuracy" in record["measured"] for record in history)


def _table(found: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for entry in found["methods"]:
        training = entry["training"]
        known = "history" in training
        rows.append(
            [
                entry["method"],
                *(share(entry[name], 1) for name in ("clean", "fgsm", "pgd", "strong")),
                f"{training['seconds_per_epoch']:.1f}" if known else "not recorded",
                f"{training['best_epoch']} of {len(training['history'])}" if known else "-",
            ]
        )
    head = ("", "clean", "FGSM", "PGD", found["strong"], "seconds an epoch", "epoch kept")
    return table(head, rows)


def _verdict(found: Mapping[str, Any]) -> str:
    undefended, *trained = found["methods"]
    chance = 1 / found.get("classes", 10)
    learnt = [entry for entry in trained if entry["clean"] > 2 * chance]
    said = [_best(undefended, learnt)]
    said += [
        f"{entry['method']} learnt next to nothing at this radius: {share(entry['clean'], 1)} of "
        "the clean images are right, and what is left of them under attack is no robustness."
        for entry in trained
        if entry not in learnt
    ]
    flattered = max(trained, key=lambda entry: entry["pgd"] - _least(entry))
    if (by := flattered["pgd"] - _least(flattered)) > 0:
        said.append(f"PGD alone flatters {flattered['method']} most, by {100 * by:.1f} points.")
    said += [
        f"{entry['method']} withstands one step and little else: {share(entry['fgsm'], 1)} under "
        f"FGSM, {share(entry['pgd'], 1)} under PGD."
        for entry in trained
        if entry["fgsm"] - entry["pgd"] > _ONE_STEP
    ]
    return " ".join(said)


def _best(undefended: Mapping[str, Any], learnt: Sequence[Mapping[str, Any]]) -> str:
    """Which of the methods that learnt to classify holds most."""
    before = f"Undefended, {share(_least(undefended), 1)} withstand every attack here"
    if not learnt:
        return f"{before}; no method learnt to classify."
    most = max(_least(entry) for entry in learnt)
    best = [entry for entry in learnt if _least(entry) == most]
    names = " and ".join(entry["method"] for entry in best)
    clean = " and ".join(share(entry["clean"], 1) for entry in best)
    return (
        f"{before}; the best {'method is' if len(best) == 1 else 'methods are'} {names} with "
        f"{share(most, 1)}, at a clean accuracy of {clean} against {share(undefended['clean'], 1)}."
    )


def _least(entry: Mapping[str, Any]) -> float:
    """Accuracy under the strongest attack tried."""
    return min(entry[name] for name in ("fgsm", "pgd", "strong"))


def _detector(found: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for entry in found["methods"]:
        if not entry["method"].startswith("fast"):
            continue
        history = entry["training"].get("history", ())
        for record in history:
            fgsm = record["measured"].get("validation_fgsm_accuracy")
            said = "ended here" if record["note"] else ""
            pgd = record["validation_accuracy"]
            rows.append(
                [f"{entry['method']}, epoch {record['epoch']}", share(fgsm, 1), share(pgd, 1), said]
            )
    found_out = table(("", "FGSM, held out", "PGD, held out", "detector"), rows)
    if any(said for *_, said in rows):
        return found_out
    return f"{found_out}\n\nThe detector never ended a run here."
