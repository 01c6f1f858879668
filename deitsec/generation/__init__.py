"""Adversarial datasets in bulk: which rows, who makes the shards, the proof of what is in them."""

from deitsec.generation.finding import Finding, Proof
from deitsec.generation.proof import verify_dataset
from deitsec.generation.repair import Repair, repair_dataset
from deitsec.generation.run import GenerationEvent, Runner, Settings, generate

__all__ = [
    "Finding",
    "GenerationEvent",
    "Proof",
    "Repair",
    "Runner",
    "Settings",
    "generate",
    "repair_dataset",
    "verify_dataset",
]
