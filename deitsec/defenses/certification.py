"""The certificates of a data source's test images, in figures and row by row."""

import csv
import io
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deitsec.data import DataSource, to_float
from deitsec.defenses.certified_curve import average_certified_radius, certified_accuracy
from deitsec.defenses.smoothing import ABSTAIN, Certificates, Progress, SmoothedClassifier
from deitsec.training import predict

_MARKS = 0.25  # of sigma, between two radii of the table

Curve = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Certification:
    """What was certified of some test images.

    Attributes:
        rows: (N,) int64 rows of the test split; they are the sample ids too.
        labels: (N,) int64.
        certificates: of these rows.
        select: noisy copies that picked each class.
        seconds: wall time.
    """

    rows: Tensor
    labels: Tensor
    certificates: Certificates
    select: int
    seconds: float

    def curve(self) -> Curve:
        """Certified accuracy as a step function: (radius, share up to it), ascending."""
        found = self.certificates
        right = found.radii[found.classes == self.labels].unique().tolist()
        radii = [0.0, *right]
        return list(zip(radii, certified_accuracy(found, self.labels, radii), strict=True))

    def summary(self) -> dict[str, Any]:
        """The figures, as plain values."""
        from scipy.special import ndtri

        found = self.certificates
        # so few copies that not even all of them prove a majority certify nothing
        most = max(0.0, found.sigma * float(ndtri(found.alpha ** (1 / found.samples))))
        marks = [_MARKS * found.sigma * i for i in range(int(most / found.sigma / _MARKS) + 1)]
        shares = certified_accuracy(found, self.labels, marks)
        return {
            "sigma": found.sigma,
            "samples": found.samples,
            "select": self.select,
            "alpha": found.alpha,
            "rows": len(self.rows),
            "accuracy": shares[0],
            "abstained": (found.classes == ABSTAIN).double().mean().item(),
            "average_certified_radius": average_certified_radius(found, self.labels),
            "largest_possible_radius": most,
            "certified": [
                {"radius": radius, "accuracy": share}
                for radius, share in zip(marks, shares, strict=True)
            ],
            "seconds": self.seconds,
        }

    def table(self) -> str:
        """CSV: row, label, class (-1 abstains), right, votes, p_lower and radius of each image."""
        found, text = self.certificates, io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("row", "label", "class", "right", "votes", "p_lower", "radius"))
        right = (found.classes == self.labels).long()
        columns = (self.rows, self.labels, found.classes, right, found.votes)
        exact = (found.p_lower, found.radii)
        writer.writerows(zip(*(column.tolist() for column in (*columns, *exact)), strict=True))
        return text.getvalue()


def certify_rows(
    smoothed: SmoothedClassifier,
    data: DataSource,
    rows: Tensor,
    *,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    progress: Progress | None = None,
) -> Certification:
    """Certify test images of a data source; the arguments are those of `certify`.

    Args:
        smoothed: the defense.
        data: where the images are.
        rows: (N,) int64 rows of the test split, N >= 1.
        n0, n, alpha: see `SmoothedClassifier.certify`.
        progress: called with (noisy copies done, in all).

    Raises:
        ValueError: what `SmoothedClassifier.certify` raises.
    """
    start = time.perf_counter()
    images = to_float(data.test.images(rows))
    found = smoothed.certify(images, n0, n, alpha, sample_ids=rows, progress=progress)
    return Certification(
        rows=rows,
        labels=data.test.labels[rows],
        certificates=found,
        select=n0,
        seconds=time.perf_counter() - start,
    )


def nominal_accuracy(smoothed: SmoothedClassifier, data: DataSource, rows: Tensor) -> float:
    """Accuracy of the model inside on the images themselves, without noise."""
    model: Any = smoothed.model
    right = predict(model, data.test, rows).argmax(1) == data.test.labels[rows]
    return right.to(torch.float64).mean().item()
