"""Adversarial training: a step of ours beside tuned PyTorch, and the clean step, interleaved."""

import pytest
import torch

from benchmarks.interleave import Interleaved, Side
from benchmarks.record import Record
from benchmarks.repeat import Repeat
from benchmarks.settings import Settings
from benchmarks.training_sides import CLEAN, OURS, TUNED, Workload, sides
from deitsec.models import build_own
from deitsec.training import AdversarialConfig, FitConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = 7
ALLOWED = 1.15  # of what the passes alone cost
# network, channels, side, batch, channels_last: the layouts of the recipes and the other one
CASES = {
    "small_cnn 28": (1, 28, 128, True),
    "small_cnn 32": (3, 32, 64, True),
    "small_cnn 32 contiguous": (3, 32, 64, False),
}
QUICK = {"small_cnn 8": (1, 8, 16, True)}


def workload(channels: int, side: int, batch: int, channels_last: bool) -> Workload:
    """A step on random images; what it costs does not hang on them."""
    torch.manual_seed(0)
    model = build_own("small_cnn", in_chans=channels, image_size=side).to(DEVICE)
    images = torch.rand(batch, channels, side, side, device=DEVICE)
    labels = torch.arange(batch, device=DEVICE) % 10
    # a rate at which the weights stay where they are: denormal numbers would slow a side down
    fit = FitConfig(batch_size=batch, lr=1e-6, channels_last=channels_last, validation=0.0)
    config = AdversarialConfig(fit=fit, method="pgd", eps=8 / 255, steps=STEPS, curve_every=None)
    return Workload(model=model, images=images, labels=labels, config=config)


@pytest.mark.parametrize("case", QUICK if Settings.found().quick else CASES)
def test_pgd_training_step(case: str, record: Record, repeat: Repeat) -> None:
    """One network: seconds of a step, over the clean step and over tuned PyTorch."""
    channels, side, batch, channels_last = {**CASES, **QUICK}[case]
    subject = workload(channels, side, batch, channels_last)
    timing = Interleaved({name: Side(run=run) for name, run in sides(subject).items()})
    repeat(timing.round)
    medians = timing.medians()
    ratio = medians[OURS] / medians[CLEAN]
    record.add(
        {
            "kind": "adversarial training",
            "case": case,
            "steps": STEPS,
            "device": DEVICE,
            "batch": batch,
            "shape": [channels, side, side],
            "channels_last": channels_last,
            "seconds": medians,
            "rounds": timing.times,
            "disturbed": timing.disturbed,
            "ratio": ratio,
            "model_ratio": subject.model_ratio,
            "targets": [
                {
                    "what": f"a step at most {ALLOWED:g} x (2K + 3) / 3 of a clean one",
                    "limit": ALLOWED * subject.model_ratio,
                    "measured": ratio,
                    "met": ratio <= ALLOWED * subject.model_ratio,
                },
                {
                    "what": f"not slower than {TUNED}",
                    "limit": 1.0,
                    "measured": medians[OURS] / medians[TUNED],
                    "met": medians[OURS] <= medians[TUNED],
                },
            ],
        }
    )
