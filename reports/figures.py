"""Draw the figures of a report as plotly specifications without colors of text, grid or paper.

The page gives those at draw time, so one figure serves light and dark. Each panel is a figure of
its own in a grid of the page: plotly's subplots keep their columns on a phone, a page does not.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from reports import fidelity as fidelities
from reports import measures, notation, palette, tables
from reports.load import Evidence
from reports.stats import Paired


class Panel(NamedTuple):
    """One drawing: `alt` says in words what it shows, `spec` is plotly's data and layout."""

    id: str
    title: str
    alt: str
    height: int
    spec: dict[str, Any]


def differences(evidence: Evidence) -> list[Panel]:
    """Draw the paired difference of each arm with its 95 % t interval, and every seed as a dot."""
    figure = go.Figure()
    keys, judged = palette.arm_keys(evidence), measures.judge(evidence)
    words = []
    for arm, (pair, verdict) in judged.items():
        if pair is None:
            continue
        is_control = verdict.word == "control"
        _difference_row(figure, notation.plain(arm), keys[arm].color, pair, is_control)
        spread = notation.interval(pair.low, pair.high)
        words.append(f"{arm} {notation.signed(pair.mean)} {spread}, {verdict.word}")
    if not words:
        return []
    name_rows(figure, [arm for arm, (pair, _) in judged.items() if pair])
    figure.update_xaxes(title_text="← better      worse →", zeroline=True, tickformat="+.2f")
    alt = f"Paired differences to {evidence.header['baseline']}: {'; '.join(words)}."
    return [panel("differences", "", alt, figure, 90 + 46 * len(words))]


def _difference_row(
    figure: go.Figure, name: str, color: str, pair: Paired, is_control: bool
) -> None:
    """Draw one arm: a tick for each seed, then the mean with its interval if it has one."""
    figure.add_scatter(
        x=[round(value, 6) for value in pair.differences.values()],
        y=[name] * pair.num_pairs,
        text=[f"seed {seed}" for seed in pair.differences],
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 11, "color": color, "line": {"width": 1.5}},
        opacity=0.55,
        hovertemplate="%{text}: %{x:+.3f}<extra></extra>",
    )
    symbol = "diamond-open" if is_control else "circle"
    outline = {"width": 2, "color": color}
    figure.add_scatter(
        x=[round(pair.mean, 6)],
        y=[name],
        mode="markers",
        marker={"symbol": symbol, "size": 11, "color": color, "line": outline},
        hovertemplate=f"mean %{{x:+.3f}} {notation.interval(pair.low, pair.high)}<extra></extra>",
        error_x={
            "type": "data",
            "visible": pair.num_pairs > 1,
            "array": [pair.high - pair.mean if pair.num_pairs > 1 else 0],
            "color": color,
            "thickness": 2.5,
            "width": 6,
        },
    )


def overhead(evidence: Evidence) -> list[Panel]:
    """Draw what an arm cost by account: seconds and FLOPs, mean over its finished seeds."""
    table = tables.costs_table(evidence)
    table = table[table["num_seeds"] > 0]
    panels = []
    accounts = {"training": "train", "mixer": "mixer", "auxiliary runs": "auxiliary"}
    for unit, title, write in (
        ("seconds", "Seconds", notation.seconds),
        ("flops", "FLOPs", notation.quantity),
    ):
        if table.empty:
            break
        figure = go.Figure()
        for label, account in accounts.items():
            values = table[f"{account}_{unit}"]
            figure.add_bar(
                x=values.tolist(),
                y=[notation.plain(arm) for arm in table["arm"]],
                name=label,
                orientation="h",
                marker={"color": palette.ACCOUNT_COLORS[label], "line": {"width": 0}},
                hovertemplate=f"{label} %{{x:.3s}}<extra></extra>",
            )
        figure.update_layout(barmode="stack", bargap=0.4)
        name_rows(figure, list(table["arm"]))
        figure.update_xaxes(tickformat="~s", rangemode="tozero", nticks=5, tickangle=0)
        parts = [
            f"{row.arm} {write(getattr(row, f'train_{unit}'))} training and "
            f"{write(getattr(row, f'overhead_{unit}'))} overhead"
            for row in table.itertuples()
        ]
        alt = f"{title} per run, mean over seeds: {'; '.join(parts)}."
        panels.append(panel(f"overhead-{unit}", title, alt, figure, 80 + 40 * len(table)))
    return panels


def fidelity(evidence: Evidence) -> list[Panel]:
    """Draw each comparison of an estimator with the exact one: rank correlation against steps."""
    found = fidelities.comparisons(evidence)
    if found.empty:
        return []
    figure, keys, words = go.Figure(), palette.arm_keys(evidence), []
    for arm, own in found.groupby("arm", sort=False):
        means = own.groupby("step")["spearman"].mean()
        key = keys[str(arm)]
        figure.add_scatter(
            x=own["step"].tolist(),
            y=own["spearman"].round(4).tolist(),
            mode="markers",
            marker={"size": 5, "color": key.color},
            opacity=0.5,
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=means.index.tolist(),
            y=means.round(4).tolist(),
            name=notation.plain(str(arm)),
            mode="lines+markers",
            line={"color": key.color, "width": 2},
            hovertemplate="%{y:.3f}",
        )
        words.append(f"{arm} {means.mean():.3f}")
    figure.update_layout(hovermode="x unified")
    figure.update_xaxes(title_text="step", rangemode="tozero")
    figure.update_yaxes(range=[min(-0.05, 1.1 * found["spearman"].min()), 1.05], zeroline=True)
    alt = f"Rank correlation of row scores with the exact influence, mean: {', '.join(words)}."
    return [panel("fidelity", "Rank correlation with the exact influence", alt, figure, 250)]


def name_rows(figure: go.Figure, arms: list[str]) -> None:
    """Put the arms on the y axis from the top down, with labels that leave a phone some room."""
    figure.update_yaxes(
        autorange="reversed",
        type="category",
        showgrid=False,
        tickmode="array",
        tickvals=[notation.plain(arm) for arm in arms],
        ticktext=[notation.plain(notation.short(arm)) for arm in arms],
    )


def panel(identity: str, title: str, alt: str, figure: go.Figure, height: int) -> Panel:
    """Return a figure as a panel: without colors of its own paper, still under a finger."""
    figure.update_layout(
        template="none",
        showlegend=False,
        dragmode=False,  # a finger on a figure must scroll the page
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        height=height,
    )
    figure.update_xaxes(automargin=True, fixedrange=True)
    figure.update_yaxes(automargin=True, fixedrange=True)
    spec = figure.to_plotly_json()
    del spec["layout"]["template"]
    return Panel(identity, title, alt, height, spec)


def to_json(panels: list[Panel]) -> str:
    """Return the specifications of panels by id."""
    specs = {panel.id: panel.spec for panel in panels}
    return json.dumps(specs, cls=PlotlyJSONEncoder, sort_keys=True)


def library() -> str:
    """Return plotly.js, to be put into a page once."""
    return str(get_plotlyjs())
