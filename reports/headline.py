"""Say in sentences what an ablation shows, computed from its numbers and never more than they hold.

A reader takes the first lines home, so they name what is proven, what is only measured, and where a
fixed mixture that cost nothing does as well as a method. Comparisons with controls carry their
interval and the word descriptive: they are outside the family that is tested.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports import measures, notation, tables
from reports.arms import arms_table
from reports.fidelity import ROUGHLY, fidelity_table
from reports.load import MAIN, Evidence
from reports.power import ALPHA, seeds_needed
from reports.scales import budget_sentences, gap_sentences, noise_sentences
from reports.statement import Statement
from reports.stats import Paired, paired_difference
from reports.takeovers import takeovers
from reports.verdicts import PROVEN

_MAX_NAMED = 4  # more differences than a sentence holds are left to the table
_TAKE_OVER = "the controls that take over an arm's weights"
_LOOK = "the controls that look at an arm's runs and sample with other weights"


def headline(evidence: Evidence) -> list[Statement]:
    """Return what a reader should know first, the most important sentence first."""
    frame = arms_table(evidence)
    if not frame["num_seeds"].any():
        return [
            Statement("warning", "No run has finished, so nothing can be said yet."),
            *_data_warnings(evidence),
            *_problems(evidence),
        ]
    return [
        *_data_warnings(evidence),
        *sorted(
            [*_lowest(evidence, frame), *_methods(evidence, frame)],
            key=lambda statement: statement.kind != "proven",
        ),
        *_free_mixtures(evidence),
        *_replays(evidence),
        *gap_sentences(evidence, frame),
        *noise_sentences(evidence, frame),
        *_overheads(frame),
        *budget_sentences(frame),
        *_unfaithful(evidence),
        *_problems(evidence),
    ]


def _unfaithful(evidence: Evidence) -> list[Statement]:
    """Name the arms whose estimator did not do what it stands for."""
    return [
        Statement(
            "warning",
            f"{row.arm} scored rows by {row.estimator}, which {row.reading} here (mean rank "
            f"correlation {notation.correlation(row.spearman)} over {row.num_comparisons} "
            "comparisons): its result says nothing about influence itself.",
        )
        for row in fidelity_table(evidence).itertuples()
        if row.spearman < ROUGHLY
    ]


def _data_warnings(evidence: Evidence) -> list[Statement]:
    """Repeat in one sentence that the data cannot answer the question, before any result."""
    looks = {"random": "like noise", "alike": "like each other"}
    loud = [
        f"{entry['domain']} ({looks.get(entry['code'], entry['code'])})"
        for entry in evidence.header.get("warnings") or []
        if entry.get("loud")
    ]
    if not loud:
        return []
    text = f"Rebalancing cannot work on {'; '.join(loud)}: see the warnings on the data."
    return [Statement("warning", text)]


def _lowest(evidence: Evidence, frame: pd.DataFrame) -> list[Statement]:
    """Name the arm with the lowest primary metric, ranked by paired differences.

    Means of different sets of seeds do not rank; differences to one baseline do.
    """
    baseline = evidence.header["baseline"]
    ranked = frame[(frame["num_pairs"] > 0) | (frame["role"] == "baseline")].fillna(
        {"difference": 0.0}
    )
    if ranked["num_seeds"].max() == 0 or len(ranked) < 2:
        return [Statement("warning", f"No arm shares a finished seed with {baseline} yet.")]
    best = ranked.loc[ranked["difference"].idxmin()]
    primary = evidence.header["primary"]
    text = (
        f"{best['arm']} has the lowest {tables.metric_name(evidence, primary)}: "
        f"{notation.bits(best[primary])} held-out bits per byte, mean of {_seeds(best)}."
    )
    notes = {
        "baseline": "It is the baseline: no arm is below it.",
        "control": "It is a control: descriptive, not tested.",
        "method": f"Against {baseline}: {best['verdict']}.",
    }
    return [Statement("measured", f"{text} {notes[best['role']]}")]


def _seeds(row: pd.Series) -> str:
    return f"{row['num_seeds']} seed{'' if row['num_seeds'] == 1 else 's'}"


def _methods(evidence: Evidence, frame: pd.DataFrame) -> list[Statement]:
    baseline = evidence.header["baseline"]
    statements = []
    methods = frame[frame["role"] == "method"]
    for row in methods[~methods["verdict"].str.startswith("no verdict")].to_dict("records"):
        words = {
            "better": f"{row['arm']} is better than {baseline}",
            "worse": f"{row['arm']} is worse than {baseline}",
            "equivalent": f"{row['arm']} is equivalent to {baseline} within the declared margin",
            "undecided": f"Whether {row['arm']} differs from {baseline} is undecided",
        }
        kind = "proven" if row["verdict"] in PROVEN else "measured"
        text = f"{words[row['verdict']]}: {_measured(row)} bits per byte at equal training tokens. "
        text += f"{row['reason']}.{_price(row)}"
        text += _elsewhere(evidence, row["arm"]) if row["verdict"] == "better" else ""
        text += f" {notation.power(row)}." if row["verdict"] == "undecided" else ""
        statements.append(Statement(kind, text))
    withheld = methods[methods["verdict"].str.startswith("no verdict")]
    for reason, rows in withheld.groupby("reason", sort=False):
        measured = [f"{r['arm']} {_measured(r)}" for r in rows.to_dict("records") if r["num_pairs"]]
        text = f"No verdict on {notation.listed(list(rows['arm']))}: {reason}."
        if 0 < len(measured) <= _MAX_NAMED:
            text += f" Measured against {baseline}, unproven: {'; '.join(measured)}."
        statements.append(Statement("warning", text))
    return statements


def _price(row: dict[str, Any]) -> str:
    """Say what a proven difference cost, and what is left of it at equal compute."""
    if row["verdict"] not in PROVEN or not row["overhead_flops_percent"] > 0:
        return ""
    text = f" It cost {notation.percent(row['overhead_flops_percent'])} of its training FLOPs more"
    if row["equal_how"] not in ("runs", "curve"):
        return f"{text}."
    spread = notation.interval(row["equal_low"], row["equal_high"])
    left = f"{notation.signed(row['equal_difference'])} {spread}".strip()
    return f"{text}; at equal compute {left} ({row['equal_pairs']} seeds, descriptive)."


def _elsewhere(evidence: Evidence, arm: str) -> str:
    """Say where an arm that is better on the primary metric is higher on another."""
    names = {"mean": "mean over domains", "worst": "worst domain", "target": "target"}
    higher = []
    for metric, name in names.items():
        if metric == evidence.header["primary"]:
            continue
        pair = measures.against_baseline(evidence, measures.by_seed(evidence, metric))[arm]
        if pair.mean > 0:
            spread = notation.interval(pair.low, pair.high)
            higher.append(f"{name} {notation.signed(pair.mean)} {spread}".strip())
    if not higher:
        return ""
    told = f"Higher than {evidence.header['baseline']} elsewhere, paired by seed"
    return f" {told}: {'; '.join(higher)} (descriptive)."


def _measured(row: dict[str, Any]) -> str:
    words = f"{notation.signed(row['difference'])} {notation.interval(row['low'], row['high'])}"
    return words.strip()


def _free_mixtures(evidence: Evidence) -> list[Statement]:
    """Set each method beside the best mixture that nobody had to compute."""
    values = measures.by_seed(evidence, evidence.header["primary"])
    declared = measures.arms(evidence)
    found: dict[tuple[str, str], list[str]] = {}
    for method in declared:
        if method.role != "method" or method.is_free:
            continue
        pairs = {
            free.label: paired_difference(values[free.label], values[method.label])
            for free in declared
            if _is_unsearched(evidence, free)
            and set(values[free.label]) & set(values[method.label])
        }
        best = min(pairs, key=lambda label: pairs[label].mean, default=None)
        # Against the baseline there is a verdict, which says more.
        if best is not None and best != evidence.header["baseline"]:
            found.setdefault((best, _outcome(pairs[best])), []).append(
                f"{method.label} ({_numbers(pairs[best])})"
            )
    return [_beside(free, outcome, texts) for (free, outcome), texts in found.items()]


def _is_unsearched(evidence: Evidence, arm: measures.Arm) -> bool:
    """Tell whether a mixture cost nobody anything, and is no A/A arm with another order of data."""
    return arm.is_free and evidence.header["arms"][arm.label].get("data_seed") is None


def _replays(evidence: Evidence) -> list[Statement]:
    """Set each arm beside the controls that look at its runs: does looking itself gain anything?

    Those that take its weights over stand apart from those that make other weights of them.
    """
    values = measures.by_seed(evidence, evidence.header["primary"])
    same = {label for labels in takeovers(evidence).values() for label in labels}
    told: dict[str, list[str]] = {}
    for label, other in measures.looked_at(evidence).items():
        if set(values[label]) & set(values[other]):
            pair = paired_difference(values[other], values[label])
            what = _TAKE_OVER if label in same else _LOOK
            told.setdefault(what, []).append(f"{other} less {label} {_numbers(pair)}")
    return [
        Statement("measured", f"Against {what}: {'; '.join(told[what])}. Descriptive, not tested.")
        for what in (_TAKE_OVER, _LOOK)
        if what in told
    ]


def _outcome(pair: Paired) -> str:
    """Return what free - method shows, by the test of the verdicts: exact sign flips at .05."""
    if pair.p > ALPHA and pair.num_pairs >= seeds_needed(1):
        return "not told apart"
    if not (pair.high < 0 or pair.low > 0) and pair.num_pairs < seeds_needed(1):
        return "not told apart"
    outcome = "beats" if pair.mean < 0 else "is beaten"
    return outcome if pair.num_pairs >= seeds_needed(1) else f"{outcome}, too few seeds"


def _numbers(pair: Paired) -> str:
    lower = sum(value < 0 for value in pair.differences.values())
    same = sum(value == 0 for value in pair.differences.values())
    words = f"{notation.signed(pair.mean)} {notation.interval(pair.low, pair.high)}".strip()
    ties = f", the same on {same}" if same else ""
    return f"{words}, lower on {lower} of {pair.num_pairs} seeds{ties}"


def _beside(free: str, outcome: str, methods: list[str]) -> Statement:
    names = notation.listed(methods)
    few = "; too few seeds to call it more" if outcome.endswith("too few seeds") else ""
    if outcome.startswith("beats"):
        verb = "is below" if few else "beats"
        text = f"The static mixture {free}, which nobody had to compute, {verb} {names}{few}"
        return Statement("warning", f"{text}. Descriptive, not tested.")
    if outcome.startswith("is beaten"):
        text = f"{free}, the best static mixture here that nobody had to compute, is above {names}"
        return Statement("measured", f"{text}{few}. Descriptive, not tested.")
    text = f"The static mixture {free}, which nobody had to compute, is not told apart from {names}"
    return Statement("warning", f"{text}. Descriptive, not tested.")


def _overheads(frame: pd.DataFrame) -> list[Statement]:
    costly = frame[frame["overhead_flops_percent"] > 0]
    if costly.empty:
        return []
    parts = [
        f"{row['arm']} {notation.percent(row['overhead_flops_percent'])} of its training FLOPs "
        f"and {notation.percent(row['overhead_seconds_percent'])} of its seconds"
        for row in costly.to_dict("records")
    ]
    text = f"Beyond training: {'; '.join(parts)}."
    return [
        Statement("measured", f"{text} Arms are compared at equal training tokens, not equal cost.")
    ]


def _problems(evidence: Evidence) -> list[Statement]:
    main = evidence.runs[evidence.runs["kind"] == MAIN]
    lost = int((main["status"] != "finished").sum())
    if not lost:
        return []
    verb = "is" if lost == 1 else "are"
    text = f"{lost} of {len(main)} main runs {verb} not in these numbers; the reasons are below."
    return [Statement("warning", text)]
