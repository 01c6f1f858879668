"""Small data and models to train, and what interrupts a run."""

import copy
import dataclasses
from functools import cache

import torch
from torch import nn

from deitsec.data import ArrayImageSet, load_data
from deitsec.models import build_own, wrap
from deitsec.training import (
    Augmentation,
    FitConfig,
)

MOVED = Augmentation(rotation=10, shift=0.1, scale=0.1, shear=0.1, flip=True)
QUICK = FitConfig(epochs=3, batch_size=32, lr=5e-3, validation=0.2, augmentation=MOVED)


class Unreadable:
    """A test split that nobody may read while training."""

    def __init__(self, images):
        self.labels = images.labels
        self.shape = images.shape

    def __len__(self):
        return len(self.labels)

    def images(self, rows):
        raise AssertionError("the test split was read")

    def feed(self, hasher):
        hasher.update(b"hashed without reading")


def subset(images, rows, labels=None):
    labels = images.labels[rows] if labels is None else labels
    return ArrayImageSet(pixels=images.images(rows), labels=labels)


@cache
def digits():
    return load_data("digits", image_size=8)


@cache
def few_digits():
    """200 digits of 8 x 8, and a test split that cannot be read."""
    train = subset(digits().train, torch.arange(200))
    return dataclasses.replace(digits(), train=train, test=Unreadable(train), uri="few")


def relabelled(data, labels):
    train = subset(data.train, torch.arange(len(data.train)), labels)
    return dataclasses.replace(data, train=train)


def network(seed=0):
    """Convolution, batch norm and dropout: modes, layouts and random streams all show."""
    torch.manual_seed(seed)
    layers = (
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    module = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10))
    return wrap(module, mean=0.5, std=0.5, num_classes=10, in_chans=1)


def micro(seed=0):
    torch.manual_seed(seed)
    return build_own(
        "deit_micro", in_chans=1, image_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2
    )


def weights(model):
    return copy.deepcopy(model.state_dict())


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def without_seconds(result):
    return [dataclasses.replace(record, seconds=0.0) for record in result.history]


class InterruptError(KeyboardInterrupt):
    pass


def interrupt_at(epoch):
    def progress(event):
        if event.epoch == epoch:
            raise InterruptError

    return progress
