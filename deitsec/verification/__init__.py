"""The platform: data, model, attacks and metrics put into one report."""

from deitsec.verification.suite import Suite, default_suite
from deitsec.verification.verify import verify

__all__ = ["Suite", "default_suite", "verify"]
