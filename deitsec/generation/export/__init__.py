"""Adversarial datasets in the forms that other libraries read."""

from deitsec.generation.export.run import FORMS, Exported, export_dataset

__all__ = ["FORMS", "Exported", "export_dataset"]
