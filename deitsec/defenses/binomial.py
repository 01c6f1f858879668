"""What a number of votes says of a probability: exact binomial bounds, in float64."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def check_alpha(alpha: float) -> float:
    """Return the level, or raise a ValueError for one that is not in (0, 1)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}: it is the rate of failures")
    return alpha


def lower_bound(successes: Counts, trials: int, alpha: float) -> NDArray[np.float64]:
    """One-sided Clopper-Pearson bound, above which the probability lies but for a chance of alpha.

    The probability at which as many successes, or more, are seen with probability alpha: the alpha
    quantile of Beta(k, n - k + 1), and 0 where k is 0 (Clopper and Pearson, Biometrika 1934;
    LowerConfBound of Cohen et al., arXiv:1902.02918, section 3.2.2).

    Args:
        successes: (N,) in 0 to `trials`.
        trials: how many there were, >= 1.
        alpha: rate of failure of one bound, in (0, 1).

    Raises:
        ValueError: a value out of its range.
    """
    from scipy.stats import beta

    check_alpha(alpha)
    k = np.asarray(successes)
    if trials < 1 or (k < 0).any() or (k > trials).any():
        raise ValueError(f"successes must be in 0 to trials={trials} >= 1, got {k.tolist()}")
    distribution: Any = beta
    bound = distribution.ppf(alpha, np.maximum(k, 1), trials - k + 1)
    return np.where(k == 0, 0.0, bound)


def tie_p_value(first: Counts, second: Counts) -> NDArray[np.float64]:
    """Two-sided probability of counts as unequal as these, or more, if both were equally likely.

    The binomial test of Cohen et al. (arXiv:1902.02918, section 3.2.1) on the top two classes.

    Args:
        first, second: (N,) counts, >= 0.
    """
    from scipy.stats import binom

    larger, trials = np.maximum(first, second), np.asarray(first) + np.asarray(second)
    distribution: Any = binom
    # the halves mirror each other at p = 1/2, so twice the tail is exact
    return np.minimum(1.0, 2 * distribution.sf(larger - 1, trials, 0.5))
