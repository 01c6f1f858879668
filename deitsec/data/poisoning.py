"""Contamination of a training set at a given rate: labels flipped, or a backdoor planted.

Nothing is copied: a contaminated set reads the clean one and changes the rows that are asked for.
Which rows are changed is decided by the seed; of two rates, the lower changes a part of the rows
that the higher changes.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deitsec.data.image_set import ImageSet, check_rows
from deitsec.data.source import DataSource
from deitsec.data.trigger import Trigger


@dataclass(frozen=True, kw_only=True, eq=False)
class ContaminatedSet:
    """An image set with other labels, and a trigger on some of its images.

    Attributes:
        base: the clean set.
        labels: (N,) int64, the labels that it is given.
        stamped: (N,) bool, images that carry the trigger.
        trigger: what they carry; None where none does.
    """

    base: ImageSet
    labels: Tensor
    stamped: Tensor
    trigger: Trigger | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.base.shape

    def __len__(self) -> int:
        """Count the images."""
        return len(self.base)

    def images(self, rows: Tensor) -> Tensor:
        """Return the images of `rows`, (n,) int64 on the CPU, as (n, C, H, W) uint8."""
        check_rows(rows, len(self))
        images = self.base.images(rows)
        hit = self.stamped[rows].nonzero()[:, 0]
        if self.trigger is None or len(hit) == 0:
            return images
        return images.index_copy(0, hit, self.trigger.stamp(images[hit]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Poisoned:
    """A contaminated source, with the truth about it.

    Attributes:
        data: the source, its training split contaminated and its test split as it was.
        rows: (n,) int64 ascending, the training rows that were changed.
        what: the contamination in words.
        source: class whose labels were flipped; None for any.
        target: class that was aimed at; None for any.
        trigger: what opens the backdoor; None where labels were flipped.
    """

    data: DataSource
    rows: Tensor
    what: str
    source: int | None = None
    target: int | None = None
    trigger: Trigger | None = None

    @property
    def mask(self) -> Tensor:
        """(N,) bool, the training rows that were changed."""
        assert self.data.train is not None
        mask = torch.zeros(len(self.data.train), dtype=torch.bool)
        mask[self.rows] = True
        return mask

    @property
    def largest_share(self) -> float:
        """The share of poisoned rows in the class, by the labels given, that has most of them."""
        assert self.data.train is not None
        labels = self.data.train.labels
        counts = torch.bincount(labels, minlength=self.data.num_classes)
        poisoned = torch.bincount(labels[self.rows], minlength=self.data.num_classes)
        return float((poisoned / counts.clamp(min=1)).max())


def flip_labels(
    data: DataSource,
    *,
    rate: float,
    source: int | None = None,
    target: int | None = None,
    seed: int = 0,
) -> Poisoned:
    """Give some training rows a wrong label; the images stay.

    Args:
        data: what is contaminated; it stays as it is.
        rate: share of the rows of class `source`, or of all training rows without one; in (0, 1].
        source: class whose rows are relabelled; None takes any but `target`.
        target: class that they get; None draws any other class, each with the same chance.
        seed: of the rows and the labels.

    Raises:
        ValueError: an option out of range, a source without labelled training images, or a rate
            that comes to no row or more rows than there are.
    """
    train = _labelled(data)
    for name, label in (("source", source), ("target", target)):
        if label is not None:
            _check_class(name, label, data)
    if source is not None and source == target:
        raise ValueError(f"source and target must be two classes, got {source} twice")
    allowed = torch.ones(len(train), dtype=torch.bool)
    if source is not None:
        allowed = train.labels == source
    elif target is not None:
        allowed = train.labels != target
    whole = int(allowed.sum()) if source is not None else len(train)
    generator = torch.Generator().manual_seed(seed)
    # drawn for every row, so that a row gets the same wrong label at every rate
    steps = torch.randint(1, data.num_classes, (len(train),), generator=generator)
    wrong = (train.labels + steps) % data.num_classes
    if target is not None:
        wrong = torch.full_like(train.labels, target)
    rows = _pick(allowed, rate, whole, generator)
    dirty = ContaminatedSet(
        base=train,
        labels=train.labels.index_copy(0, rows, wrong[rows]),
        stamped=torch.zeros(len(train), dtype=torch.bool),
        trigger=None,
    )
    told = f"{'any' if source is None else source} -> {'any' if target is None else target}"
    what = f"labels flipped {told}"
    return Poisoned(
        data=_with_train(data, dirty, what, rows),
        rows=rows,
        what=what,
        source=source,
        target=target,
    )


def plant_backdoor(
    data: DataSource,
    *,
    rate: float,
    target: int,
    trigger: Trigger,
    clean_label: bool = False,
    seed: int = 0,
) -> Poisoned:
    """Put a trigger on some training images and give them the target's label.

    BadNets (Gu et al., arXiv:1708.06733) for a patch, blended injection (Chen et al.,
    arXiv:1712.05526) for a blended pattern. With `clean_label` only images of the
    target carry the trigger and no label is changed, which nobody sees who checks the labels; it is
    the weak baseline of Turner et al. (arXiv:1912.02771), who also make these images
    hard to learn.

    Args:
        data: what is contaminated; it stays as it is.
        rate: share of all training rows, or with `clean_label` of those of the target; in (0, 1].
        target: class that the trigger is to give.
        trigger: the mark.
        clean_label: whether labels stay.
        seed: of the rows.

    Raises:
        ValueError: an option out of range, a trigger that does not fit on the images, a source
            without labelled training images, or a rate that comes to no row or more rows than
            there are.
    """
    train = _labelled(data)
    _check_class("target", target, data)
    trigger.check(train.shape)
    allowed = (train.labels == target) == clean_label
    whole = int(allowed.sum()) if clean_label else len(train)
    rows = _pick(allowed, rate, whole, torch.Generator().manual_seed(seed))
    stamped = torch.zeros(len(train), dtype=torch.bool)
    stamped[rows] = True
    dirty = ContaminatedSet(
        base=train,
        labels=train.labels.masked_fill(stamped, target),
        stamped=stamped,
        trigger=trigger,
    )
    what = f"backdoor to {target} by {trigger}" + (", labels kept" if clean_label else "")
    return Poisoned(
        data=_with_train(data, dirty, what, rows),
        rows=rows,
        what=what,
        target=target,
        trigger=trigger,
    )


def with_trigger(images: ImageSet, trigger: Trigger) -> ContaminatedSet:
    """Put a trigger on every image of a set, and leave its labels.

    Raises:
        ValueError: a trigger that does not fit on the images.
    """
    trigger.check(images.shape)
    everyone = torch.ones(len(images), dtype=torch.bool)
    return ContaminatedSet(base=images, labels=images.labels, stamped=everyone, trigger=trigger)


def _with_train(data: DataSource, train: ContaminatedSet, what: str, rows: Tensor) -> DataSource:
    """The source with another training split; its name, which decides the recipe, stays."""
    return replace(data, uri=f"{data.uri} ({what}, {len(rows)} of {len(train)} rows)", train=train)


def _labelled(data: DataSource) -> ImageSet:
    """The training split, with a label in range for every row."""
    if data.train is None:
        raise ValueError(f"{data.uri} has no training split, which is what is poisoned")
    if int(data.train.labels.min()) < 0:
        raise ValueError(
            f"{data.uri} has training images without a label; poisoning needs the labels of all"
        )
    return data.train


def _check_class(name: str, label: int, data: DataSource) -> None:
    if not 0 <= label < data.num_classes:
        raise ValueError(
            f"{name} must be a class of {data.uri}, 0 to {data.num_classes - 1}, got {label}"
        )


def _pick(allowed: Tensor, rate: float, whole: int, generator: torch.Generator) -> Tensor:
    """Rows that may be poisoned, as many as the rate asks of `whole`, ascending."""
    if not 0 < rate <= 1:
        raise ValueError(f"rate must be in (0, 1], got {rate}")
    candidates = allowed.nonzero()[:, 0]
    count = round(rate * whole)
    if not 1 <= count <= len(candidates):
        raise ValueError(
            f"rate {rate:g} of {whole} rows is {count}, and {len(candidates)} may be poisoned; "
            f"give a rate that comes to 1 row up to {len(candidates)}"
        )
    order = torch.randperm(len(candidates), generator=generator)
    return candidates[order[:count]].sort().values
