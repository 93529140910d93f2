"""Influcoder: an encoder that has learned what gradients of adapters say (arXiv:2606.13668)."""

from harness.influence.influcoder.influcoder import Influcoder

__all__ = ["Influcoder"]
