"""How near an answer is to the right one: exact match, token F1 and ROUGE, each from 0 to 1.

Exact match and F1 are SQuAD's (v1.1): lower case, without punctuation, the articles a, an, the and
surplus white space; F1 is over the bag of words that is left. ROUGE-1, -2 and -L are F-measures of
rouge-score with stemming, as its authors publish them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from functools import cache
from typing import Any

from harness.errors import SpecError

ROUGES = ("rouge1", "rouge2", "rougeL")
METRICS = ("exact", "f1", *ROUGES)

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """Return a text as SQuAD compares it."""
    plain = _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
    return " ".join(plain.split())


def exact_match(answer: str, right: str) -> float:
    """Return 1 where both are the same text, normalized."""
    return float(normalized(answer) == normalized(right))


def token_f1(answer: str, right: str) -> float:
    """Return the F1 of the words that both share; 1 where both have none."""
    found, wanted = normalized(answer).split(), normalized(right).split()
    if not found or not wanted:
        return float(found == wanted)
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted))


def rouge(answer: str, right: str) -> dict[str, float]:
    """Return the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L."""
    scored = _scorer().score(right, answer)
    return {name: float(scored[name].fmeasure) for name in ROUGES}


def measured(answer: str, right: str) -> dict[str, float]:
    """Return every metric of an answer by name."""
    found = {"exact": exact_match(answer, right), "f1": token_f1(answer, right)}
    return {**found, **rouge(answer, right)}


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        fix = 'pip install "steelyard[evaluation]", or leave answers out of evaluate.parts'
        raise SpecError(f"evaluate: ROUGE needs rouge-score ({error}); {fix}") from None
    return RougeScorer(list(ROUGES), use_stemmer=True)
