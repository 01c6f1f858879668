"""What an attacker who knows classifier and detector climbs, with any attack."""

import torch
from torch import Tensor, nn

from deitsec.defenses.detector import RejectingClassifier
from deitsec.types import IN_FLIGHT

_SAMPLE = (1 << 48) - 1  # the bits above tell one try of a row from another


class Evasion(nn.Module):
    """A rejecting classifier on which an attack succeeds where it is wrong and nothing is detected.

    To an attacker without a target the label and the rejection are one failure, so the two share a
    logit: K logits, that of the label the larger of the two. Their argmax is another class than the
    label exactly where the image is misclassified and not detected. An attack takes the steeper
    obstacle first: it turns the class, then talks the detector out of it, and comes back where one
    costs the other (as selective gradients do: Bryniarski et al., arXiv:2106.15023).

    The label of a row is found by the sample id that an engine is working on; outside of an engine
    row i of a batch has the label of row i. Rows that are not known answer NaN, which an engine
    refuses.

    Args:
        defended: classifier and detector.
        labels: (N,) integer true classes of the rows to attack.
        sample_ids: (N,) int64 their identities, as `Engine.run` has them; None numbers them from 0.

    Raises:
        ValueError: labels and sample ids that do not fit each other, or ids given twice.
    """

    labels: Tensor
    ascending: Tensor
    order: Tensor

    def __init__(
        self, defended: RejectingClassifier, labels: Tensor, sample_ids: Tensor | None = None
    ) -> None:
        super().__init__()
        ids = torch.arange(len(labels)) if sample_ids is None else sample_ids.cpu()
        if labels.ndim != 1 or not len(labels) or ids.shape != labels.shape:
            raise ValueError(
                "labels and sample_ids must be (N,) of the same N >= 1, got "
                f"{tuple(labels.shape)} and {tuple(ids.shape)}"
            )
        if len(ids.unique()) != len(ids):
            raise ValueError("sample_ids must name each row once")
        self.defended = defended
        place = next((p.device for p in defended.parameters()), None)
        ascending, order = ids.sort()
        columns = {"labels": labels.long(), "ascending": ascending, "order": order}
        for name, column in columns.items():
            self.register_buffer(name, column.to(place), persistent=False)
        self.training = defended.training

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits of images (B, C, H, W) in [0, 1]."""
        answers: Tensor = self.defended(images)
        logits, rejection = answers[:, :-1], answers[:, -1:]
        labels, known = self._labels_of(len(images), images.device)
        held = torch.maximum(logits.gather(1, labels[:, None]), rejection)
        held = torch.where(known[:, None], held, torch.nan)
        return logits.scatter(1, labels[:, None], held)

    def _labels_of(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(B,) labels of the rows that are asked about, and whether they are known."""
        flight = IN_FLIGHT.get()
        if flight is None:
            index = torch.arange(rows, device=device) % len(self.labels)
            return self.labels[index], torch.ones_like(index, dtype=torch.bool)
        ids = flight.sample_ids & _SAMPLE
        place = torch.searchsorted(self.ascending, ids).clamp(max=len(self.order) - 1)
        return self.labels[self.order[place]], self.ascending[place] == ids
