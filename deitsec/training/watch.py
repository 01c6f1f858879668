"""What adversarial training comes to, epoch by epoch: learning curves, and when to stop."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deitsec.data import ImageSet, to_float
from deitsec.training.adversarial_config import AdversarialConfig
from deitsec.training.inner_attack import InnerAttack
from deitsec.training.method import Judgement
from deitsec.training.modes import eval_mode, place_of
from deitsec.training.result import EpochRecord

FGSM_ACCURACY = "validation_fgsm_accuracy"
_BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How a model does on some images.

    Attributes:
        accuracy: in [0, 1].
        loss: mean cross-entropy.
    """

    accuracy: float
    loss: float


def score(
    model: nn.Module, images: ImageSet, rows: Tensor, attack: InnerAttack | None = None
) -> Score:
    """Accuracy and loss of a model on rows, clean or attacked, in eval mode.

    Args:
        model: any mode, which is put back.
        images: where to read.
        rows: (n,) int64 on the CPU, n >= 1.
        attack: what is done to the images, or None.
    """
    device = place_of(model)
    right, loss = torch.zeros((2,), device=device, dtype=torch.float64).unbind()
    for batch in rows.split(_BATCH):
        x, labels = to_float(images.images(batch).to(device)), images.labels[batch].to(device)
        if attack is not None:
            x = attack(model, x, labels, batch.to(device))
        with eval_mode(model), torch.no_grad():
            logits = model(x).float()
        right += (logits.argmax(1) == labels).sum()
        loss += cross_entropy(logits, labels, reduction="sum")
    return Score(accuracy=right.item() / len(rows), loss=loss.item() / len(rows))


class Watch:
    """Judges the epochs of adversarial training, with the same attack and draws every time.

    Args:
        config: the recipe.
        train_rows: the rows of the training split that are trained on.
        test: the test split, for the learning curves alone.
    """

    def __init__(self, config: AdversarialConfig, train_rows: Tensor, test: ImageSet) -> None:
        self._config = config
        self._test = test
        self._pgd = InnerAttack(
            norm=config.norm,
            eps=config.eps,
            alpha=config.eps / 4,
            steps=config.watch_steps,
            seed=config.fit.seed,
            channels_last=config.fit.channels_last,
        )
        self._fgsm = InnerAttack(
            norm=config.norm,
            eps=config.eps,
            alpha=config.eps,
            steps=1,
            start="clean",
            channels_last=config.fit.channels_last,
        )
        few = torch.Generator().manual_seed(config.fit.seed)
        self._rows = {
            "train": train_rows[torch.randperm(len(train_rows), generator=few)],
            "test": torch.randperm(len(test), generator=few),
        }

    def judge(
        self, model: nn.Module, train: ImageSet, rows: Tensor, history: Sequence[EpochRecord]
    ) -> Judgement:
        """Judge an epoch by the accuracy under PGD on validation rows; see `Method.judge`."""
        measured = self._curves(model, train, len(history) + 1)
        if not len(rows):
            return Judgement(measured=measured)
        found = score(model, train, rows, self._pgd)
        note = None
        if self._config.method == "fast":
            measured[FGSM_ACCURACY] = score(model, train, rows, self._fgsm).accuracy
            note = self._overfitting(measured[FGSM_ACCURACY], found.accuracy, len(rows), history)
        return Judgement(
            accuracy=found.accuracy,
            loss=found.loss,
            measured=measured,
            note=note,
            stop=note is not None,
        )

    def _curves(self, model: nn.Module, train: ImageSet, epoch: int) -> dict[str, float]:
        every = self._config.curve_every
        if every is None or (epoch % every and epoch != self._config.fit.epochs):
            return {}
        measured: dict[str, float] = {}
        for name, images in (("train", train), ("test", self._test)):
            rows = self._rows[name][: self._config.curve_rows]
            measured[f"{name}_accuracy"] = score(model, images, rows).accuracy
            measured[f"{name}_robust_accuracy"] = score(model, images, rows, self._pgd).accuracy
        return measured

    def _overfitting(
        self, fgsm: float, pgd: float, rows: int, history: Sequence[EpochRecord]
    ) -> str | None:
        """Why the run has to end: what was learnt is to withstand the one step, and no more."""
        gap = self._config.overfit_gap
        before = max((record.validation_accuracy or 0.0 for record in history), default=0.0)
        if gap is None or fgsm - pgd <= gap or before - pgd <= gap:
            return None
        return (
            f"catastrophic overfitting: accuracy {pgd:.1%} under PGD and {fgsm:.1%} under FGSM on "
            f"{rows} held-out training rows, after {before:.1%} under PGD at best; the run ended "
            "and the weights before it were kept"
        )
