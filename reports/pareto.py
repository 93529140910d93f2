"""Which arms are worth their compute: the difference in loss against all that an arm cost.

Losses are shown as paired differences to the baseline, because the level of a seed, which all arms
share, would make every interval several times as long. The baseline at other lengths, where the
spec has asked for it, is drawn as what any method has to lie below. Descriptive.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import plotly.graph_objects as go

from reports import measures, notation, palette, tables
from reports.figures import Panel, panel
from reports.load import Evidence
from reports.stats import paired_difference


class Point(NamedTuple):
    """An arm, or the baseline at another length."""

    label: str
    role: str
    """baseline, method, control or longer."""
    times: float
    """FLOPs of training, mixer and auxiliary runs, in those of the baseline; mean over seeds."""
    difference: float
    low: float
    high: float


def points(evidence: Evidence) -> list[Point]:
    """Return every arm whose cost and difference are known, cheapest first."""
    bills, baseline = measures.costs(evidence), evidence.header["baseline"]
    totals = (bills["train_flops"] + bills["overhead_flops"]).groupby(bills["arm"], sort=False)
    cost = totals.agg(lambda flops: flops.mean(skipna=False)).to_dict()
    unit = cost.get(baseline, math.nan)
    if not unit > 0:
        return []
    judged = measures.judge(evidence)
    found = [Point(baseline, "baseline", 1.0, 0.0, math.nan, math.nan)]
    for arm in measures.arms(evidence):
        pair = judged[arm.label].paired if arm.label in judged else None
        if pair is not None and cost.get(arm.label, math.nan) > 0:
            spread = (pair.mean, pair.low, pair.high)
            found.append(Point(arm.label, arm.role, cost[arm.label] / unit, *spread))
    found += _longer(evidence, unit)
    return sorted(found, key=lambda point: point.times)


def _longer(evidence: Evidence, unit: float) -> list[Point]:
    primary = evidence.header["primary"]
    name = evidence.header["baseline"]
    baseline = measures.by_seed(evidence, primary)[name]
    runs = measures.longer_runs(evidence).drop_duplicates("run_id")
    runs = runs.assign(steps=[evidence.run_headers[i]["num_steps"] for i in runs["run_id"]])
    found = []
    for steps, own in runs.groupby("steps"):
        table = measures.metrics(evidence, own)
        losses = dict(zip(table["seed"].astype(int), table[primary], strict=True))
        if not set(losses) & set(baseline):
            continue
        pair = paired_difference(losses, baseline)
        spread = (pair.mean, pair.low, pair.high)
        times = float(own["train_flops"].mean()) / unit
        found.append(Point(f"{name}, {steps:,} steps", "longer", times, *spread))
    return found


def frontier(found: list[Point]) -> list[Point]:
    """Return the points that no other one undercuts in both cost and loss, cheapest first."""
    best, kept = math.inf, []
    for point in sorted(found, key=lambda point: (point.times, point.difference)):
        if point.difference < best:
            best = point.difference
            kept.append(point)
    return kept


def pareto(evidence: Evidence) -> list[Panel]:
    """Draw every arm's difference to the baseline, with its interval, against its compute."""
    found = points(evidence)
    if len(found) < 2:
        return []
    figure, keys = go.Figure(), palette.arm_keys(evidence)
    borrowed = set(measures.borrowers(evidence))  # at a price that another arm has paid
    edge = frontier([point for point in found if point.label not in borrowed])
    figure.add_scatter(
        x=[round(point.times, 5) for point in edge],
        y=[round(point.difference, 6) for point in edge],
        mode="lines",
        line={"color": palette.BASELINE_COLOR, "width": 1, "dash": "dot", "shape": "hv"},
        hoverinfo="skip",
    )
    for point in found:
        color = palette.BASELINE_COLOR if point.role == "longer" else keys[point.label].color
        _draw(figure, point, color)
    figure.update_xaxes(title_text=f"compute, in that of {evidence.header['baseline']}", nticks=6)
    if found[-1].times > 4 * found[0].times:
        ticks = [1, 2, 3, 5, 10, 20, 50, 100]
        figure.update_xaxes(type="log", tickmode="array", tickvals=ticks)
    figure.update_yaxes(tickformat="+.2f", zeroline=True, nticks=6)
    words = [f"{p.label} {p.times:.2f} times, {notation.signed(p.difference)}" for p in found]
    name = tables.metric_name(evidence, evidence.header["primary"])
    alt = f"Difference to {evidence.header['baseline']} in {name} against total compute: "
    alt += f"{'; '.join(words)}. Undercut by none: {', '.join(p.label for p in edge)}."
    return [panel("pareto", "Loss against total compute", alt, figure, 320)]


def _draw(figure: go.Figure, point: Point, color: str) -> None:
    symbols = {"baseline": "square", "method": "circle", "control": "diamond-open"}
    has_spread = not math.isnan(point.high)
    figure.add_scatter(
        x=[round(point.times, 5)],
        y=[round(point.difference, 6)],
        name=notation.plain(point.label),
        mode="markers",
        marker={
            "symbol": symbols.get(point.role, "square-open"),
            "size": 10,
            "color": color,
            "line": {"width": 2, "color": color},
        },
        error_y={
            "type": "data",
            "visible": has_spread,
            "array": [round(point.high - point.difference, 6) if has_spread else 0],
            "color": color,
            "thickness": 2,
            "width": 5,
        },
        hovertemplate=f"{notation.plain(point.label)}: %{{y:+.3f}} "
        f"{notation.interval(point.low, point.high)}, %{{x:.2f}} times<extra></extra>",
    )
