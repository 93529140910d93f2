"""Whether a query's top rows merely share its form: the "What is" confound of seed 002.

Gradients see how a text is put as well as what it says, so rows that begin with "What is" come up
for every query that does. Two overlaps of a row with a query, both between 0 and 1:

    form     half the share of the query's first three words that the row begins with, half the
             Jaccard overlap of pairs of neighbouring function words (content words left out)
    content  share of the query's other words that the row has

Of prompts where there are any, else of texts, the first 40 words. The mean over the k top rows is
compared with 2,000 draws of k random rows of the same pool: their middle 95 % is the interval, and
the share of draws that reach the top rows is p. Queries are many, so form counts as found by the
false discovery rate of Benjamini and Hochberg, at 5 %, and from a tenth above chance on. A warning
is due where form is found and content is not: rows that also share what is asked may be right.

Function words are English; in other languages the first half alone tells something.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

WORD = re.compile(r"\w+(?:['\u2019]\w+)?|\?")
READ_WORDS = 40
OPENING = 3
DRAWS = 2000
RATE = 0.05
LEAST = 0.1
_WORDS = """
a about after all also am an and any are as at be because been before being between both but by can
could did do does doing down during each either few for from had has have having he her here hers
him his how i if in into is it its just may me might more most must my neither no nor not of off on
once one only or other our out over own same shall she should so some such than that the their them
then there these they this those through to too under until up upon us very was we were what when
where whether which while who whom whose why will with would you your ?
"""
FUNCTION_WORDS = frozenset(_WORDS.split())


class Text(NamedTuple):
    """What is compared of a row or a query."""

    prompt: str
    answer: str

    @property
    def words(self) -> list[str]:
        """The first words of the prompt, or of the text where there is no prompt."""
        words = WORD.findall((self.prompt.strip() or self.answer).lower())
        return words[:READ_WORDS]


class Overlap(NamedTuple):
    """One query's top rows against random ones."""

    form: float
    random_form: float
    low: float
    high: float
    """Of the middle 95 % of draws."""
    p: float
    content: float
    random_content: float
    content_p: float


class Overlaps:
    """The overlaps of every row with every query, once for any number of rankings."""

    def __init__(self, rows: Sequence[Text], queries: Sequence[Text]) -> None:
        """Read the texts."""
        row_words, query_words = [r.words for r in rows], [q.words for q in queries]
        openings = _shared(_openings(row_words), _openings(query_words))
        lengths = np.array([min(OPENING, max(1, len(words))) for words in query_words])
        row_frames, query_frames = _frames(row_words), _frames(query_words)
        frames = _shared(row_frames, query_frames)
        sizes = np.array([[len(f)] for f in row_frames]) + [len(f) for f in query_frames] - frames
        self.form = (openings / lengths + frames / np.maximum(sizes, 1)) / 2  # [N, Q]
        row_contents, query_contents = _contents(row_words), _contents(query_words)
        asked = np.array([max(1, len(c)) for c in query_contents])
        self.content = _shared(row_contents, query_contents) / asked  # [N, Q]

    def of(self, query: int, top: Sequence[int], kept: np.ndarray[Any, Any]) -> Overlap:
        """Compare the rows `top` of a query with draws from the rows `kept`; keyed by the query."""
        generator = np.random.default_rng(query)
        draws = kept[generator.integers(0, len(kept), (DRAWS, len(top)))]  # [B, k]
        form, content = self.form[:, query], self.content[:, query]
        forms, contents = form[draws].mean(1), content[draws].mean(1)
        found, meant = float(form[list(top)].mean()), float(content[list(top)].mean())
        low, high = np.percentile(forms, [2.5, 97.5])
        return Overlap(
            found,
            float(forms.mean()),
            float(low),
            float(high),
            _p(forms, found),
            meant,
            float(contents.mean()),
            _p(contents, meant),
        )


def warnings(overlaps: Sequence[Overlap]) -> list[str]:
    """Return a sentence for each query whose top rows merely share its form, "" for the others."""
    threshold = _discovered([one.p for one in overlaps])
    return [_sentence(one) if _is_merely_form(one, threshold) else "" for one in overlaps]


def _is_merely_form(one: Overlap, threshold: float) -> bool:
    shares_form = one.p <= threshold and one.form - one.random_form >= LEAST
    return shares_form and one.content_p > RATE


def _sentence(one: Overlap) -> str:
    return (
        f"The most helpful rows share {one.form:.0%} of this query's form (opening and function "
        f"words); random rows share {one.random_form:.0%} [95 % of draws: {one.low:.0%} to "
        f"{one.high:.0%}]. They share no more of what it asks about than random rows do "
        f"({one.content:.0%} against {one.random_content:.0%}), so they may be here for how they "
        "are put, not for what they say."
    )


def _discovered(p_values: Sequence[float]) -> float:
    """Return the largest p that Benjamini and Hochberg's procedure accepts; -1 for none."""
    ordered = sorted(p_values)
    accepted = [p for i, p in enumerate(ordered, 1) if p <= RATE * i / len(ordered)]
    return max(accepted, default=-1.0)


def _p(draws: np.ndarray[Any, Any], found: float) -> float:
    reached = int((draws >= found - 1e-12).sum())
    return (1 + reached) / (1 + len(draws))


def _openings(texts: Sequence[list[str]]) -> list[set[str]]:
    """Return the first word, the first two and the first three: the shared ones are a prefix."""
    return [
        {" ".join(words[:n]) for n in range(1, min(OPENING, len(words)) + 1)} for words in texts
    ]


def _frames(texts: Sequence[list[str]]) -> list[set[str]]:
    found = []
    for words in texts:
        kept = [word for word in words if word in FUNCTION_WORDS]
        found.append({f"{a} {b}" for a, b in pairwise(kept)})
    return found


def _contents(texts: Sequence[list[str]]) -> list[set[str]]:
    return [{w for w in words if w not in FUNCTION_WORDS and len(w) > 1} for words in texts]


def _shared(rows: Sequence[set[str]], queries: Sequence[set[str]]) -> np.ndarray[Any, Any]:
    """Return how many features each row shares with each query [N, Q]."""
    places: dict[str, int] = {}
    for features in queries:  # what no query has is shared with none
        for feature in sorted(features):
            places.setdefault(feature, len(places))
    one, other = (_matrix(texts, places) for texts in (rows, queries))
    found: np.ndarray[Any, Any] = (one @ other.T).toarray()
    return found


def _matrix(texts: Sequence[set[str]], places: dict[str, int]) -> Any:
    pairs = [(i, places[f]) for i, features in enumerate(texts) for f in features if f in places]
    at = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    shape = len(texts), max(1, len(places))
    return sparse.csr_matrix((np.ones(len(at)), (at[:, 0], at[:, 1])), shape=shape)
