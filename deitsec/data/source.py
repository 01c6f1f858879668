"""A data source: its splits, its class names and its digest."""

from dataclasses import dataclass
from functools import cached_property

from deitsec.data.digest import source_digest
from deitsec.data.image_set import ImageSet, label_range


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSource:
    """Labelled images to train on and to attack.

    Attributes:
        uri: what `load_data` was given.
        name: a short name for tables and plots.
        train: the training split, or None where there is none; it may hold unlabelled images.
        test: the split to attack.
        class_names: one name for each class, in the order of the labels.

    Raises:
        ValueError: if the splits differ in (C, H, W), a label has no name, or a test image no
            label.
    """

    uri: str
    name: str
    train: ImageSet | None
    test: ImageSet
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the splits against each other."""
        if self.train is not None and self.train.shape != self.test.shape:
            shapes = f"{self.train.shape} and {self.test.shape}"
            raise ValueError(f"train and test must have one image shape (C, H, W), got {shapes}")
        for images in (self.train, self.test):
            if images is not None and label_range(images)[1] >= self.num_classes:
                given = f"label {label_range(images)[1]} and {self.num_classes} names"
                raise ValueError(f"class_names must name every label, got {given}")
        if label_range(self.test)[0] < 0:
            raise ValueError("every image of the test split must have a label, got -1")

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the stored data (`source_digest`), computed when first asked for."""
        return source_digest(self.test, self.train)
