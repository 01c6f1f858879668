"""A detector of adversarial images, and the classifier that rejects what it detects."""

from typing import cast

import torch
from torch import Tensor, nn

_HIDDEN = 64


class Detector(nn.Module):
    """Tells adversarial images from clean ones, by the image and by how sure the classifier is.

    Four convolutions with batch norm, the last three of stride 2, and their mean over the image;
    the log-probabilities of the classifier in descending order, so that it is their shape that
    counts and not the class; two dense layers on both. It is a second network that is trained to
    tell the two apart (Grosse et al., arXiv:1702.06280; Gong et al., arXiv:1704.04960; Metzen et
    al., arXiv:1702.04267), and asks the classifier for nothing but logits.

    Attributes:
        shape: (C, H, W) of the images.
        num_classes: of the classifier.
        width: channels of the first convolution.
        threshold: () evidence above which an image counts as adversarial.

    Raises:
        ValueError: a shape, number or width that is not positive.
    """

    threshold: Tensor

    def __init__(self, shape: tuple[int, int, int], num_classes: int, *, width: int = 16) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be (C, H, W), each at least 1, got {tuple(shape)}")
        if num_classes < 2 or width < 1:
            raise ValueError(
                f"num_classes must be >= 2 and width >= 1, got {num_classes} and {width}"
            )
        self.shape = tuple(shape)
        self.num_classes = num_classes
        self.width = width
        layers: list[nn.Module] = []
        channels = shape[0]
        for out, stride in ((width, 1), (width, 2), (2 * width, 2), (4 * width, 2)):
            layers.append(nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False))
            layers += [nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.look = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.weigh = nn.Sequential(nn.Linear(num_classes, 2 * width), nn.ReLU())
        self.decide = nn.Sequential(
            nn.Linear(channels + 2 * width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1)
        )
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return the evidence less the threshold (B,): above 0 the image counts as adversarial."""
        return self.evidence(images, logits) - self.threshold

    def evidence(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return the log-odds (B,) that images (B, C, H, W) are adversarial, up to a constant.

        Args:
            images: in [0, 1].
            logits: (B, K) of the classifier at these images.

        Raises:
            ValueError: images or logits of another shape than the detector was made for.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"the detector takes images of {self.shape} (C, H, W), "
                f"got {tuple(images.shape[1:])}"
            )
        if tuple(logits.shape) != (len(images), self.num_classes):
            raise ValueError(
                f"the detector takes ({len(images)}, {self.num_classes}) logits, "
                f"got {tuple(logits.shape)}"
            )
        dtype = cast(Tensor, self.decide[0].weight).dtype
        seen = self.look((images - 0.5).to(dtype))
        surprise = -logits.log_softmax(1).sort(1, descending=True).values
        # the logarithm, and no clipping: an attack must not lose its gradient on a sure answer
        weighed = self.weigh(surprise.log1p().to(dtype))
        return self.decide(torch.cat([seen, weighed], 1))[:, 0]


class RejectingClassifier(nn.Module):
    """A classifier and its detector as one model of K + 1 classes, the last of which is rejection.

    The combined model of Carlini and Wagner (arXiv:1705.07263): the logits of the
    classifier, and one more that exceeds them all exactly where the image is detected. Theirs is
    `(D + 1) max_i Z_i`, which says that only while the largest logit is positive; here it is
    `max_i Z_i + weight * D`, which does not hang on the constant that logits are free to have.

    A targeted attack on it succeeds where the target wins and nothing is detected. For an attack
    without a target see `Evasion`.

    Args:
        classifier: images in [0, 1] -> (B, K) logits.
        detector: made for the classifier's images and classes.
        weight: of the detector's answer against the logits, > 0; it changes no answer, but what an
            attack climbs.

    Raises:
        ValueError: weight not positive and finite.
    """

    def __init__(self, classifier: nn.Module, detector: Detector, *, weight: float = 1.0) -> None:
        super().__init__()
        if not 0 < weight < float("inf"):
            raise ValueError(f"weight must be > 0 and finite, got {weight}")
        self.classifier = classifier
        self.detector = detector
        self.weight = weight
        self.training = classifier.training

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K + 1) logits of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.classifier(images)
        excess = self.detector(images, logits).to(logits.dtype)
        rejection = logits.max(1).values + self.weight * excess
        return torch.cat([logits, rejection[:, None]], 1)
