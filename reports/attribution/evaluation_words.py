"""What an evaluation has shown and what not, in sentences: only what an interval bears out.

The labels of one sentence are a family: what is shown of one holds beside all the others (Holm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from reports import notation
from reports.attribution.agreement import Estimate, shown
from reports.attribution.judgements import Agreed, Detected, Patched, Traced
from reports.attribution.model_judgements import Chosen
from reports.attribution.removal import Left

CHANCE = 0.5  # the AUC of a ranking that knows nothing


class Statement(NamedTuple):
    """A sentence."""

    text: str
    is_proven: bool | None
    """Whether an interval excludes what it denies; None for what only describes."""
    sign: int = 0
    """What is proven speaks for those it names: 1, or against them: -1."""


RETRAINED = ("lds", "removal", "mislabelled", "planted")


def of_step(index: dict[str, Any]) -> str:
    """Say that retrainings end elsewhere than the attributed checkpoint; "" where they do not."""
    step, last = index.get("step"), index.get("num_steps")
    parts = [part for part in RETRAINED if part in index["parts"]]
    if step == last or not parts:
        return ""
    text = f"Attributed is the model of step {step}, and retrainings are judged at the end, step"
    fix = 'set training.attribute = "last" to judge the model that is attributed'
    return f"{text} {last}: {', '.join(parts)} say how well its scores tell of that one; {fix}."


def of_masks(found: dict[str, Any]) -> list[str]:
    """Say what a part leaves out, since an estimator had no finite score of it."""
    told = []
    for what in ("queries", "facts"):
        gone = found.get(f"masked_{what}", [])
        if gone:
            told.append(
                f"Without {len(gone)} {what} that an estimator has masked: {', '.join(gone)}."
            )
    rows = {name: n for name, n in found.get("masked_rows", {}).items() if n}
    if found.get("values"):
        unknown = {name: sum(v is None for v in own) for name, own in found["values"].items()}
        rows |= {name: n for name, n in unknown.items() if n}
    if rows:
        counts = ", ".join(f"{name} {n}" for name, n in rows.items())
        told.append(f"Masked rows come last and add nothing to a sum: {counts}.")
    return told


def of_subsets(agreed: Agreed, estimators: list[str]) -> list[Statement]:
    """Say which estimators rank subsets better than chance, and better than the best baseline."""
    own = [row for row in agreed.rows if row.label in estimators]
    told = _signed(
        {row.label: row.score for row in own},
        "Rank retrainings better than chance",
        "Rank them the wrong way round",
        "Not shown to rank them",
    )
    if agreed.rival is not None:
        rival = f"{agreed.rival}, the best baseline"
        told += _signed(
            {row.label: row.gap for row in own if row.gap is not None},
            f"Score higher than {rival}",
            f"Score lower than {rival}",
            f"Not shown to score higher or lower than {rival}",
        )
    if agreed.agreement is not None:
        told.append(_of_ceiling(agreed))
    return told


def _of_ceiling(agreed: Agreed) -> Statement:
    assert agreed.agreement is not None
    found = _told(agreed.agreement)
    if not math.isfinite(agreed.ceiling) or agreed.agreement.sign <= 0:
        text = f"Two trainings on the same subset are not shown to agree ({found})"
        why = "subsets of this size make no difference that can be measured, or more are due"
        return Statement(f"{text}: {why}.", False)
    text = f"Trainings on the same subset that differ in seeds agree by {found}, so a perfect"
    return Statement(f"{text} prediction would score about {agreed.ceiling:.2f}, not 1.", None)


def of_removal(left: Left) -> list[Statement]:
    """Say whose top rows a query depends on."""
    rise = "a query's loss {} than leaving out random ones"
    return _signed(
        {row.label: row.beyond for row in left.rows},
        f"Leaving out the top rows raises {rise.format('more')}",
        f"Leaving out the top rows raises {rise.format('less')}",
        f"Not shown that leaving them out raises {rise.format('more or less')}",
    )


def of_shared(left: Left, num_queries: int) -> list[str]:
    """Say where several queries have the same top rows, so that one run stands for them."""
    shared = {row.label: row.distinct for row in left.rows if row.distinct < num_queries}
    if not shared:
        return []
    counts = ", ".join(f"{label} {distinct}" for label, distinct in shared.items())
    told = f"Queries with the same top rows are one retraining and count once: {counts}"
    return [f"{told} of {num_queries} queries."]


def of_patches(rows: list[Patched]) -> list[Statement]:
    """Say whose top rows make a query likelier in one step."""
    return _signed(
        {row.label: row.beyond for row in rows},
        "A step on the top rows helps the query more than one on random rows",
        "A step on the top rows helps the query less than one on random rows",
        "Not shown to help more or less than random rows",
    )


def of_detection(rows: list[Detected]) -> list[Statement]:
    """Say which rankings find wrong answers."""
    return _signed(
        {row.label: _beyond(row.auc, CHANCE) for row in rows},
        "Put wrong answers above right ones more often than chance",
        "Put wrong answers below right ones more often than chance",
        "Not shown to find wrong answers",
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


def of_cuts(rows: list[Chosen], num_questions: int, shots: int) -> list[str]:
    """Warn where a model has not read whole prompts; nothing where each fitted."""
    cut = {row.model: row.cut for row in rows if row.cut}
    if not cut:
        return []
    counts = ", ".join(f"{model} {n} of {num_questions}" for model, n in cut.items())
    text = f"Prompts longer than the context lost their beginning: {counts}"
    fix = "ask shorter questions" + (f", or set choice.shots below {shots}" if shots else "")
    return [f"{text}. Accuracy on those says little; {fix}."]


def _signed(
    family: Mapping[str, Estimate], above: str, below: str, unknown: str
) -> list[Statement]:
    """Return a sentence for each claim that is made of somebody: of a sign, or of none."""
    signs, told = shown(family), []
    for claim, sign in ((above, 1), (below, -1), (unknown, 0)):
        who = [label for label in family if signs[label] == sign]
        if who:
            told.append(Statement(f"{claim}: {', '.join(who)}.", bool(sign), sign))
    return told


def _beyond(estimate: Estimate, chance: float) -> Estimate:
    """Return an estimate from what chance gives; its p is of chance already."""
    value, low, high, p = estimate
    return Estimate(value - chance, low - chance, high - chance, p)


def _told(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} {notation.interval(estimate.low, estimate.high)}".strip()
