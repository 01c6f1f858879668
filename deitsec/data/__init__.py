"""Images and labels to attack: sources named by a URI, and the rows picked from them.

Importing this room loads torch and NumPy only; scikit-learn, torchvision and Pillow are imported by
the sources that need them.
"""

from deitsec.data.array_set import ArrayImageSet
from deitsec.data.balance import balanced_rows
from deitsec.data.batches import batches, to_float
from deitsec.data.errors import DataError
from deitsec.data.folder_set import FolderImageSet
from deitsec.data.image_set import ImageSet
from deitsec.data.load import list_sources, load_data
from deitsec.data.poisoning import Poisoned, flip_labels, plant_backdoor, with_trigger
from deitsec.data.shard_dataset import ShardDataset
from deitsec.data.shard_set import ShardSet
from deitsec.data.shard_stream import ShardStream
from deitsec.data.source import DataSource
from deitsec.data.subset import Subset
from deitsec.data.trigger import TRIGGERS, Blend, Patch, Trigger

__all__ = [
    "TRIGGERS",
    "ArrayImageSet",
    "Blend",
    "DataError",
    "DataSource",
    "FolderImageSet",
    "ImageSet",
    "Patch",
    "Poisoned",
    "ShardDataset",
    "ShardSet",
    "ShardStream",
    "Subset",
    "Trigger",
    "balanced_rows",
    "batches",
    "flip_labels",
    "list_sources",
    "load_data",
    "plant_backdoor",
    "to_float",
    "with_trigger",
]
