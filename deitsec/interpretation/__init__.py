"""Where a model looks: saliency maps and attention rollout."""

from deitsec.interpretation.rollout import attention_rollout
from deitsec.interpretation.saliency import saliency

__all__ = ["attention_rollout", "saliency"]
