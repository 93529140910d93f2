"""What the trials of a rebalancing study did with the weights, by interval; from their records.

    python -m tests.bench.study_weights OUT STUDY ARM

One line for each trial's first run: the interval, how many refreshes changed the weights, how much
of the mass a change moved (half of the sum of absolute differences), the target's weight, and the
tuning loss on the target, all up to the evaluation before which nothing is pruned.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from harness.records import read_records


class Line(NamedTuple):
    """One trial."""

    every: int
    temperature: float
    changes: int
    moved: float
    target_weight: float
    loss: float
    state: str


def lines(out: Path, study: str, arm: str) -> Iterator[Line]:
    """Yield a line for each trial that has trained a run."""
    facts = json.loads((out / "studies" / f"{study}.json").read_text())["arms"][arm]
    for trial in facts["trials"]:
        ids = trial["facts"].get("run_ids") or []
        if ids:
            yield _line(out / "runs" / ids[0], trial)


def _line(folder: Path, trial: dict[str, Any]) -> Line:
    header = json.loads((folder / "run.json").read_text())
    (target,) = header["targets"]
    place, every = header["domains"].index(target), header["spec"]["evaluation"]["every"]
    last = every * (math.ceil(header["num_steps"] / every) // 2 + 1)
    records = [r for r in read_records(folder / "records.jsonl") if r["step"] <= last]
    weights = [r["weights"] for r in records if r["kind"] == "step"]
    moved = [
        sum(abs(p - q) for p, q in zip(one, other, strict=True)) / 2
        for one, other in itertools.pairwise(weights)
    ]
    changed = [one for one in moved if one > 1e-9]
    losses = [
        r["nats_per_token"]
        for r in records
        if r["kind"] == "eval" and r["domain"] == target and r["step"] == last
    ]
    return Line(
        every=trial["params"]["settings.every"],
        temperature=trial["params"]["settings.temperature"],
        changes=len(changed),
        moved=statistics.fmean(changed) if changed else 0.0,
        target_weight=statistics.fmean(one[place] for one in weights),
        loss=losses[0] if losses else math.nan,
        state=trial["state"],
    )


def main(out: str, study: str, arm: str) -> None:
    """Print the lines, short intervals first, then the means over four ranges of the interval."""
    found = sorted(lines(Path(out), study, arm))
    print("interval  temperature  changes  moved  target weight  tuning loss  trial")
    for one in found:
        print(f"{one.every:8}  {one.temperature:11.2f}  {one.changes:7}  {one.moved:5.2f}  "
              f"{one.target_weight:13.2f}  {one.loss:11.3f}  {one.state}")  # fmt: skip
    for low, high in ((10, 25), (25, 50), (50, 75), (75, 101)):
        own = [one for one in found if low <= one.every < high]
        if own:
            moved = statistics.fmean(one.moved for one in own)
            weight = statistics.fmean(one.target_weight for one in own)
            loss = statistics.fmean(one.loss for one in own)
            print(f"{low} to {high - 1}: {len(own)} trials, a change moved {moved:.2f}, "
                  f"target weight {weight:.2f}, tuning loss {loss:.3f}")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
