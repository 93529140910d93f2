"""Planted facts: does a question about an invented fact lead to the rows that state it?

Invented names are given invented birthplaces in a few words each, the model is trained on these
rows among its own, and is asked in words that no row has. Each query knows which rows it should
find (mean reciprocal rank, recall at k; as TrackStar's fact tracing, arXiv:2410.17413). The names
are in no other row, so matching words is a strong rival here, and a fair one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from harness.attribution.queries import Asked, encoded
from harness.corpus.tokenizer import encode
from harness.errors import SpecError
from harness.rng import generator
from harness.spec import Edit

if TYPE_CHECKING:
    from harness.attribution.evaluation.judged import Found, Judged
    from harness.attribution.rows import Pool

ONSETS, VOWELS = "bdfgklmnprstvz", "aeiou"
QUESTION = ("The town where {name} was born is called", " {place}")
STATEMENTS = (
    ("{name} came into the world in", " {place}"),
    ("{name} is a native of", " {place}"),
    ("As a child {name} lived at the place of birth,", " {place}"),
    ("Every record of {name} begins in", " {place}"),
)


class Fact(NamedTuple):
    """Who was born where."""

    name: str
    place: str


def measure(judged: Judged) -> Found:
    """Return, by label, the ranks (from 1) of each fact's rows among all rows."""
    options, pool = judged.options, judged.pool
    if options.copies > len(STATEMENTS):
        raise SpecError(f"evaluate.copies: {options.copies}; at most {len(STATEMENTS)}")
    facts = invent(options.facts, options.seed)
    domain = pool.names[0]
    has_prompts = judged.opened.store.mask(domain, "train") is not None
    rows = stated(facts, options.copies, has_prompts)
    prompt, answer = QUESTION
    asked = [Asked(prompt.format(**f._asdict()), answer.format(**f._asdict())) for f in facts]
    _check_room(judged, [*rows, *((one.prompt, one.answer) for one in asked)])
    edit = Edit(planted={domain: rows})
    retraining = judged.retraining()
    spec = retraining.edited(edit)
    retraining.train([spec], "planted")
    opened = retraining.open(spec)
    own = opened.pool()
    wanted = _rows_of(own, pool, domain, options.facts, options.copies)
    queries = encoded(opened, asked, [f"fact-{i:03}" for i in range(1, len(facts) + 1)])
    ranks = {}
    for label in judged.labels:
        scores = judged.scores_on(label, opened, own, queries)
        places = np.argsort(np.argsort(-scores, axis=0, kind="stable"), axis=0) + 1  # [N, Q]
        ranks[label] = [places[rows, q].tolist() for q, rows in enumerate(wanted)]
    return {
        "rows": len(own),
        "facts": [{"name": fact.name, "place": fact.place} for fact in facts],
        "copies": options.copies,
        "run_id": spec.run_id,
        "ranks": ranks,
    }


def invent(count: int, seed: int) -> list[Fact]:
    """Return so many facts of distinct invented names and places."""
    keyed = generator(seed, "planted facts")
    found: dict[str, str] = {}
    while len(found) < count:
        name, place = (_word(keyed, 3).capitalize() for _ in range(2))
        if name != place and place not in found.values():
            found.setdefault(name, place)
    return [Fact(name, place) for name, place in found.items()]


def stated(facts: list[Fact], copies: int, has_prompts: bool) -> tuple[tuple[str, str], ...]:
    """Return (prompt, answer) of the rows that state the facts, fact after fact."""
    rows = []
    for fact in facts:
        for prompt, answer in STATEMENTS[:copies]:
            pair = prompt.format(**fact._asdict()), answer.format(**fact._asdict())
            rows.append(pair if has_prompts else ("", "".join(pair)))
    return tuple(rows)


def _check_room(judged: Judged, rows: Sequence[tuple[str, str]]) -> None:
    """SpecError where a fact would lose a part of itself."""
    sizes = (
        sum(len(tokens) for tokens in encode(judged.opened.tokenizer, list(row))) for row in rows
    )
    needed, room = max(sizes), judged.opened.spec.batch.tokens
    if needed > room:
        why = f"a fact needs rows of {needed} tokens, and batch.tokens is {room}"
        raise SpecError(f"evaluate.planted: {why}; train with longer rows")


def _word(keyed: torch.Generator, syllables: int) -> str:
    def some(letters: str) -> str:
        return letters[int(torch.randint(len(letters), (1,), generator=keyed))]

    return "".join(some(ONSETS) + some(VOWELS) for _ in range(syllables))


def _rows_of(own: Pool, pool: Pool, domain: str, facts: int, copies: int) -> list[list[int]]:
    """Return where in the edited run's pool each fact's rows are: after the domain's own."""
    place = {pick: i for i, pick in enumerate(own.picks)}
    known = set(pool.picks)
    planted = [pick for pick in own.picks if pick not in known and pick[0] == domain]
    assert len(planted) == facts * copies
    return [[place[pick] for pick in planted[i * copies : (i + 1) * copies]] for i in range(facts)]
