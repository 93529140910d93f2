"""`steelyard export`: an arm's mixture out of the records of its finished runs.

Weights are those that batches were drawn with, in shares of tokens: all rows of a run have one
length. Over seeds they are averaged, each run counting once. Documents are counted beside tokens,
because other trainers draw documents (harness/commands/fragments.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SpecError
from harness.files import read_json
from harness.records import HEADER, RECORDS, read_records


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """An arm's mixture."""

    ablation: str
    arm: str
    what: str
    domains: list[str]
    weights: list[float]
    """Shares of tokens, sum 1; of a schedule, those over the whole run."""
    schedule: list[tuple[int, list[float]]] | None
    """From so many tokens on, these weights; None unless it was asked for."""
    runs: dict[int, str]
    """Seed to run id."""
    train_tokens: dict[str, int]
    """Of each domain's train split; empty where the corpus is gone."""
    train_documents: dict[str, int]
    sources: dict[str, Any]
    """The spec's own tables of the domains."""
    provenance: dict[str, Any]


def mixture(folder: Path, arm: str, name: str | None, seed: int | None, what: str) -> Mixture:
    """Return an arm's mixture: `final`, `mean` or `schedule`; SpecError where there is none."""
    content = _ablation(folder, name)
    if arm not in content["arms"]:
        known = ", ".join(content["arms"])
        raise SpecError(f"{arm!r} is no arm of {content['name']!r}; choose one of {known}")
    runs = _finished(content, arm, seed)
    headers = {run_id: read_json(folder / "runs" / run_id / HEADER) for run_id in runs.values()}
    lost = [run_id for run_id, header in headers.items() if header is None]
    if lost:
        raise SpecError(f"{folder}: the records of run {lost[0]} are gone; run the ablation again")
    paths = [folder / "runs" / run_id / RECORDS for run_id in runs.values()]
    tokens, weights = _averaged([_weights(path) for path in paths])
    manifest = read_json(folder / "corpora" / content["corpus_id"] / "manifest.json")
    splits = {n: f["splits"]["train"] for n, f in (manifest or {"domains": {}})["domains"].items()}
    first: Any = next(iter(headers.values()))
    return Mixture(
        ablation=content["name"],
        arm=arm,
        what=what,
        domains=content["domains"],
        weights=weights[-1] if what == "final" else _normalized(_mean(weights)),
        schedule=_changes(tokens, weights) if what == "schedule" else None,
        runs=runs,
        train_tokens={n: splits[n]["tokens"] for n in content["domains"] if n in splits},
        train_documents={n: splits[n]["documents"] for n in content["domains"] if n in splits},
        sources={n: content["spec"]["domains"][n] for n in content["domains"]},
        provenance={
            "method": content["arms"][arm]["method"],
            "settings": content["arms"][arm]["settings"],
            "tokens": tokens[-1],
            "corpus_id": content["corpus_id"],
            "versions": first["versions"],
            "git_commit": first["git_commit"],
        },
    )


def _ablation(folder: Path, name: str | None) -> dict[str, Any]:
    found = [read_json(path) for path in sorted((folder / "ablations").glob("*.json"))]
    known = {content["name"]: content for content in found if content is not None}
    if not known:
        raise SpecError(f"{folder} holds no ablation; give the --out of a run")
    if name is None:
        name = max(known, key=lambda known_name: str(known[known_name]["updated"]))
    if name not in known:
        raise SpecError(f"no ablation {name!r} in {folder}; choose one of {', '.join(known)}")
    content: dict[str, Any] = known[name]
    return content


def _finished(content: dict[str, Any], arm: str, seed: int | None) -> dict[int, str]:
    cells = content["arms"][arm]["runs"]
    done = {c["seed"]: c["run_id"] for c in cells if c["status"] == "finished"}
    if seed is None and not done:
        raise SpecError(f"no run of arm {arm!r} has finished yet; see steelyard show")
    if seed is not None and seed not in done:
        seeds = ", ".join(map(str, done)) or "none"
        raise SpecError(
            f"--seed: arm {arm!r} has no finished run of seed {seed}; finished: {seeds}"
        )
    return done if seed is None else {seed: done[seed]}


def _weights(path: Path) -> tuple[list[int], list[list[float]]]:
    """Return the tokens before each step and the weights [S][K] that it was drawn with."""
    steps = [record for record in read_records(path) if record["kind"] == "step"]
    if not steps:
        raise SpecError(f"{path}: holds no step; run the ablation again")
    ends = [int(record["tokens"]) for record in steps]
    return [*ends, ends[-1]], [_normalized(record["weights"]) for record in steps]


def _averaged(
    runs: list[tuple[list[int], list[list[float]]]],
) -> tuple[list[int], list[list[float]]]:
    """Return the mean over runs, step by step; the runs of an arm are equally long."""
    by_step = zip(*(weights for _, weights in runs), strict=True)
    return runs[0][0], [_normalized(_mean(list(step))) for step in by_step]


def _changes(tokens: list[int], weights: list[list[float]]) -> list[tuple[int, list[float]]]:
    """Return the weights with the tokens before which they hold, one entry for each change."""
    starts = [0, *tokens]
    kept: list[tuple[int, list[float]]] = []
    for start, row in zip(starts, weights, strict=False):
        if not kept or row != kept[-1][1]:
            kept.append((start, row))
    return kept


def _mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _normalized(row: list[float]) -> list[float]:
    total = sum(row)
    return [value / total for value in row]
