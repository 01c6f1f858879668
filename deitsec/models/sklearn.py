"""Estimators of scikit-learn as models: linear ones differentiable, all others as black boxes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deitsec.models.black_box import BlackBox, LabelsOnly, ScoresOnly
from deitsec.types import ACCESSES, Access

Array = np.ndarray[Any, np.dtype[np.float64]]


def wrap_sklearn(
    estimator: Any,
    *,
    image_shape: Sequence[int],
    scale: float = 1.0,
    offset: float = 0.0,
    channels_last: bool = False,
    access: Access | None = None,
) -> nn.Module:
    """Make a fitted classifier of scikit-learn a model of images (B, C, H, W) in [0, 1].

    Its features are `scale * image + offset`, flattened. Linear classifiers (logistic regression,
    linear SVM, ridge, SGD, perceptron, discriminant analysis), MLPs, and pipelines of scalers and
    PCA before them become torch modules in float64 whose logits are decision_function, or the
    logarithm of the probabilities up to a constant; of two classes, -1/2 and 1/2 of the one score.
    Everything else is a black box: scores from predict_proba where there is one and it decides,
    otherwise decisions. Column k of the logits is `estimator.classes_[k]`, kept as `classes`.

    Args:
        estimator: a fitted classifier, pipeline or search over one.
        image_shape: (C, H, W).
        scale: what a feature is where the image is 1, less `offset`; 255 for features 0 to 255.
        offset: the feature where the image is 0.
        channels_last: whether the features were flattened from (H, W, C).
        access: `decision` or `scores` hides more than need be; None hides nothing.

    Raises:
        TypeError: no classifier of scikit-learn.
        ValueError: not fitted, an image_shape that does not go with its features, a scale of 0, or
            more access than the estimator gives.
    """
    shape = _checked(estimator, image_shape, scale)
    classes = tuple(np.asarray(estimator.classes_).tolist())
    name = type(_last(estimator)).__name__
    features = Features(shape, scale=scale, offset=offset, channels_last=channels_last)
    layers = _layers(estimator)
    model: nn.Module
    if layers is not None:
        model = Differentiable(features, layers, num_classes=len(classes), name=name)
    else:
        model = _black_box(estimator, features, len(classes), name)
    gives: Access = getattr(model, "access", "gradient")
    if access is not None and access != gives:
        if access not in ACCESSES or ACCESSES.index(access) > ACCESSES.index(gives):
            raise ValueError(f"access must be at most {gives!r} for {name}, got {access!r}")
        hide = LabelsOnly if access == "decision" else ScoresOnly
        model = hide(model, num_classes=len(classes), name=name)
    model.classes = classes  # pyright: ignore[reportArgumentType]
    return model.eval()


class Features(nn.Module):
    """Images to what an estimator was fitted on: (B, C, H, W) in [0, 1] -> (B, C * H * W)."""

    def __init__(
        self, shape: tuple[int, ...], *, scale: float, offset: float, channels_last: bool
    ) -> None:
        super().__init__()
        self.shape, self.scale, self.offset = shape, scale, offset
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Return the features in the dtype of the images.

        Raises:
            ValueError: images of another shape.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"the estimator takes images of {self.shape}, got {tuple(images.shape[1:])}"
            )
        ordered = images.permute(0, 2, 3, 1) if self.channels_last else images
        return self.scale * ordered.flatten(1) + self.offset


class Differentiable(nn.Module):
    """The layers of an estimator, images to logits.

    Attributes:
        name: that of the estimator.
        num_classes: number of logits.
        affine: whether the logits are an affine function of the image.
    """

    def __init__(
        self, features: Features, layers: list[nn.Module], *, num_classes: int, name: str
    ) -> None:
        super().__init__()
        self.features = features
        self.layers = nn.Sequential(*layers)
        self.num_classes = num_classes
        self.name = name
        self.affine = all(isinstance(layer, nn.Linear | Shift) for layer in layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, C, H, W) in [0, 1]."""
        wide = torch.promote_types(images.dtype, next(self.parameters()).dtype)
        logits = self.layers(self.features(images.to(wide)))
        return torch.cat([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits


class Shift(nn.Module):
    """Feature by feature `factor * x + shift`."""

    factor: Tensor
    shift: Tensor

    def __init__(self, factor: Any, shift: Any) -> None:
        super().__init__()
        self.register_buffer("factor", torch.as_tensor(factor, dtype=torch.float64))
        self.register_buffer("shift", torch.as_tensor(shift, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled features."""
        return x * self.factor + self.shift


def _linear(weight: Any, bias: Any) -> nn.Linear:
    """A layer of these weights (out, in) in float64."""
    values = torch.as_tensor(np.asarray(weight, dtype=np.float64))
    layer = nn.Linear(values.shape[1], values.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(values)
        given = np.broadcast_to(np.asarray(bias, dtype=np.float64), (values.shape[0],))
        layer.bias.copy_(torch.as_tensor(given.copy()))
    return layer


def _layers(estimator: Any) -> list[nn.Module] | None:
    """The estimator as torch layers; None where it, or a step of it, has no such form."""
    from sklearn.linear_model._base import LinearClassifierMixin
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import Pipeline

    estimator = _found(estimator)
    if _is_a(estimator, Pipeline):
        *transforms, (_, last) = estimator.steps
        parts = [*(_transform(step) for _, step in transforms), _layers(last)]
        layers = [layer for part in parts if part is not None for layer in part]
        return None if None in parts else layers
    # a sparse coef_ is that of sparsify()
    if _is_a(estimator, LinearClassifierMixin) and _is_a(estimator.coef_, np.ndarray):
        return [_linear(np.atleast_2d(estimator.coef_), estimator.intercept_)]
    return _mlp_layers(estimator) if _is_a(estimator, MLPClassifier) else None


def _is_a(value: object, kind: Any) -> bool:
    """Tell without narrowing: the stubs of scikit-learn know half of its attributes."""
    return isinstance(value, kind)


def _mlp_layers(estimator: Any) -> list[nn.Module]:
    activation = {"identity": nn.Identity, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}
    layers: list[nn.Module] = []
    for weight, bias in zip(estimator.coefs_, estimator.intercepts_, strict=True):
        layers += [_linear(weight.T, bias), activation[estimator.activation]()]
    return layers[:-1]  # logits: what softmax or the logistic function is taken of


def _transform(step: Any) -> list[nn.Module] | None:
    """A step of a pipeline before the classifier, as layers; None where it has no such form."""
    from sklearn import decomposition, preprocessing

    if step is None or step == "passthrough":
        return []
    if _is_a(step, preprocessing.StandardScaler):
        return [_shift(step, step.mean_, step.scale_)]
    if _is_a(step, preprocessing.RobustScaler):
        return [_shift(step, step.center_, step.scale_)]
    if _is_a(step, preprocessing.MaxAbsScaler) and not getattr(step, "clip", False):
        return [_shift(step, None, step.scale_)]
    if _is_a(step, preprocessing.MinMaxScaler):
        scaled = Shift(step.scale_, step.min_)
        return [scaled, nn.Hardtanh(*step.feature_range)] if step.clip else [scaled]
    if type(step) is decomposition.PCA:
        weight: Any = step.components_
        if step.whiten:
            weight = weight / np.sqrt(step.explained_variance_)[:, None]
        return [_linear(weight, -weight @ step.mean_)]
    return None


def _shift(step: Any, center: Any, scale: Any) -> Shift:
    """(x - center) / scale; None leaves that out."""
    center = np.zeros(step.n_features_in_) if center is None else center
    factor = np.ones(step.n_features_in_) if scale is None else 1 / scale
    return Shift(factor, -center * factor)


def _black_box(estimator: Any, features: Features, num_classes: int, name: str) -> BlackBox:
    def rows(images: Tensor) -> Array:
        return features(images.double()).cpu().numpy()

    def probabilities(images: Tensor) -> Array:
        return estimator.predict_proba(rows(images))

    def decisions(images: Tensor) -> Any:
        # by place in classes_, which is sorted
        return np.searchsorted(estimator.classes_, estimator.predict(rows(images)))

    if _probabilities_decide(estimator):
        return ScoresOnly(probabilities, num_classes=num_classes, name=name, probabilities=True)
    return LabelsOnly(decisions, num_classes=num_classes, name=name)


def _probabilities_decide(estimator: Any) -> bool:
    """Whether the class of highest probability is the one that is predicted."""
    # a support vector machine predicts by votes, and fits its probabilities beside them; the others
    # by a threshold that is not 1/2
    otherwise = ("SVC", "NuSVC", "FixedThresholdClassifier", "TunedThresholdClassifierCV")
    return hasattr(estimator, "predict_proba") and type(_last(estimator)).__name__ not in otherwise


def _found(estimator: Any) -> Any:
    """What a search over parameters has found, or the estimator itself."""
    return getattr(estimator, "best_estimator_", estimator)


def _last(estimator: Any) -> Any:
    """The classifier at the end of searches and pipelines."""
    estimator = _found(estimator)
    return _last(estimator.steps[-1][1]) if hasattr(estimator, "steps") else estimator


def _checked(estimator: Any, image_shape: Sequence[int], scale: float) -> tuple[int, ...]:
    from sklearn.base import is_classifier
    from sklearn.utils.validation import check_is_fitted

    if not (hasattr(estimator, "fit") and is_classifier(estimator)):
        raise TypeError(
            f"estimator must be a classifier of scikit-learn, got {type(estimator).__name__}"
        )
    check_is_fitted(estimator)  # its NotFittedError is a ValueError
    classes = getattr(estimator, "classes_", None)
    if classes is None or np.ndim(classes) != 1 or len(classes) < 2:
        raise ValueError("estimator must tell at least 2 classes apart, one label an image")
    shape = tuple(int(size) for size in image_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"image_shape must be (C, H, W), got {tuple(image_shape)}")
    if estimator.n_features_in_ != np.prod(shape):
        raise ValueError(
            f"image_shape {shape} has {np.prod(shape)} values, and the estimator was fitted on "
            f"{estimator.n_features_in_} features"
        )
    if scale == 0 or not np.isfinite(scale):
        raise ValueError(f"scale must be finite and not 0, got {scale}")
    return shape
