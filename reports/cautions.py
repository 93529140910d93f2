"""What to know of the runs before believing them: instability, repetition, seeds apart.

Warnings on the data come from the harness, which has read the text; these come from the records.
Each is one entry for all runs that it is about, so that a list can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reports import notation, tables
from reports.load import Evidence
from reports.probe_gap import gap_warnings
from reports.spikes import jumps, seeds_apart

# Muennighoff et al. (arXiv:2305.16264): up to 4 passes are nearly as good as new text.
MANY_PASSES = 4.0
_NAMED = 4


class Caution(NamedTuple):
    """A warning on the runs; the same fields as one on the data."""

    code: str
    loud: bool
    text: str


def cautions(evidence: Evidence) -> list[Caution]:
    """Return what the records warn of."""
    return [
        *_unstable(evidence),
        *_apart(evidence),
        *_repeated(evidence),
        *(Caution("probe", False, statement.text) for statement in gap_warnings(evidence)),
    ]


def _unstable(evidence: Evidence) -> list[Caution]:
    found, told = jumps(evidence), []
    for what in ("training loss", "gradient norm"):
        own = [jump for jump in found if jump.what == what]
        parts = [
            f"{jump.arm} seed {jump.seed}, step {jump.step}: {jump.value:.3g} where "
            f"{jump.around:.3g} is usual ({jump.num_steps} step{'s' * (jump.num_steps > 1)} in all)"
            for jump in sorted(own, key=lambda jump: jump.around - jump.value)[:_NAMED]
        ]
        if parts:
            runs = f"{len(own)} run{'s' * (len(own) > 1)}"
            text = f"The {what} jumped in {runs}: {'; '.join(parts)}{_more(own)}."
            told.append(Caution("unstable", False, text))
    return told


def _apart(evidence: Evidence) -> list[Caution]:
    found = seeds_apart(evidence)
    if not found:
        return []
    name = tables.metric_name(evidence, evidence.header["primary"])
    parts = [f"{one.arm} seed {one.seed} ({notation.signed(one.by)})" for one in found[:_NAMED]]
    text = f"Seeds that lie apart from the others of their arm in {name}, bits per byte: "
    text += f"{'; '.join(parts)}{_more(found)}. They are in all numbers; one such seed can make or"
    return [Caution("outlier", False, f"{text} unmake a mean.")]


def _repeated(evidence: Evidence) -> list[Caution]:
    table = tables.repetitions_table(evidence)
    many = table[table["max"] > MANY_PASSES].sort_values("max", ascending=False)
    if many.empty:
        return []
    parts = [f"{row.domain} in {row.arm} {row.max:.1f} times" for row in many.itertuples()]
    text = f"Read more than {MANY_PASSES:g} times, where new text would teach more: "
    return [Caution("repetition", False, f"{text}{'; '.join(parts[:_NAMED])}{_more(parts)}.")]


def _more(found: Sequence[object]) -> str:
    count = len(found) - _NAMED
    return f"; and {count} more" if count > 0 else ""
