"""Build the tables of a report as pandas frames of plain numbers, and one for the terminal.

Frames hold numbers and words, never markup: HTML, Markdown and the terminal write them differently.
Losses are means over the finished seeds of an arm; differences are paired by seed, arm - baseline.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from reports import measures, notation
from reports.arms import arms_table
from reports.load import LONGER, Evidence

_STYLES = {
    "better": "bold green",
    "worse": "bold red",
    "equivalent": "cyan",
    "undecided": "yellow",
}
RESULTS_COLUMNS = [
    "arm",
    "method",
    "seed",
    "split",
    "domain",
    "nats_per_token",
    "bits_per_byte",
    "train_tokens",
    "train_seconds",
    "overhead_seconds",
    "train_flops",
    "overhead_flops",
    "run_id",
]
_LABEL = 17  # columns of a label beside all others in a terminal of 100


def domains_table(evidence: Evidence) -> pd.DataFrame:
    """Return one row per domain and arm: held-out bits per byte and nats per token.

    Every evaluated domain is in it; `trained` is False for those that no batch was drawn from, and
    `is_lowest` True for the arm that is lowest there by differences paired by seed.
    """
    final = measures.final_evals(evidence)
    final = final[final["split"] == "heldout"]
    best = {domain: _lowest_on(evidence, own) for domain, own in final.groupby("domain")}
    both = final.groupby(["domain", "arm"])[["bits_per_byte", "nats_per_token"]].mean()
    domains = evidence.header["probe_domains"]
    labels = [arm.label for arm in measures.arms(evidence)]
    grid = pd.MultiIndex.from_product([domains, labels], names=["domain", "arm"])
    table = both.reindex(grid).reset_index()
    table["trained"] = table["domain"].isin(measures.trained_domains(evidence))
    table["target_weight"] = table["domain"].map(evidence.header["targets"]).fillna(0.0)
    cells = zip(table["domain"], table["arm"], strict=True)
    table["is_lowest"] = [arm in best.get(domain, ()) for domain, arm in cells]
    return table


def _lowest_on(evidence: Evidence, final: pd.DataFrame) -> set[str]:
    """Name the arms that are lowest in the evaluations of one domain."""
    values = {
        str(arm): dict(zip(own["seed"], own["bits_per_byte"], strict=True))
        for arm, own in final.groupby("arm")
    }
    return measures.lowest(evidence, values)


def lowest(evidence: Evidence) -> dict[str, set[str]]:
    """Return by metric the arms that are lowest, by differences to the baseline paired by seed."""
    return {
        metric: measures.lowest(evidence, measures.by_seed(evidence, metric))
        for metric in measures.METRICS
    }


def costs_table(evidence: Evidence) -> pd.DataFrame:
    """Return one row per arm: mean over seeds of each account, and the highest peak memory."""
    bills = measures.costs(evidence)
    rows = []
    for arm in measures.arms(evidence):
        bill = bills[bills["arm"] == arm.label]
        row: dict[str, Any] = {"arm": arm.label, "num_seeds": len(bill)}
        for account in ("train", "mixer", "auxiliary", "overhead", "eval", "save"):
            for unit in ("seconds", "flops"):
                row[f"{account}_{unit}"] = bill[f"{account}_{unit}"].mean(skipna=False)
        row["train_tokens"] = bill["train_tokens"].mean()
        row["peak_bytes"] = bill["peak_bytes"].max()
        rows.append(row)
    return pd.DataFrame(rows)


def repetitions_table(evidence: Evidence) -> pd.DataFrame:
    """Return passes over each trained domain's rows, by arm: mean and highest over seeds."""
    rows = []
    for run in measures.main_runs(evidence).itertuples():
        repetitions = evidence.run_headers[run.run_id].get("repetitions") or {}
        rows += [(domain, run.arm, passes) for domain, passes in repetitions.items()]
    long = pd.DataFrame(rows, columns=["domain", "arm", "passes"]).astype({"passes": float})
    table = long.groupby(["domain", "arm"])["passes"].agg(["mean", "max"])
    labels = [arm.label for arm in measures.arms(evidence)]
    grid = pd.MultiIndex.from_product([measures.trained_domains(evidence), labels])
    return table.reindex(grid.set_names(["domain", "arm"])).reset_index()


def problems_table(evidence: Evidence) -> pd.DataFrame:
    """Return every run that is not finished, with its reason; auxiliary runs too."""
    runs = evidence.runs
    problems = runs[runs["status"] != "finished"]
    columns = ["arm", "seed", "role", "status", "reason", "run_id"]
    return problems[columns].reset_index(drop=True)


def run_ids_table(evidence: Evidence) -> pd.DataFrame:
    """Return every run behind the numbers: finished main and longer runs, auxiliary ones billed."""
    used = measures.main_runs(evidence)[["arm", "seed"]]
    runs = evidence.runs[
        (evidence.runs["kind"] != LONGER) | (evidence.runs["status"] == "finished")
    ]
    return runs.merge(used, on=["arm", "seed"])[["arm", "seed", "kind", "role", "run_id"]]


