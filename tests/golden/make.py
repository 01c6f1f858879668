"""Makes digits.npz: a trained network, some digits, and what other libraries make of them.

python tests/golden/make.py, in an environment with torchattacks, foolbox and ART beside deitsec.
"""

from pathlib import Path

import numpy as np
import torch
from network import digits, trained
from peers import EPS, peers

ROWS = 24


def main() -> None:
    """Train, attack, and write the file beside this one."""
    images, labels = digits()
    model = trained(images[:1000], labels[:1000])
    images, labels = images[1000 : 1000 + ROWS], labels[1000 : 1000 + ROWS]
    kept = {"images": images.numpy(), "labels": labels.numpy(), "eps": np.float64(EPS)}
    kept |= {f"weight/{name}": value.numpy() for name, value in model.state_dict().items()}
    for (library, name), attack in peers().items():
        kept[f"adv/{library}/{name}"] = attack(model, images, labels).astype(np.float32)
    path = Path(__file__).with_name("digits.npz")
    np.savez_compressed(path, **kept)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
