"""The platform: data, model, attacks and metrics put into one report."""

from deitsec.verification.protocol import verify
from deitsec.verification.suite import Suite, default_suite

__all__ = ["Suite", "default_suite", "verify"]
