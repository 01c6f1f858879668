"""What the lecture on adversarial examples is given, and what its topics share."""

from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from deitsec.data import to_float
from deitsec.models import Classifier
from deitsec.studies.photographs import Subject, photograph_classifier
from deitsec.studies.plain_network import plain_network
from deitsec.studies.pretrained_photographs import check_pretrained
from deitsec.studies.study import StudyRun
from deitsec.training.recipes import recipe
from deitsec.verification.protocol import choose_rows
from deitsec.verification.suite import suite_eps

LINEAR, DENSE = "logistic_regression", "mnist_dense"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the study goes."""

    topics: tuple[str, ...] = field(
        default=(), metadata={"help": "Those to measure; all where none is named."}
    )
    photo_model: str = field(
        default="test_resnet", metadata={"help": "Of the photographs: a timm model."}
    )
    pretrained: bool = field(
        default=False, metadata={"help": "Take its published weights instead of training it."}
    )
    photo_weights: str | None = field(
        default=None,
        metadata={"help": "Take published weights from this file, by name or in order."},
    )
    photos: str | None = field(
        default=None, metadata={"help": "With published weights: a data source of photographs."}
    )
    photo_epochs: int = field(default=6, metadata={"help": "Of the photographs' training."})
    photo_train: int = field(default=48, metadata={"help": "Training crops of a photograph."})
    photo_test: int = field(default=6, metadata={"help": "Test crops, or views, of a photograph."})
    side: int = field(
        default=224, metadata={"help": "Of a crop, in pixels; published weights have theirs."}
    )
    network: str = field(default="small_cnn", metadata={"help": "Of the data."})
    epochs: int = field(default=0, metadata={"help": "Of its trainings; 0 takes the recipes'."})
    per_class: int = field(default=20, metadata={"help": "Test images of each class."})
    steps: int = field(default=20, metadata={"help": "Of PGD in the tables of defenses."})
    # within the radius of MNIST, 0.3, a small dense network learns nothing by PGD
    defense_eps: float = field(
        default=0.0, metadata={"help": "L-infinity, of those tables; 0 takes the data's own."}
    )
    lbfgs_steps: int = field(default=60, metadata={"help": "Evaluations of a search by L-BFGS."})
    lbfgs_per_class: int = field(default=5, metadata={"help": "Images of each class for L-BFGS."})
    generations: tuple[int, ...] = field(
        default=(300, 1000), metadata={"help": "Of the evolved images, at most; one or more."}
    )
    fooling_steps: int = field(default=300, metadata={"help": "Of the descent from noise."})
    draws: int = field(default=4, metadata={"help": "Of each physical change, and of noise."})
    members: int = field(default=2, metadata={"help": "Networks of the failed ensemble."})
    labelled: tuple[int, ...] = field(
        default=(2, 5, 10), metadata={"help": "Labels of each class, where they are few."}
    )
    # virtual adversarial training comes to one answer for nearly all of MNIST without batch norm
    virtual_model: str = field(default=DENSE, metadata={"help": "Of the training on few labels."})
    virtual_epochs: int = field(default=20, metadata={"help": "Of the training on few labels."})
    virtual_eps: float = field(default=0.5, metadata={"help": "L2 length of its perturbation."})
    seeds: int = field(default=2, metadata={"help": "Runs of the training on few labels."})
    estimators: tuple[str, ...] = field(
        default=("logistic", "knn", "svm", "tree"),
        metadata={"help": "Of scikit-learn, that images are shown to."},
    )
    estimator_rows: int = field(
        default=0, metadata={"help": "Training images that they learn, the first; 0 takes all."}
    )
    queries: int = field(
        default=1000, metadata={"help": "Of an image, on a source without gradients or a twin."}
    )
    # twice the digits' usual radius, at which neighbours and vectors hold: chosen after seeing that
    transfer_eps: float = field(
        default=0.2, metadata={"help": "L-infinity radius of the transfer between kinds."}
    )
    rates: tuple[float, ...] = field(
        default=(0.02, 0.1), metadata={"help": "Shares of the training set that are poisoned."}
    )
    poison_epochs: int = field(default=15, metadata={"help": "Of the trainings on poison."})

    def __post_init__(self) -> None:
        """Validate what no piece does.

        Raises:
            ValueError: an option out of its range.
        """
        counts = ("photo_epochs", "per_class", "steps", "lbfgs_per_class", "draws", "seeds")
        for name in (*counts, "poison_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.estimator_rows < 0:
            raise ValueError(f"estimator_rows must be at least 0, got {self.estimator_rows}")
        if not self.labelled or min(self.labelled) < 1 or self.epochs < 0:
            raise ValueError("labelled must hold numbers of at least 1, and epochs at least 0")
        if not 0 <= self.defense_eps <= 1:
            raise ValueError(f"defense_eps must be in [0, 1], got {self.defense_eps}")
        check_pretrained(self.pretrained, self.photo_weights, self.photos, self.photo_test)
        if not 0 < self.transfer_eps <= 1:
            raise ValueError(f"transfer_eps must be in (0, 1], got {self.transfer_eps}")
        if not self.generations or list(self.generations) != sorted(set(self.generations)):
            raise ValueError(f"generations must ascend, at least one, got {self.generations}")


class Bench:
    """The models and images that several topics share, each made once.

    Args:
        run: of the study.
    """

    def __init__(self, run: StudyRun[Options]) -> None:
        self.run = run
        self.eps = suite_eps(run.data)

    @cached_property
    def subject(self) -> Subject:
        """The classifier of photographs."""
        options = self.run.options
        return photograph_classifier(
            self.run,
            model=options.photo_model,
            pretrained=options.pretrained,
            weights=options.photo_weights,
            photos=options.photos,
            epochs=options.photo_epochs,
            train=options.photo_train,
            test=options.photo_test,
            side=options.side,
        )

    @cached_property
    def networks(self) -> dict[str, Classifier]:
        """Classifiers of the data by name: linear, dense, and the one that was chosen."""
        options = self.run.options
        names = dict.fromkeys((LINEAR, DENSE, options.network))
        return {name: plain_network(self.run, name, name, epochs=options.epochs) for name in names}

    @cached_property
    def trained_otherwise(self) -> dict[str, dict[str, Classifier]]:
        """By name the linear and the chosen classifier, by how long they were trained."""
        run, options = self.run, self.run.options
        found: dict[str, dict[str, Classifier]] = {}
        for name in dict.fromkeys((LINEAR, options.network)):
            usual = options.epochs or recipe(run.data, name, seed=run.seed).fit.epochs
            lengths = {max(1, usual // 4): "shorter", usual: "", 2 * usual: "longer"}
            found[name] = {
                f"{epochs} epochs": plain_network(run, f"{name}-{words}", name, epochs=epochs)
                if words
                else self.networks[name]
                for epochs, words in lengths.items()
            }
        return found

    @property
    def network(self) -> Classifier:
        """The one that was chosen."""
        return self.networks[self.run.options.network]

    def rows(self, per_class: int) -> tuple[Tensor, Tensor]:
        """Test images and their labels."""
        rows = choose_rows(self.run.data, per_class)
        return to_float(self.run.data.test.images(rows)), self.run.data.test.labels[rows]
