"""Adversarial datasets in bulk: which rows, who makes the shards, the proof of what is in them."""

from deitsec.generation.run import GenerationEvent, Runner, Settings, generate

__all__ = ["GenerationEvent", "Runner", "Settings", "generate"]
