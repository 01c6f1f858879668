"""torchattacks' files of adversarial images."""

import io
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from deitsec.compat.scaled import Scale
from deitsec.engine import AttackResult
from deitsec.whole_files import replace_files


class Attacker(Protocol):
    """What makes the images."""

    def result(self, inputs: Tensor, labels: Tensor) -> AttackResult:
        """Attack a batch."""
        ...


def save(
    attack: Attacker,
    data_loader: Iterable[tuple[Tensor, Tensor]],
    save_path: str | None = None,
    *,
    verbose: bool = True,
    return_verbose: bool = False,
    save_predictions: bool = False,
    save_clean_inputs: bool = False,
    save_type: str = "float",
) -> tuple[float, float, float] | None:
    """Attack every batch, and write the images to a file that `load` and torchattacks read.

    Args:
        attack: makes the images.
        data_loader: gives (images, labels).
        save_path: the file; None writes none.
        verbose: whether a line is printed at the end.
        return_verbose: whether the figures are returned.
        save_predictions: whether the file has the predicted classes.
        save_clean_inputs: whether it has the clean images.
        save_type: `float`, or `int` for 8-bit levels, to the nearest; torchattacks cuts off.

    Returns:
        Robust accuracy in percent, mean L2 distance of the successes, and seconds; or None.

    Raises:
        ValueError: another save_type.
    """
    if save_type not in ("float", "int"):
        raise ValueError(f"save_type must be float or int, got {save_type!r}")
    started = time.perf_counter()
    results: list[AttackResult] = []
    truth: list[Tensor] = []
    for images, labels in data_loader:
        results.append(attack.result(images, labels))
        truth.append(labels.cpu())
    predicted = torch.cat([result.logits.argmax(1).cpu() for result in results])
    labels = torch.cat(truth)
    right = predicted == labels
    distance = torch.cat([result.distance("l2").cpu() for result in results])
    figures = (
        100 * right.double().mean().item(),
        distance[~right].mean().item(),
        time.perf_counter() - started,
    )
    if save_path is not None:
        parts = {"adv_inputs": torch.cat([result.adv.cpu() for result in results])}
        if save_clean_inputs:
            parts["clean_inputs"] = torch.cat([result.clean.cpu() for result in results])
        if save_type == "int":
            parts = {key: (x * 255).round().to(torch.uint8) for key, x in parts.items()}
        content: dict[str, Any] = parts | {"labels": labels, "save_type": save_type}
        if save_predictions:
            content["preds"] = predicted
        buffer = io.BytesIO()
        torch.save(content, buffer)
        replace_files({Path(save_path): buffer.getvalue()})
    if verbose:
        print("- Robust accuracy: {:2.2f} % / L2: {:1.5f} ({:2.3f} s)".format(*figures))
    return figures if return_verbose else None


def load(
    load_path: str,
    batch_size: int = 128,
    shuffle: bool = False,
    normalize: dict[str, Sequence[float]] | None = None,
    load_predictions: bool = False,
    load_clean_inputs: bool = False,
) -> DataLoader[tuple[Tensor, ...]]:
    """Read a file that `save` or torchattacks wrote: images, labels, predictions, clean images.

    `normalize` maps `mean` and `std` to one value a channel.
    """
    content: dict[str, Any] = torch.load(load_path, weights_only=True)
    keys = ["adv_inputs", "labels"]
    keys += ["preds"] if load_predictions else []
    keys += ["clean_inputs"] if load_clean_inputs else []
    scale = None if normalize is None else Scale.of(normalize["mean"], normalize["std"])
    for key in ("adv_inputs", "clean_inputs"):
        if key in keys:
            images = content[key]
            images = images.float() / 255 if content["save_type"] == "int" else images
            content[key] = images if scale is None else scale.outward(images)
    rows = TensorDataset(*(content[key] for key in keys))
    return DataLoader(rows, batch_size=batch_size, shuffle=shuffle)
