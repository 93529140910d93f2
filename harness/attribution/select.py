"""A training set that attribution has filtered or weighted, ready for the next run.

Rows are written as JSON lines in the columns that a files domain reads, prompt and answer apart,
whole where a row is a document. Beside them lie the held-back splits, so that the next run is
evaluated on the same text; a TOML of [domains] that reads all of it; and where it comes from.

A run samples domains, not rows, so weights become tiers: a domain's rows are cut by weight into
files of equal size, each a domain of its own, and a static arm samples each as often as its rows'
weights ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from harness.attribution import select_files, select_spec
from harness.attribution import store as store_files
from harness.attribution.select_files import Pick
from harness.attribution.store import ScoreStore
from harness.attribution.values import sides, values
from harness.errors import SpecError
from harness.files import write_json

if TYPE_CHECKING:
    from harness.attribution.opened import Opened


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Selecting:
    """Which rows go on, and how often."""

    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the scored rows, the most helpful ones."""
    drop: Annotated[float, Field(gt=0)] | None = None
    """Share of the scored rows that is left out, the most harmful; from 1 on their number."""
    weights: Annotated[float, Field(gt=0)] | None = None
    """Temperature of the softmax over values, which are in standard deviations."""
    tiers: Annotated[int, Field(gt=1)] = 4
    """Files that a domain is cut into by weight."""
    queries: tuple[str, ...] = ()
    """Wanted: regular expressions of names; by default all that are not unwanted."""
    unwanted: tuple[str, ...] = ()
    """Regular expressions of names of queries that show behaviour to be rid of."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [n for n in ("keep", "drop", "weights") if getattr(self, n) is not None]
        if len(ways) != 1:
            there = " and ".join(ways) or "none"
            raise ValueError(f"set one of keep, drop and weights; {there} is set")
        if self.drop is not None and self.drop >= 1 and self.drop != int(self.drop):
            raise ValueError(f"drop: {self.drop}; from 1 on it is a number of rows, a whole one")
        return self


def select(
    stores: Sequence[Path | ScoreStore], options: Selecting, to: Path, opened: Opened | None = None
) -> dict[str, Any]:
    """Write the chosen rows to `to` and what goes with them; return what was done, in numbers.

    `opened` is the run that was attributed: with it rows are whole documents, rows that were not
    scored are there too, and held-back splits are written. Without it rows are as the model saw
    them. Rows without a score (not asked for, or masked) have no value: `keep` leaves them out,
    `drop` and `weights` keep them.
    """
    if to.suffix != ".jsonl":
        raise SpecError(f"to: {to} is JSON lines; name it {to.with_suffix('.jsonl')}")
    if opened is not None and opened.spec.edit is not None:
        fix = "score the run on the plain rows, and select from that"
        raise SpecError(f"select: run {opened.run_id} was trained on edited rows; {fix}")
    found = store_files.opened(stores, "select")
    if opened is not None:
        select_spec.refuse_packed_prompts(opened, opened.pool().names)
    rows = {(row.domain, row.row): row for row in found[0].rows()}
    worth = dict(zip(rows, values(found, options.queries, options.unwanted).tolist(), strict=True))
    picks = list(rows) if opened is None else list(opened.pool().picks)
    worth = {pick: worth.get(pick, float("nan")) for pick in picks}
    weights = _weights(worth, options)
    kept = {pick: weight for pick, weight in weights.items() if weight > 0}
    if not kept:
        raise SpecError(f"select: no row is left of {len(picks)}; keep more")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"--to: {to.parent} cannot be made: {error.strerror}") from None
    files, sampling = select_files.write_rows(to, kept, worth, rows, options, opened)
    held_back = (
        {}
        if opened is None
        else select_files.write_held_back(to, sorted({d for d, _ in kept}), opened)
    )
    select_files.write_spec(to, files, held_back, sampling)
    scored = sum(value == value for value in worth.values())
    emptied = sorted({domain for domain, _ in picks} - {domain for domain, _ in kept})
    counts = {
        "rows": len(picks),
        "scored": scored,
        "kept": len(kept),
        "left_out": len(picks) - len(kept),
        "emptied_domains": emptied,
        "files": [str(facts["path"]) for facts in files.values()],
        "spec": str(to.with_suffix(".toml")),
    }
    write_json(to.with_suffix(".provenance.json"), _provenance(found, options, counts, files))
    return counts


def _weights(worth: dict[Pick, float], options: Selecting) -> dict[Pick, float]:
    """Return the weight of each row: 0 or 1, or, mean 1, that of the softmax."""
    known = [pick for pick, value in worth.items() if value == value]
    if options.weights is not None:
        return _softmax(worth, known, options.weights)
    ordered = sorted(known, key=lambda pick: -worth[pick])  # stable: ties stay in order
    if options.keep is not None:
        chosen = set(ordered[: max(1, round(options.keep * len(ordered)))])
        return {pick: float(pick in chosen) for pick in worth}
    assert options.drop is not None
    share = options.drop < 1
    count = round(options.drop * len(ordered)) if share else int(options.drop)
    if count > len(ordered):
        raise SpecError(f"drop: {count} rows, but {len(ordered)} have a score; drop fewer")
    harmful = set(ordered[len(ordered) - count :])
    return {pick: float(pick not in harmful) for pick in worth}


def _softmax(worth: dict[Pick, float], known: list[Pick], temperature: float) -> dict[Pick, float]:
    own = np.array([worth[pick] for pick in known])
    own = (own - own.mean()) / (own.std() or 1.0) / temperature
    shares = np.exp(own - own.max())
    weights = dict(zip(known, (shares / shares.mean()).tolist(), strict=True))
    return {pick: weights.get(pick, 1.0) for pick in worth}


def _provenance(
    stores: list[ScoreStore],
    options: Selecting,
    counts: dict[str, Any],
    files: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    names = [query.name for query in stores[0].queries()]
    for_, against = sides(names, options.queries, options.unwanted)
    facts = ("estimator", "normalize", "formula", "sign", "rungs", "identity")
    return {
        "made_by": "steelyard attribute select",
        "value": "mean of score / standard deviation over wanted queries, less over unwanted ones",
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options).items()},
        "wanted": [names[q] for q in for_],
        "unwanted": [names[q] for q in against],
        "stores": [
            {"label": store.label, "threshold": store.threshold}
            | {name: store.about[name] for name in facts}
            for store in stores
        ],
        "counts": counts,
        "files": {
            name: {
                "path": str(one["path"]),
                "rows": one["rows"],
                "sha256": sha256(one["path"].read_bytes()).hexdigest(),
            }
            for name, one in files.items()
        },
    }