def results_table(evidence: Evidence) -> pd.DataFrame:
    """Return the final evaluations with their costs: what results.csv holds."""
    final = measures.final_evals(evidence)
    bills = measures.costs(evidence).drop(columns=["method", "run_id"])
    return final.merge(bills, on=["arm", "seed"])[RESULTS_COLUMNS].astype({"split": object})


def settings_table(evidence: Evidence) -> pd.DataFrame:
    """Return each arm's method and settings, as the spec resolved them."""
    entries = evidence.header["arms"]
    rows = [
        (arm.label, arm.method, arm.role, json.dumps(entries[arm.label].get("settings") or {}))
        for arm in measures.arms(evidence)
    ]
    return pd.DataFrame(rows, columns=["arm", "method", "role", "settings"])


def metric_name(evidence: Evidence, metric: str) -> str:
    """Name a metric in words, with the domains of the target."""
    if metric != "target":
        return {"mean": "mean over domains", "worst": "worst domain"}[metric]
    weights = evidence.header["targets"]
    if len(weights) == 1:
        return f"target ({next(iter(weights))})"
    return f"target ({' + '.join(f'{weight:.2g} {name}' for name, weight in weights.items())})"


def terminal_table(evidence: Evidence, narrow: bool = False) -> Table:
    """Return the arms table for a terminal of 100 columns, or of 80 if `narrow`."""
    shown = (evidence.header["primary"],) if narrow else measures.METRICS
    frame = arms_table(evidence)
    primary = evidence.header["primary"]
    # A long label gets the room of a column that would say the same in every row.
    complete = bool((frame["num_seeds"] == frame["declared_seeds"]).all())
    with_seeds = not narrow and not (complete and frame["arm"].str.len().max() > _LABEL)
    told = "" if with_seeds or narrow else f", {frame['declared_seeds'].iloc[0]} seeds"
    table = Table(
        title=f"{escape(evidence.name)}: held-out bits per byte, lower is better{told}",
        caption=escape(_caption(evidence, frame)),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
    )
    table.add_column("arm", overflow="fold", min_width=9, max_width=20)
    if with_seeds:
        table.add_column("seeds", justify="right", no_wrap=True)
    for metric in shown:
        star = "*" if metric == primary else ""
        table.add_column(metric + star, justify="right", no_wrap=True)
    table.add_column("difference* [95 % interval]", justify="right", no_wrap=True)
    table.add_column("overhead", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    best = lowest(evidence)
    for row in frame.to_dict("records"):
        cells = [notation.bits(row[metric]) for metric in shown]
        bold = [row["arm"] in best[metric] for metric in shown]
        difference = notation.signed(row["difference"]) if row["num_pairs"] else ""
        table.add_row(
            escape(row["arm"]),
            *([f"{row['num_seeds']}/{row['declared_seeds']}"] if with_seeds else []),
            *(f"[bold]{cell}[/]" if b else cell for cell, b in zip(cells, bold, strict=True)),
            f"{difference} {notation.interval(row['low'], row['high'])}".strip(),
            notation.percent(row["overhead_seconds_percent"]),
            f"[{_STYLES.get(row['verdict'], 'none')}]{row['verdict']}[/]",
            style="dim" if row["role"] == "control" else None,
        )
    return table


def _caption(evidence: Evidence, frame: pd.DataFrame) -> str:
    """Explain the signs and, once, why there is no verdict."""
    header = evidence.header
    lines = [
        f"* primary: {metric_name(evidence, header['primary'])}. Difference = arm - "
        f"{header['baseline']}, paired by seed: negative is better.",
        "Overhead: seconds beyond training, auxiliary runs included, in % of training.",
    ]
    finished = measures.main_runs(evidence).groupby("arm")["seed"].agg(frozenset)
    if finished.nunique() > 1:
        lines.append(
            "Bold: lowest by differences paired by seed; means of other seeds do not rank."
        )
    declared = measures.margin(evidence)
    if declared is not None:
        lines.append(f"Margin: a difference within {declared:g} is not worth having.")
    methods = frame[frame["role"] == "method"]
    withheld = methods[methods["verdict"].str.startswith("no verdict")]
    for reason, rows in withheld.groupby("reason", sort=False):
        lines.append(f"No verdict for {notation.listed(list(rows['arm']))}: {reason}.")
    if (frame["role"] == "control").any():
        lines.append("Controls are descriptive: they are outside the family that is tested.")
    if measures.borrowers(evidence):
        names = notation.listed(measures.borrowers(evidence))
        lines.append(f"Not billed to {names}: the runs of other arms that they look at.")
    return "\n".join(lines)
