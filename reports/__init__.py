"""Reports read the records of an ablation and nothing else: no torch, no model, no corpus text."""
