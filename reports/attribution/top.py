"""The most helpful and most harmful train rows of each query, as one page that can be searched.

Everything is inside one file: no network, no server. Only the rows at either end and a random
sample of the others go in, so that the page's size follows queries and not the training set; long
texts are cut. The page does its own looking up, by a script of its own; without scripts it says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.attribution import store as store_files
from harness.attribution.store import ScoreStore
from harness.errors import SpecError
from reports import pages
from reports.attribution.overlap import Overlaps, Text, warnings

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAGE = "top.html"
SAMPLE = 20  # random rows that are shown for comparison, the same for every query
MOST_CHARS = 4000
BINS = 41
_SCORES = re.compile(r'<meta name="scores" content="([^"]*)">')

Pair = tuple[int, float]  # place of a row, and its score


class Ends(NamedTuple):
    """One query's rows in one store."""

    helpful: list[Pair]
    """Highest first; positive scores alone."""
    harmful: list[Pair]
    """Lowest first; negative scores alone."""
    limit: float
    """Scores nearer to zero do not count: the threshold asked for times their deviation."""
    largest: float
    """Absolute; 0 where every score is 0."""


def write(stores: Sequence[Path | ScoreStore], out: Path, k: int) -> Path:
    """Write OUT/top.html of stores of the same rows and queries; return its path."""
    opened = store_files.opened(stores, "top")
    if k < 1:
        raise SpecError(f"k: {k}; show at least one row at either end")
    rows, queries = opened[0].rows(), opened[0].queries()
    sample = _sample(len(rows))
    texts = [Text(row.prompt, row.answer) for row in rows]
    overlaps = Overlaps(texts, [Text(query.prompt, query.answer) for query in queries])
    shown = [_store(store, k, sample, overlaps) for store in opened]
    places = {place for one in shown for q in one["queries"] for place, _ in _pairs(q)}
    data = {
        "stores": shown,
        "queries": [_text(q.prompt, q.answer) | {"name": q.name} for q in queries],
        "rows": {
            str(place): _text(rows[place].prompt, rows[place].answer)
            | {"domain": rows[place].domain, "row": rows[place].row, "tokens": rows[place].tokens}
            for place in sorted(places)
        },
        "k": k,
    }
    warned = sum(bool(q["warning"]) for q in shown[0]["queries"])
    context = {
        "name": out.parent.name,
        "labels": [store.label for store in opened],
        "scores": [store.folder.name for store in opened],
        "num_rows": len(rows),
        "num_queries": len(queries),
        "k": k,
        "warned": warned,
        "data": pages.embedded(data),
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / PAGE
    pages.write(path, pages.html("top.html.jinja", context, []))
    return path


def shown(out: Path) -> list[str]:
    """Return which scores OUT/top.html is of, by the names of their folders; [] without a page."""
    path = out / PAGE
    found = _SCORES.search(path.read_text()) if path.exists() else None
    return found[1].split() if found else []


def ends(store: ScoreStore, query: int, k: int) -> Ends:
    """Return the k rows at either end; a masked row, or one without effect, is at neither."""
    scores = np.array(store.total[:, query])
    kept = kept_rows(store)
    own = scores[kept]
    order = kept[np.argsort(own, kind="stable")]
    helpful = [(int(i), float(scores[i])) for i in order[::-1][:k] if scores[i] > 0]
    harmful = [(int(i), float(scores[i])) for i in order[:k] if scores[i] < 0]
    limit = float(store.threshold * own.std()) if len(own) else 0.0
    return Ends(helpful, harmful, limit, float(np.abs(own).max(initial=0)))


def kept_rows(store: ScoreStore) -> NDArray[np.int64]:
    """Return the places of rows that are not masked."""
    kept = np.ones(len(store.total), bool)
    kept[store.masked_rows] = False
    return np.flatnonzero(kept)


def confounds(store: ScoreStore, found: list[Ends], overlaps: Overlaps) -> list[str]:
    """Return what is to be said of each query's helpful rows; "" for most."""
    kept = kept_rows(store)
    told = [
        overlaps.of(query, [place for place, _ in one.helpful], kept) if one.helpful else None
        for query, one in enumerate(found)
    ]
    said = iter(warnings([one for one in told if one is not None]))
    return [next(said) if one is not None else "" for one in told]


def _store(store: ScoreStore, k: int, sample: list[int], overlaps: Overlaps) -> dict[str, Any]:
    about = store.about
    found = [ends(store, query, k) for query in range(about["num_queries"])]
    masked = {entry["place"]: entry["why"] for entry in about["masked_queries"]}
    warned = confounds(store, found, overlaps)
    return {
        "label": store.label,
        "estimator": about["estimator"],
        "formula": about["formula"],
        "sign": about["sign"],
        "normalize": about["normalize"],
        "reduction": about["reduction"],
        "threshold": store.threshold,
        "rank": about["rank"],
        "rungs": len(about["rungs"]),
        "masked": len(about["masked_rows"]),
        "queries": [
            {
                "helpful": _short(one.helpful),
                "harmful": _short(one.harmful),
                "random": _short([(i, float(store.total[i, query])) for i in sample]),
                "limit": one.limit,
                "largest": rounded(one.largest),
                "bins": _histogram(np.array(store.total[:, query]), one.largest),
                "warning": warned[query],
                "masked": masked.get(query, ""),
            }
            for query, one in enumerate(found)
        ],
    }


def _pairs(query: dict[str, Any]) -> list[Any]:
    return [*query["helpful"], *query["harmful"], *query["random"]]


def _sample(num_rows: int) -> list[int]:
    order = np.random.default_rng(0).permutation(num_rows)[:SAMPLE]
    return sorted(int(place) for place in order)


def _histogram(scores: NDArray[np.float32], largest: float) -> list[int]:
    """Return how many rows fall into each of BINS equal parts from -largest to largest."""
    if not largest:
        return []
    counts, _ = np.histogram(scores.astype(np.float64) / largest, BINS, (-1, 1))
    return [int(count) for count in counts]


def _text(prompt: str, answer: str) -> dict[str, Any]:
    """Return a text that is not too long for a page, and whether it was cut."""
    cut = len(prompt) + len(answer) > MOST_CHARS
    prompt = prompt[:MOST_CHARS]
    return {"prompt": prompt, "answer": answer[: MOST_CHARS - len(prompt)], "cut": cut}


def _short(pairs: list[Pair]) -> list[Any]:
    return [[place, rounded(score)] for place, score in pairs]


def rounded(value: float) -> float:
    """Return a score's three digits, which page and terminal show: rounded once, here."""
    return float(f"{value:.3g}")


def written(value: float) -> str:
    """Write a score for a terminal, with the page's digits."""
    size = abs(rounded(value))
    if size and (size < 1e-3 or size >= 1e5):
        return f"{value:+.2e}"
    return f"{rounded(value):+,}".removesuffix(".0") if size else "0"
