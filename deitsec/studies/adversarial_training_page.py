"""The page of the study of adversarial training."""

from collections.abc import Mapping
from typing import Any

from deitsec.report.learning_curves import learning_curves
from deitsec.studies.study import Document, Page
from deitsec.studies.tables import share, table


# CIFAR-10, L-infinity 8/255, wide or pre-activation ResNets; accuracy clean and under PGD
def render(document: Document) -> Page:
    """Make the page of a result."""
    found, options = document["found"], document["options"]
    curved = [entry for entry in found["methods"] if _curve(entry)]
    parts = [
        f"{found['model']} trained by each method, and attacked within "
        f"{found['eps'] * 255:.4g}/255 (L-infinity) on {found['rows']} test images. *PGD* takes "
        f"{options['steps']} steps; *{found['strong']}* is the strongest attack tried, and the "
        "figure to believe: what it leaves is an upper bound of the truth. Seconds an epoch are "
        "those of the whole epoch on this machine, the judging of it included.",
        _table(found),
        _verdict(found),
        "## Catastrophic overfitting",
        "Fast adversarial training may come to withstand its one step and nothing else. The "
        "detector ends the run when accuracy under PGD falls below that under FGSM on held-out "
        "training rows and is no better than before; *fast-unwatched* is the same training without "
        "it.",
        _detector(found),
    ]
    if curved:
        parts += [
            "## Learning curves",
            "Accuracy on some training and test images, clean and under PGD; they pick nothing.",
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
    best = max(trained, key=lambda entry: entry["strong"])
    worst_gap = max(trained, key=lambda entry: entry["pgd"] - entry["strong"])
    return (
        f"Undefended, {share(undefended['strong'], 1)} withstand {found['strong']}; the best "
        f"method here is {best['method']} with {share(best['strong'], 1)}, at a clean accuracy of "
        f"{share(best['clean'], 1)} against {share(undefended['clean'], 1)}. PGD alone flatters "
        f"{worst_gap['method']} most, by "
        f"{100 * (worst_gap['pgd'] - worst_gap['strong']):.1f} points."
    )


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
    if not rows:
        return "Fast adversarial training was not among the methods of this run."
    return table(("", "FGSM, held out", "PGD, held out", "detector"), rows)
