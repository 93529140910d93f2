"""Whether torchrun has started this process, and as which of its ranks; no torch here."""

from __future__ import annotations

import os


def is_launched() -> bool:
    """Tell whether this process is one of a group that torchrun has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def is_follower() -> bool:
    """Tell whether it is one of the group that leaves decisions and files to rank 0."""
    return is_launched() and os.environ["RANK"] != "0"
