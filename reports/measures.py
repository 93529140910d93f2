"""Turn records into the numbers that a report prints: final losses, metrics, costs and verdicts.

Only main runs that finished with a complete final evaluation enter. Auxiliary runs enter as cost
alone, and in full whether they were trained now or found in the cache: what a method needs does not
depend on what ran before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from reports.load import AUXILIARY, LONGER, MAIN, Evidence
from reports.once import once
from reports.power import ALPHA, smallest_p
from reports.stats import Paired, paired_difference
from reports.verdicts import Verdict, verdicts, why_no_verdict

METRICS = ("target", "mean", "worst")
UNFINISHED = ("pending", "running", "interrupted", "missing")
_KEYS = ["arm", "method", "seed", "split", "domain"]


class Arm(NamedTuple):
    """An arm as declared; `role` is baseline, method or control."""

    label: str
    method: str
    role: str
    is_free: bool
    """Whether its weights cost nobody anything: a fixed mixture that was written down.

    Zero overhead alone would not do: a replay bills nothing, yet another arm paid for it.
    """


class Judged(NamedTuple):
    """An arm beside the baseline; `paired` is None where no seed has finished in both."""

    paired: Paired | None
    verdict: Verdict


def arms(evidence: Evidence) -> list[Arm]:
    """List the declared arms: the baseline, then methods, then controls, each in spec order."""
    baseline = evidence.header["baseline"]
    order = {"baseline": 0, "method": 1, "control": 2}
    found = []
    for label, entry in evidence.header["arms"].items():
        role = "control" if entry.get("control") else "method"
        role = "baseline" if label == baseline else role
        is_fixed = bool(entry.get("fixed", entry["method"] == "static"))  # or a file of before
        is_free = is_fixed and not entry.get("provenance")  # a study has paid for what it found
        found.append(Arm(label, entry["method"], role, is_free))
    return sorted(found, key=lambda arm: order[arm.role])


def borrowers(evidence: Evidence) -> list[str]:
    """Name the arms whose weights come from another arm's runs, which are billed there alone."""
    found = evidence.header["arms"].items()
    return [label for label, arm in found if any(run.get("shown") for run in arm["runs"])]


def looked_at(evidence: Evidence) -> dict[str, str]:
    """Return the arm whose runs each borrower looks at, by borrower, whatever it makes of them.

    Which borrowers take that arm's weights over is for `reports.takeovers` to tell.
    """
    owners: dict[str, str] = {}
    for run in evidence.runs.itertuples():
        owners.setdefault(run.run_id, run.arm)  # of arms that share a run, the one declared first
    found = {}
    for label in borrowers(evidence):
        cells = evidence.header["arms"][label]["runs"]
        shown = [owners.get(run_id) for cell in cells for run_id in cell.get("shown") or ()]
        other = next((o for o in shown if o not in (None, label)), None)
        if other is not None:
            found[label] = other
    return found


def trained_domains(evidence: Evidence) -> list[str]:
    """Name the domains that runs train on, in spec order."""
    return list(evidence.header["domains"])


def family(evidence: Evidence) -> list[str]:
    """Name the arms that are tested: the methods, neither baseline nor control."""
    return [arm.label for arm in arms(evidence) if arm.role == "method"]


def margin(evidence: Evidence) -> float | None:
    """Return the declared difference that is not worth having, in bits per byte, if any is."""
    declared = (evidence.header.get("spec") or {}).get("margin")
    return None if declared is None else float(declared)


def main_runs(evidence: Evidence) -> pd.DataFrame:
    """Return the main runs whose numbers may be used."""
    runs = evidence.runs
    return runs[(runs["kind"] == MAIN) & (runs["status"] == "finished")]


def longer_runs(evidence: Evidence) -> pd.DataFrame:
    """Return the baseline's finished runs at an arm's compute, a row for each such arm and seed."""
    runs = evidence.runs
    return runs[(runs["kind"] == LONGER) & (runs["status"] == "finished")]


def auxiliary_runs(evidence: Evidence) -> pd.DataFrame:
    """Return the runs that arms asked for beside their main ones, in every state."""
    return evidence.runs[evidence.runs["kind"] == AUXILIARY]


