"""Any mixer inside your own Hugging Face Trainer, on your own tokenized data sets."""

from harness.trainer.mixture import Mixture
from harness.trainer.rows import collate

__all__ = ["Mixture", "collate"]
