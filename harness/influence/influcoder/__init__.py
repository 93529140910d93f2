"""Influcoder: an encoder that has learned what gradients of adapters say (arXiv:2606.13668)."""
