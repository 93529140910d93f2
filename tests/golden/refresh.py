"""Trace every method again, print what differs, and keep the new traces.

    HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 python -m tests.golden.refresh [METHOD ...]

Run it where a change of numbers is meant, and put what it printed into the commit's message.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from tests.golden.traces import EVERY, PATH, provenance, saved, trace
from tests.methods import TINY


def main() -> None:
    """Refresh the methods that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="all by default")
    names = parser.parse_args().methods or list(TINY)
    torch.set_num_threads(1)
    known = saved() if PATH.exists() else {"methods": {}, "provenance": provenance()}
    before = known["methods"]
    if known["provenance"] != provenance() and set(names) != set(TINY):
        parser.error("the traces are another machine's; refresh all, or none")
    found = {name: before[name] for name in TINY if name in before}
    for name in names:
        found[name] = trace(name)
        print(f"{name}: {difference(before.get(name), found[name])}")
    content = {"provenance": provenance(), "methods": found}
    PATH.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def difference(old: dict[str, Any] | None, new: dict[str, Any]) -> str:
    """Return in one line what has changed."""
    if old is None:
        return "new"
    told = [f"{old['runs']} runs before, {new['runs']} now"] if old["runs"] != new["runs"] else []
    for key in ("losses", "weights"):
        one, other = torch.tensor(old[key]), torch.tensor(new[key])
        if one.shape != other.shape:
            told.append(f"{key} have another shape")
        elif not torch.equal(one, other):
            gap = (one - other).abs().reshape(len(one), -1).max(1).values
            first = int((gap > 0).nonzero()[0]) * EVERY + EVERY
            told.append(f"{key} differ by up to {float(gap.max()):.2e}, first at step {first}")
    return "; ".join(told) or "equal"


if __name__ == "__main__":
    main()
