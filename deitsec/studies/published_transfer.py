"""The published transfer between kinds of models, beside ours."""

from collections.abc import Mapping
from typing import Any

from deitsec.report.wording import points
from deitsec.studies.tables import share, table
from deitsec.studies.transfer_between import failed_sources

# Papernot et al., arXiv:1605.07277, figure 3, MNIST: source -> target -> share that is misread
_TARGETS = ("deep network", "logistic regression", "SVM", "tree", "kNN")
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    source: dict(zip(_TARGETS, rates, strict=True))
    for source, rates in {
        "deep network": (0.3827, 0.2302, 0.6432, 0.7931, 0.0836),
        "logistic regression": (0.0631, 0.9164, 0.9143, 0.8742, 0.1129),
        "tree": (0.0082, 0.1222, 0.0885, 0.8929, 0.0331),
        "kNN": (0.1175, 0.4289, 0.8216, 0.8295, 0.4165),
    }.items()
}
# ours -> theirs
_KINDS: Mapping[str, str] = {
    "mnist_dense": "deep network",
    "logistic (scikit-learn)": "logistic regression",
    "svm": "SVM",
    "tree": "tree",
    "knn": "kNN",
}
_APART = 0.02


def published_transfer(matrix: Mapping[str, Any]) -> str:
    """Each published pair that ours has too: theirs, ours, and the difference in points."""
    names = [name for name in matrix["names"] if name in _KINDS]
    place = {name: matrix["names"].index(name) for name in names}
    failed = failed_sources(matrix)
    rows: list[list[str]] = []
    apart = total = 0
    for source in names:
        if _KINDS[source] not in PUBLISHED or source in failed:
            continue
        for target in names:
            theirs = PUBLISHED[_KINDS[source]][_KINDS[target]]
            ours = matrix["rate"][place[source]][place[target]]
            if ours is None:
                continue
            total += 1
            apart += abs(ours - theirs) > _APART
            difference = f"{100 * (ours - theirs):+.1f}"
            rows.append([f"{source} to {target}", share(theirs), share(ours), difference])
    if not rows:
        return "No published pair was measured here."
    head = ("made on, shown to", "published", "ours", "points")
    return (
        "Beside Papernot et al. (arXiv:1605.07277, figure 3, MNIST; their row of the SVM was not "
        "at hand):\n\n"
        + table(head, rows)
        + f"\n{apart} of {total} are more than {points(_APART)} apart. The radius, the data and "
        "the attacks differ (FGSM of another radius there, and an attack of its own for each kind; "
        "PGD to the highest loss here); which of these it is was not measured for each pair."
    )
