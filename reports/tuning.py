"""What a study tried and chose, from OUT/studies/NAME.json: no Optuna and no database is read.

A study's losses are of the tuning set, at seeds of its own; whether what it chose is any good is
said by held-out losses at seeds that it never used, and only by them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from reports import measures, notation
from reports.columns import Json
from reports.load import Evidence
from reports.stats import Paired, paired_difference

SCHEMA = 1


class Setting(NamedTuple):
    """One parameter of a tuned arm."""

    name: str
    own: str
    """The spec's own value, "" where it lies outside of what was searched."""
    best: str
    fanova: float
    """Relative importance, sum 1 over settings; NaN where it is not known."""
    ped_anova: float


class TunedArm(NamedTuple):
    """One arm of a study."""

    arm: str
    study: str
    counts: str
    """How its trials ended, in words."""
    own_loss: float
    """Tuning loss by the spec's own settings, nats per token; NaN where they were not tried."""
    best_loss: float
    best_trial: int | None
    settings: list[Setting]
    num_runs: int
    """Distinct ones, of all trials."""
    tokens: float
    """That these were trained on."""
    hours: float
    """That these took, evaluation not counted."""
    reading: str


class Promoted(NamedTuple):
    """An arm whose settings a study chose, beside the arm that was tuned: held out, fresh seeds."""

    arm: str
    tuned: str
    study: str
    trial: int
    pair: Paired | None
    """Differences arm - tuned in the primary metric; None where no seed has finished in both."""


def read_study(out: Path, name: str) -> Json | None:
    """Return a study's findings; None where they are not there, or are of another version."""
    try:
        found: Json = json.loads((out / "studies" / f"{name}.json").read_bytes())
    except (OSError, ValueError):
        return None  # the ablation can be read without
    return found if found.get("schema") == SCHEMA else None


def studies(evidence: Evidence) -> list[Json]:
    """Return the studies that arms of this ablation come from, as far as this folder has them."""
    arms = evidence.header["arms"].values()
    names = dict.fromkeys(a["provenance"]["study"] for a in arms if a.get("provenance"))
    found = [read_study(evidence.out_dir, name) for name in names]
    return [study for study in found if study is not None]


def promoted(evidence: Evidence) -> list[Promoted]:
    """Compare every arm that a study has tuned with what it was before."""
    values = measures.by_seed(evidence, evidence.header["primary"])
    rows = []
    for label, entry in evidence.header["arms"].items():
        origin = entry.get("provenance")
        if not origin:
            continue
        ours, before = values.get(label, {}), values.get(origin["arm"], {})
        pair = paired_difference(ours, before) if set(ours) & set(before) else None
        rows.append(Promoted(label, origin["arm"], origin["study"], origin["trial"], pair))
    return rows


def tuned_arms(study: Json) -> list[TunedArm]:
    """Return what was found for every arm of a study."""
    return [_tuned_arm(study, arm, facts) for arm, facts in study["arms"].items()]


def _tuned_arm(study: Json, arm: str, facts: Json) -> TunedArm:
    trials = facts["trials"]
    best = next((t for t in trials if t["number"] == facts["best"]), None)
    own = own_trial(facts)
    runs = {i: spent for t in trials for i, spent in t["facts"].get("runs", {}).items()}
    return TunedArm(
        arm=arm,
        study=study["name"],
        counts=_counts(trials),
        own_loss=own["values"][0] if own else math.nan,
        best_loss=best["values"][0] if best else math.nan,
        best_trial=facts["best"],
        settings=_settings(facts, best),
        num_runs=len(runs),
        tokens=sum(tokens for tokens, _ in runs.values()),
        hours=sum(seconds for _, seconds in runs.values()) / 3600,
        reading=_reading(facts, best),
    )


def own_trial(facts: Json) -> Json | None:
    """Return the trial of the spec's own settings, complete at every seed; None without one."""
    return next((t for t in facts["trials"] if t["number"] == facts.get("own")), None)


def _counts(trials: list[Json]) -> str:
    last = {t["slot"]: t["state"] for t in trials if t["slot"] is not None}
    states = list(last.values())
    order = ("complete", "pruned", "failed", "running", "waiting")
    return ", ".join(f"{states.count(state)} {state}" for state in order if state in states)


def _settings(facts: Json, best: Json | None) -> list[Setting]:
    chosen = best["params"] if best else {}
    importances = facts["importances"]
    return [
        Setting(
            name=name.removeprefix("settings."),
            own=shown(facts["defaults"].get(name)),
            best=shown(chosen.get(name)),
            fanova=importances.get("fanova", {}).get(name, math.nan),
            ped_anova=importances.get("ped_anova", {}).get(name, math.nan),
        )
        for name in facts["space"]
    ]


def _reading(facts: Json, best: Json | None) -> str:
    """Say what mattered, and where the best lies at the edge of what was tried."""
    shares = facts["importances"].get("fanova", {})
    words = []
    if shares:
        name, share = max(shares.items(), key=lambda item: item[1])
        number = sum(trial["state"] == "complete" for trial in facts["trials"])
        words.append(
            f"fANOVA ranks {name.removeprefix('settings.')} first (relative importance "
            f"{share:.2f}, from {number} complete trials: a hint, no test)."
        )
    edges = [
        n for n, value in (best["params"] if best else {}).items() if _is_edge(facts, n, value)
    ]
    if edges:
        names = notation.listed([name.removeprefix("settings.") for name in edges])
        verb = "is" if len(edges) == 1 else "are"
        words.append(f"The best {names} {verb} near the edge of what was tried: widen the space.")
    return " ".join(words)


def _is_edge(facts: Json, name: str, value: Any) -> bool:
    """Tell whether a value is within a twentieth of a range's end, on the range's scale."""
    space = facts["space"][name]
    if space["type"] == "choice":
        return False
    scale = math.log if space["log"] else float
    low, high, here = scale(space["low"]), scale(space["high"]), scale(value)
    if space["type"] == "int" and space["high"] - space["low"] < 8:
        return False  # of few values, an end is as good as any
    return min(here - low, high - here) < 0.05 * (high - low)


def shown(value: Any) -> str:
    """Return a setting's value, numbers to three digits; "" for none."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
