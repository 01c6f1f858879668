"""Activation clustering: the features of a poisoned class fall into a large and a small cluster."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from deitsec.defenses.suspicion import Suspicion, check_features

_FEWEST = 8  # rows of a class from which on clusters tell anything
_MOST_COMPARED = 2000  # rows that the silhouette compares with each other
_RANK_TOLERANCE = 1e-7


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationClustering:
    """Two clusters a class (Chen et al., arXiv:1811.03728, sections 4 and 5).

    The features of each class are brought to a few dimensions and fall into two clusters by
    k-means. A class is poisoned where one cluster is small (`largest_share`) and the two are apart
    (`least_silhouette`); the rows of the small one are flagged.

    Attributes:
        reduction: `ica`, as in the paper, or `pca`. A class on which ICA comes to nothing is not
            judged: its `silhouette` is None.
        dimensions: that the features are brought to, >= 1; fewer where a class spans fewer.
        largest_share: of the rows of a class, that the small cluster of a poisoned one has at most,
            in (0, 0.5].
        least_silhouette: mean silhouette from which on two clusters are apart, in [-1, 1].
        seed: of ICA and k-means.

    Raises:
        ValueError: an option out of range.
    """

    reduction: Literal["ica", "pca"] = "ica"
    dimensions: int = 10
    largest_share: float = 0.35
    least_silhouette: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.reduction not in ("ica", "pca"):
            raise ValueError(f"reduction must be ica or pca, got {self.reduction!r}")
        if self.dimensions < 1:
            raise ValueError(f"dimensions must be >= 1, got {self.dimensions}")
        if not 0 < self.largest_share <= 0.5:
            raise ValueError(f"largest_share must be in (0, 0.5], got {self.largest_share}")
        if not -1 <= self.least_silhouette <= 1:
            raise ValueError(f"least_silhouette must be in [-1, 1], got {self.least_silhouette}")

    def __call__(self, features: Tensor, labels: Tensor) -> Suspicion:
        """Look for poisoned rows.

        A row scores by how much nearer it is to the small cluster's centre than to the large one's,
        from -1 to 1; rows of classes that are not judged poisoned come after all others.

        Args:
            features: (N, D), of the model that was trained on the rows.
            labels: (N,) the labels that it was trained on.

        Raises:
            ValueError: features and labels that do not fit.
        """
        check_features(features, labels)
        scores = torch.full((len(labels),), -2.0, dtype=torch.float64)
        flagged = torch.zeros(len(labels), dtype=torch.bool)
        classes: list[dict[str, Any]] = []
        for label in labels.unique().tolist():
            rows = (labels == label).nonzero()[:, 0]
            found = self._split(features[rows].double().numpy())
            piece: dict[str, Any] = {"class": label, "rows": len(rows)}
            if found is None:
                classes.append(piece | {"small_share": None, "silhouette": None, "flagged": 0})
                continue
            small, nearness, silhouette = found
            share = float(small.mean())
            poisoned = share <= self.largest_share and silhouette >= self.least_silhouette
            flagged[rows] = torch.from_numpy(small) & poisoned
            scores[rows] = torch.from_numpy(nearness) - (0.0 if poisoned else 2.0)
            piece |= {"small_share": share, "silhouette": silhouette}
            classes.append(piece | {"flagged": int(small.sum()) if poisoned else 0})
        return Suspicion(scores=scores, flagged=flagged, classes=classes)

    def _split(self, features: Any) -> tuple[Any, Any, float] | None:
        """Who is in the small cluster, how near to it each row is, and the silhouette."""
        from sklearn.cluster import KMeans
        from sklearn.metrics import silhouette_score

        reduced = self._reduced(features)
        if reduced is None:
            return None
        cluster: Any = KMeans  # its stubs take words for numbers
        means = cluster(2, n_init=10, random_state=self._state).fit(reduced)
        distances = means.transform(reduced)
        small_one = int(np.bincount(means.labels_, minlength=2).argmin())
        small = means.labels_ == small_one
        if small.all() or not small.any():
            return None
        to_small, to_large = distances[:, small_one], distances[:, 1 - small_one]
        nearness = (to_large - to_small) / (to_large + to_small)
        compared = min(_MOST_COMPARED, len(reduced))
        silhouette = silhouette_score(
            reduced, means.labels_, sample_size=compared, random_state=self._state
        )
        return small, nearness, float(silhouette)

    def _reduced(self, features: Any) -> Any:
        """(n, dimensions), or None: too few rows, rows all alike, or components that ICA lost."""
        from sklearn.decomposition import PCA, FastICA
        from sklearn.exceptions import ConvergenceWarning

        spread = np.linalg.svd(features - features.mean(0), compute_uv=False)
        rank = int((spread > _RANK_TOLERANCE * max(spread[0], 1e-30)).sum())
        if len(features) < _FEWEST or rank == 0 or spread[0] == 0:
            return None
        dimensions = min(self.dimensions, rank, len(features) - 1)
        if self.reduction == "pca":
            return PCA(dimensions, random_state=self._state).fit_transform(features)
        # k-means wants the subspace, which is found before the components have settled
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", ConvergenceWarning)
            ica = FastICA(dimensions, whiten="unit-variance", random_state=self._state)
            try:
                found: Any = ica.fit_transform(features)
            except (ValueError, np.linalg.LinAlgError):  # a component that came to nothing is NaN
                return None
        return found if np.isfinite(found).all() else None

    @property
    def _state(self) -> int:
        return self.seed % (1 << 32)  # what scikit-learn takes
