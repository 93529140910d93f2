"""Planted facts: does a question about an invented fact lead to the rows that state it?

Invented names are given invented birthplaces in a few words each, the model is trained on these
rows among its own, and is asked in words that no row has. Each query knows which rows it should
find (mean reciprocal rank, recall at k; as TrackStar's fact tracing, arXiv:2410.17413). Names and
places are looked for and are in no other row, so matching words is a strong rival here, and a fair
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from harness.attribution.evaluation.judged import masked_queries
from harness.attribution.queries import Asked, encoded
from harness.corpus.tokenizer import encode
from harness.errors import SpecError
from harness.rng import generator
from harness.spec import Edit

if TYPE_CHECKING:
    from harness.attribution.evaluation.judged import Found, Judged
    from harness.attribution.rows import Pool

TRIES = 1000  # for each fact
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
    facts = invent(options.facts, options.seed, "\n".join(one.text for one in pool.texts()))
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
    all_of_them = {n: judged.scores_on(n, opened, own, queries) for n in judged.labels}
    gone = {q for scores in all_of_them.values() for q in masked_queries(scores)}
    ranks = {}
    for label, scores in all_of_them.items():
        places = np.argsort(np.argsort(-scores, axis=0, kind="stable"), axis=0) + 1  # [N, Q]
        ranks[label] = [places[own, q].tolist() for q, own in enumerate(wanted) if q not in gone]
    return {
        "rows": len(own),
        "masked_facts": [facts[q].name for q in sorted(gone)],
        "facts": [{"name": fact.name, "place": fact.place} for fact in facts],
        "copies": options.copies,
        "run_id": spec.run_id,
        "ranks": ranks,
    }


def invent(count: int, seed: int, text: str = "") -> list[Fact]:
    """Return so many facts of distinct invented names and places that `text` does not hold.

    SpecError where there are none.
    """
    keyed, known = generator(seed, "planted facts"), text.lower()
    words: list[str] = []
    for _ in range(TRIES * count):
        word = _word(keyed, 3)
        if word not in known and word not in words:
            words.append(word)
        if len(words) == 2 * count:
            names, places = words[::2], words[1::2]
            return [
                Fact(n.capitalize(), p.capitalize()) for n, p in zip(names, places, strict=True)
            ]
    fix = "ask for fewer, or leave planted out of evaluate.parts"
    raise SpecError(f"evaluate.facts: {count} names that no row holds were not found; {fix}")


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
