"""One run on one rank or on many: what the loop, the view and the evaluator ask of those beside it.

A rank is one process of a group that torchrun has started. Every rank draws the same global batch
and computes its share of the rows; what a mixer sees is gathered first, so a mixer never sees
ranks, and draws, weights and records do not depend on how many there are, but for the rounding of
sums. That is why neither their number nor `parallel` is part of a run's id. With one rank every
question answers itself (one.py); with more, each holds the whole model (replicated.py, DDP) or a
share of it (sharded.py, FSDP2).
"""

from harness.ranks.one import Ranks

__all__ = ["Ranks"]
