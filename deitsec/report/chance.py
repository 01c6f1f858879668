"""What a classifier that never looks at the image would score."""

import math
from collections.abc import Mapping
from typing import Any


def chance_accuracy(clean: Mapping[str, Any]) -> float:
    """Accuracy of always answering the commonest class; of an even guess if there is one only.

    Args:
        clean: the `clean` part of a report; rows of its `confusion` are true labels.
    """
    per_class = [sum(row) for row in clean["confusion"]]
    present = sum(rows > 0 for rows in per_class)
    return max(per_class) / sum(per_class) if present > 1 else 1 / len(per_class)


def at_chance(clean: Mapping[str, Any]) -> bool:
    """Whether the clean accuracy is within two standard errors of chance, or below it."""
    chance = chance_accuracy(clean)
    error = math.sqrt(chance * (1 - chance) / clean["rows"])
    return clean["accuracy"] <= chance + 2 * error
