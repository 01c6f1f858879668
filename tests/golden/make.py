"""Makes digits.npz and peers.json: a trained network, and what other libraries make of digits.

python tests/golden/make.py [digits.npz] [peers.json], in an environment with torchattacks, foolbox,
ART and pyautoattack beside deitsec; without a name, both.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden.comparisons import COMPARISONS, entry, figures
from golden.network import digits, trained
from golden.peers import EPS, peers

ROWS = 24


def make_images(path: Path) -> None:
    """Train, attack, and write the network, the images and what became of them."""
    images, labels = digits()
    model = trained(images[:1000], labels[:1000])
    images, labels = images[1000 : 1000 + ROWS], labels[1000 : 1000 + ROWS]
    kept = {"images": images.numpy(), "labels": labels.numpy(), "eps": np.float64(EPS)}
    kept |= {f"weight/{name}": value.numpy() for name, value in model.state_dict().items()}
    for (library, name), attack in peers().items():
        kept[f"adv/{library}/{name}"] = attack(model, images, labels).astype(np.float32)
    np.savez_compressed(path, **kept)


def make_figures(path: Path) -> None:
    """Run every peer of the comparisons on the stored network, and write what they came to."""
    stored = {}
    for name, comparison in COMPARISONS.items():
        found = [figures(comparison, peer) for peer in comparison.peers]
        stored[name] = entry(comparison, found)
        print(name, *(asdict(each) for each in found), sep="\n  ", flush=True)
    path.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make = {"digits.npz": make_images, "peers.json": make_figures}
    for file in sys.argv[1:] or make:
        made = Path(__file__).with_name(file)
        make[file](made)
        print(made, made.stat().st_size)