def final_evals(evidence: Evidence, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the last evaluation of `runs`: a row per arm, seed, split, domain.

    The default is every finished main run.
    """
    evals = evidence.evals
    last = evals.groupby("run_id", observed=True)["step"].transform("max")
    at_end = evals[evals["step"] == last].astype({"run_id": object, "domain": object})
    chosen = main_runs(evidence) if runs is None else runs
    rows = chosen.merge(at_end, on="run_id", how="inner")
    return rows[[*_KEYS, "nats_per_token", "bits_per_byte", "run_id"]].reset_index(drop=True)


def metrics(evidence: Evidence, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return target, mean and worst in held-out bits per byte by arm and seed, as in `final_evals`.

    target = sum of target weight x domain; mean and worst are over the domains trained on.
    """
    final = final_evals(evidence, runs)
    final = final[final["split"] == "heldout"]
    wide = final.pivot(index=["arm", "seed"], columns="domain", values="bits_per_byte")
    return combined(evidence, wide).reset_index()


def combined(evidence: Evidence, wide: pd.DataFrame) -> pd.DataFrame:
    """Return target, mean and worst [n, 3] of losses by domain [n, domains], in their unit."""
    targets = evidence.header["targets"]
    trained = wide.reindex(columns=trained_domains(evidence))
    target = wide.reindex(columns=list(targets)).mul(pd.Series(targets, dtype=float))
    values = {
        "target": target.sum(axis=1, skipna=False),
        "mean": trained.mean(axis=1, skipna=False),
        "worst": trained.max(axis=1, skipna=False),
    }
    return pd.DataFrame(values)


def by_seed(evidence: Evidence, metric: str) -> dict[str, dict[int, float]]:
    """Return arm -> seed -> one metric in held-out bits per byte."""
    table = metrics(evidence)
    values: dict[str, dict[int, float]] = {arm.label: {} for arm in arms(evidence)}
    for arm, seed, value in zip(table["arm"], table["seed"], table[metric], strict=True):
        values[arm][int(seed)] = float(value)
    return values


@once
def costs(evidence: Evidence) -> pd.DataFrame:
    """Return what each finished arm and seed cost, in seconds and FLOPs.

    overhead = mixer account of the main run + (train + mixer) of every auxiliary run + the seconds
    of the plan's own work (fits, searches), which is shown with the auxiliary runs. It is NaN where
    an auxiliary run has no account, because a part of a bill would look like the whole.
    """
    main = main_runs(evidence)
    auxiliary = auxiliary_runs(evidence)
    table = main[["arm", "method", "seed", "run_id"]].copy()
    for unit in ("seconds", "flops"):
        bill = auxiliary[["arm", "seed"]].assign(
            auxiliary=auxiliary[f"train_{unit}"] + auxiliary[f"mixer_{unit}"].fillna(0.0)
        )
        summed = bill.groupby(["arm", "seed"])["auxiliary"].agg(lambda s: s.sum(skipna=False))
        keys = pd.MultiIndex.from_frame(main[["arm", "seed"]])
        has_bill = keys.isin(summed.index)
        billed = summed.reindex(keys).to_numpy(dtype=float, na_value=math.nan)
        table[f"train_{unit}"] = main[f"train_{unit}"]
        table[f"mixer_{unit}"] = main[f"mixer_{unit}"].fillna(0.0)
        table[f"auxiliary_{unit}"] = [
            float(b) if has else 0.0 for b, has in zip(billed, has_bill, strict=True)
        ]
        if unit == "seconds":
            table["auxiliary_seconds"] += main["plan_seconds"].astype(float).fillna(0.0).to_numpy()
        table[f"overhead_{unit}"] = table[f"mixer_{unit}"] + table[f"auxiliary_{unit}"]
        table[f"eval_{unit}"] = main[f"eval_{unit}"]
        table[f"save_{unit}"] = main[f"save_{unit}"]
    table["train_tokens"] = main["train_tokens"]
    table["peak_bytes"] = _highest_peak(evidence, table)
    return table.reset_index(drop=True)


def _highest_peak(evidence: Evidence, table: pd.DataFrame) -> pd.Series:
    """Return the peak memory of training and mixer over each plan's runs, auxiliary ones too."""
    runs = evidence.runs[evidence.runs["kind"] != LONGER]
    peaks = runs[["arm", "seed"]].assign(
        peak=runs[["train_peak_bytes", "mixer_peak_bytes"]].max(axis=1)
    )
    highest = peaks.groupby(["arm", "seed"])["peak"].max()
    return pd.Series(
        [highest[arm, seed] for arm, seed in zip(table["arm"], table["seed"], strict=True)],
        table.index,
    )


def against_baseline(
    evidence: Evidence, values: Mapping[str, Mapping[int, float]]
) -> dict[str, Paired]:
    """Return the paired differences of every other arm's values by seed to the baseline's.

    Means of different sets of seeds do not compare; differences to one baseline do. An arm that
    shares no seed with it is left out.
    """
    label = evidence.header["baseline"]
    baseline = values.get(label, {})
    return {
        arm: paired_difference(own, baseline)
        for arm, own in values.items()
        if arm != label and set(own) & set(baseline)
    }


def lowest(evidence: Evidence, values: Mapping[str, Mapping[int, float]]) -> set[str]:
    """Name the arms whose values by seed are lowest, ranked by `against_baseline`, ties included.

    None where no arm shares a seed with the baseline.
    """
    means = {arm: pair.mean for arm, pair in against_baseline(evidence, values).items()}
    if not means:
        return set()
    means[evidence.header["baseline"]] = 0.0
    return {arm for arm, mean in means.items() if mean == min(means.values())}


@once
def judge(evidence: Evidence) -> dict[str, Judged]:
    """Compare every arm but the baseline with it on the primary metric, and judge the methods."""
    others = [arm for arm in arms(evidence) if arm.role != "baseline"]
    paired = against_baseline(evidence, by_seed(evidence, evidence.header["primary"]))
    tested = family(evidence)
    words = _wait(evidence, tested) or verdicts(tested, paired, margin(evidence))
    descriptive = Verdict("control", math.nan, "descriptive: outside the family of methods")
    return {
        arm.label: Judged(
            paired.get(arm.label),
            _with_caveat(evidence, arm.label, words[arm.label])
            if arm.label in words
            else descriptive,
        )
        for arm in others
    }


def _wait(evidence: Evidence, tested: list[str]) -> dict[str, Verdict] | None:
    """Withhold every verdict while a run of the family is still to come.

    A word that changes while runs come in invites stopping at the one that is liked.
    """
    waiting = _seeds(evidence, [evidence.header["baseline"], *tested], UNFINISHED)
    if not waiting:
        return None
    declared = len(evidence.header["seeds"])
    if smallest_p(declared) * max(len(tested), 1) > ALPHA:
        verdict = Verdict("no verdict", math.nan, why_no_verdict(declared, len(tested)))
    else:
        verdict = Verdict("no verdict yet", math.nan, f"still to finish: {waiting}")
    return dict.fromkeys(tested, verdict)


def _with_caveat(evidence: Evidence, arm: str, verdict: Verdict) -> Verdict:
    lost = _seeds(evidence, [evidence.header["baseline"], arm], ("failed", "damaged"))
    if not lost:
        return verdict
    note = f"; left out because not usable: {lost} (losing the worst runs can flatter an arm)"
    return verdict._replace(reason=verdict.reason + note)


def _seeds(evidence: Evidence, labels: list[str], states: tuple[str, ...]) -> str:
    """Name the main runs of these arms that are in one of these states, or return ''."""
    runs = evidence.runs
    wanted = runs[(runs["kind"] == MAIN) & runs["status"].isin(states)]
    named = []
    for label in dict.fromkeys(labels):
        seeds = [str(seed) for seed in wanted[wanted["arm"] == label]["seed"]]
        if seeds:
            named.append(f"{label} seed {', '.join(seeds)}")
    return "; ".join(named)
