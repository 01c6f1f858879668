"""Whether data are the MNIST that most figures of the lecture were published of."""

from deitsec.data import DataSource

_TRAIN, _TEST, _SHAPE = 60_000, 10_000, (1, 28, 28)


def is_whole_mnist(data: DataSource) -> bool:
    """Whether they are called mnist, and are 60,000 training and 10,000 test images of 28 x 28.

    Neither will do alone: Fashion-MNIST has these sizes, and a part of MNIST the name.
    """
    train = 0 if data.train is None else len(data.train)
    sizes = (train, len(data.test), tuple(data.test.shape))
    return data.name == "mnist" and sizes == (_TRAIN, _TEST, _SHAPE)
