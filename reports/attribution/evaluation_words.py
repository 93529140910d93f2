"""What an evaluation has shown and what not, in sentences: only what an interval bears out."""

from __future__ import annotations

import math
from typing import NamedTuple

from reports import notation
from reports.attribution.agreement import Estimate
from reports.attribution.judgements import Agreed, Detected, Left, Patched, Traced

CHANCE = 0.5  # the AUC of a ranking that knows nothing


class Statement(NamedTuple):
    """A sentence."""

    text: str
    is_proven: bool | None
    """Whether an interval excludes what it denies; None for what only describes."""


def of_subsets(agreed: Agreed, estimators: list[str]) -> list[Statement]:
    """Say which estimators rank subsets better than chance, and better than the best baseline."""
    own = [row for row in agreed.rows if row.label in estimators]
    told = _each(
        ("Rank retrainings better than chance", [r.label for r in own if r.score.sign > 0], True),
        ("Rank them the wrong way round", [r.label for r in own if r.score.sign < 0], True),
        ("Not shown to rank them", [r.label for r in own if r.score.sign == 0], False),
    )
    if agreed.rival is not None:
        rival = f"{agreed.rival}, the best baseline"
        above = [r.label for r in own if r.gap is not None and r.gap.sign > 0]
        told += _each(
            (f"Score higher than {rival}", above, True),
            (
                f"Not shown to score higher than {rival}",
                [r.label for r in own if r.label not in above],
                False,
            ),
        )
    if agreed.agreement is not None:
        told.append(_of_ceiling(agreed))
    return told


def _of_ceiling(agreed: Agreed) -> Statement:
    assert agreed.agreement is not None
    found = _told(agreed.agreement)
    if not math.isfinite(agreed.ceiling) or agreed.agreement.sign <= 0:
        text = f"Two trainings on the same subset do not agree ({found}): subsets of this size make"
        return Statement(
            f"{text} no difference that can be measured, or more replicas are due.", False
        )
    text = f"Trainings on the same subset that differ in seeds agree by {found}, so a perfect"
    return Statement(f"{text} prediction would score about {agreed.ceiling:.2f}, not 1.", None)


def of_removal(left: Left) -> list[Statement]:
    """Say whose top rows a query depends on."""
    rise = "raises a query's loss more than leaving out random ones"
    return _each(
        (
            f"Leaving out the top rows {rise}",
            [row.label for row in left.rows if row.beyond.sign > 0],
            True,
        ),
        (
            f"Not shown that leaving them out {rise}",
            [row.label for row in left.rows if row.beyond.sign <= 0],
            False,
        ),
    )


def of_patches(rows: list[Patched]) -> list[Statement]:
    """Say whose top rows make a query likelier in one step."""
    shown = [row.label for row in rows if row.beyond.sign > 0]
    rest = [row.label for row in rows if row.beyond.sign <= 0]
    return _each(
        ("A step on the top rows helps the query more than one on random rows", shown, True),
        ("Not shown to help more than random rows", rest, False),
    )


def of_detection(rows: list[Detected]) -> list[Statement]:
    """Say which rankings find wrong answers."""
    shown = [row.label for row in rows if row.auc.low > CHANCE]
    rest = [row.label for row in rows if not row.auc.low > CHANCE]
    return _each(
        ("Put wrong answers above right ones more often than chance", shown, True),
        ("Not shown to find wrong answers", rest, False),
    )


def of_tracing(rows: list[Traced], best_words: str = "bm25") -> list[Statement]:
    """Say who finds planted facts, and that names alone give them away."""
    if not rows:
        return []
    best = rows[0]
    told = [Statement(f"Highest: {best.label}, {_told(best.reciprocal)}.", None)]
    if best.label == best_words:
        text = "An invented name is in no other row, so matching words is all that this asks for."
        told.append(Statement(text, None))
    return told


def _each(*told: tuple[str, list[str], bool]) -> list[Statement]:
    """Return a sentence for each claim that is made of somebody."""
    return [Statement(f"{claim}: {', '.join(who)}.", proven) for claim, who, proven in told if who]


def _told(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} {notation.interval(estimate.low, estimate.high)}".strip()
