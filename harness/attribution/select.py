"""A training set that attribution has filtered or weighted, ready for the next run.

Rows are written as JSON lines in the columns that a files domain reads, prompt and answer apart,
whole where a row is a document. Beside them lie the held-back splits, so that the next run is
evaluated on the same text; a TOML of [domains] that reads all of it; and where it comes from.

A run samples domains, not rows, so weights become tiers: a domain's rows are cut by weight into
files of equal size, each a domain of its own, and a static arm samples each as often as its rows'
weights ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from harness.attribution import select_spec
from harness.attribution import store as store_files
from harness.attribution.store import Row, ScoreStore, write_lines
from harness.attribution.values import sides, values
from harness.errors import SpecError
from harness.files import whole_file, write_json

if TYPE_CHECKING:
    from harness.attribution.opened import Opened

HELD_BACK = ("probe", "tuning", "heldout")
Pick = tuple[str, int]


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
    to.parent.mkdir(parents=True, exist_ok=True)
    files, sampling = _write_rows(to, kept, worth, rows, options, opened)
    held_back = {} if opened is None else _write_held_back(to, sorted({d for d, _ in kept}), opened)
    _write_spec(to, files, held_back, sampling)
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


def _write_rows(
    to: Path,
    kept: dict[Pick, float],
    worth: dict[Pick, float],
    rows: dict[Pick, Row],
    options: Selecting,
    opened: Opened | None,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Write a file per domain, or per tier; return facts by new domain, and sampling weights."""
    domains = sorted({domain for domain, _ in kept})
    files: dict[str, dict[str, Any]] = {}
    sampling: dict[str, float] = {}
    whole = sum(kept.values())
    for domain in domains:
        own = [pick for pick in kept if pick[0] == domain]
        for name, some in _tiers(domain, own, kept, options).items():
            alone = len(domains) == 1 and name == domain
            path = to if alone else to.with_stem(f"{to.stem}-{name}")
            texts = (_line(pick, kept, worth, rows, options, opened) for pick in some)
            has_prompt = _write_texts(path, texts)
            facts = {"path": path, "domain": domain, "rows": len(some), "prompt": has_prompt}
            files[name] = facts
            sampling[name] = sum(kept[pick] for pick in some) / whole
    return files, sampling if options.weights is not None else {}


def _tiers(
    domain: str, own: list[Pick], kept: dict[Pick, float], options: Selecting
) -> dict[str, list[Pick]]:
    if options.weights is None:
        return {domain: own}
    ordered = sorted(own, key=lambda pick: -kept[pick])
    parts = np.array_split(np.arange(len(ordered)), min(options.tiers, len(ordered)))
    return {f"{domain}-tier{n}": [ordered[i] for i in part] for n, part in enumerate(parts, 1)}


def _line(
    pick: Pick,
    kept: dict[Pick, float],
    worth: dict[Pick, float],
    rows: dict[Pick, Row],
    options: Selecting,
    opened: Opened | None,
) -> dict[str, Any]:
    if opened is None:
        prompt, answer = rows[pick].prompt, rows[pick].answer
    else:
        prompt, answer = select_spec.document(opened, "train", *pick)
    value = worth[pick]
    facts: dict[str, Any] = {"domain": pick[0], "row": pick[1]}
    facts["value"] = round(value, 6) if value == value else None
    if options.weights is not None:
        facts["weight"] = round(kept[pick], 6)
    return {"prompt": prompt, "answer": answer, **facts}


def _write_texts(path: Path, lines: Iterator[dict[str, Any]]) -> bool:
    """Write lines in columns prompt and answer, or text where no line has a prompt."""
    every = list(lines)
    has_prompt = any(line["prompt"] for line in every)
    if not has_prompt:
        every = [
            {
                "text": line["answer"],
                **{k: v for k, v in line.items() if k not in ("prompt", "answer")},
            }
            for line in every
        ]
    write_lines(path, every)
    return has_prompt


def _write_held_back(
    to: Path, domains: list[str], opened: Opened
) -> dict[str, dict[str, dict[str, Any]]]:
    """Write the other splits of the kept domains; return their files by domain and split."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for domain in domains:
        for split in HELD_BACK:
            count = select_spec.num_documents(opened, split, domain)
            pairs = (select_spec.document(opened, split, domain, i) for i in range(count))
            lines = [{"prompt": p, "answer": a} for p, a in pairs if p + a]
            if lines:
                path = to.with_stem(f"{to.stem}-{domain}.{split}")
                has_prompt = _write_texts(path, iter(lines))
                facts = {"path": path, "rows": len(lines), "prompt": has_prompt}
                found.setdefault(domain, {})[split] = facts
    return found


def _write_spec(
    to: Path,
    files: dict[str, dict[str, Any]],
    held_back: dict[str, dict[str, dict[str, Any]]],
    sampling: dict[str, float],
) -> None:
    text = select_spec.spec_text(files, held_back, sampling)
    with whole_file(to.with_suffix(".toml")) as file:
        file.write(text.encode())


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
