"""The pictures of an evaluation: a dot with its interval for each label, curves of ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from reports import notation
from reports.attribution.agreement import Estimate
from reports.attribution.judgements import Detected
from reports.figures import Panel, name_rows, panel
from reports.palette import ARM_COLORS, BASELINE_COLOR

MAX_POINTS = 400
LOSS = "loss"  # the ranking that costs nothing


class Dot(NamedTuple):
    """A label's estimate."""

    label: str
    estimate: Estimate
    is_baseline: bool


def colors(labels: Sequence[str], baselines: Sequence[str]) -> dict[str, str]:
    """Return a color for each label, the same in every figure; baselines are grey."""
    own = [label for label in labels if label not in baselines]
    found = {label: ARM_COLORS[i % len(ARM_COLORS)] for i, label in enumerate(own)}
    return {**found, **dict.fromkeys(baselines, BASELINE_COLOR)}


def dots(
    identity: str,
    title: str,
    axis: str,
    rows: Sequence[Dot],
    keys: dict[str, str],
    line: float = math.nan,
    line_name: str = "",
) -> Panel:
    """Draw estimates with their intervals, one below the other; `line` marks a limit."""
    figure, words = go.Figure(), []
    for row in rows:
        value, low, high = row.estimate[:3]
        color, has_interval = keys.get(row.label, BASELINE_COLOR), math.isfinite(low)
        symbol = "diamond-open" if row.is_baseline else "circle"
        spread = notation.interval(low, high)
        figure.add_scatter(
            x=[round(value, 5)],
            y=[notation.plain(row.label)],
            mode="markers",
            marker={"symbol": symbol, "size": 11, "color": color, "line": {"width": 2}},
            error_x={
                "type": "data",
                "visible": has_interval,
                "symmetric": False,
                "array": [high - value if has_interval else 0],
                "arrayminus": [value - low if has_interval else 0],
                "color": color,
                "thickness": 2.5,
                "width": 6,
            },
            hovertemplate=f"%{{x:.3f}} {spread}<extra></extra>",
        )
        words.append(f"{row.label} {notation.signed(value)} {spread}".strip())
    if math.isfinite(line):
        figure.add_vline(x=line, line={"dash": "dot", "width": 2, "color": BASELINE_COLOR})
        words.append(f"{line_name} {notation.signed(line)}")
    name_rows(figure, [row.label for row in rows])
    figure.update_xaxes(title_text=axis, zeroline=True, nticks=6)
    return panel(identity, title, f"{title}: {'; '.join(words)}.", figure, 90 + 36 * len(rows))


def found_wrong(rows: Sequence[Detected], keys: dict[str, str]) -> Panel:
    """Draw how many wrong answers are found as rows are read from the top of each ranking."""
    figure, words = go.Figure(), []
    for row in rows:
        size = len(row.curve)
        at = np.unique(np.linspace(0, size - 1, min(size, MAX_POINTS)).astype(int))
        figure.add_scatter(
            x=[round((i + 1) / size, 4) for i in at],
            y=row.curve[at].round(4).tolist(),
            name=notation.plain(row.label),
            mode="lines",
            line={
                "color": keys.get(row.label, BASELINE_COLOR),
                "width": 2,
                "dash": "dot" if row.label == LOSS else "solid",
            },
            hovertemplate="%{y:.0%}",
        )
        words.append(f"{row.label} finds {row.recall:.0%} among as many rows as are wrong")
    diagonal: dict[str, Any] = {"color": BASELINE_COLOR, "width": 1, "dash": "dot"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=diagonal, hoverinfo="skip")
    figure.update_layout(hovermode="x unified")
    figure.update_xaxes(title_text="share of rows read", tickformat=".0%", range=[0, 1])
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02])
    title = "Wrong answers found"
    return panel("mislabelled", title, f"{title}: {'; '.join(words)}.", figure, 300)


def predicted(sums: np.ndarray, actual: np.ndarray, label: str, query: str, color: str) -> Panel:
    """Draw one query's subsets: what a label predicted against how the query came out."""
    figure = go.Figure()
    figure.add_scatter(
        x=[float(f"{value:.5g}") for value in sums],
        y=actual.round(5).tolist(),
        mode="markers",
        marker={"size": 7, "color": color},
        opacity=0.75,
        hovertemplate="sum %{x:.3g}: loss %{y:.3f}<extra></extra>",
    )
    figure.update_xaxes(title_text=f"sum of {label} scores in the subset", nticks=5)
    figure.update_yaxes(title_text="loss, nats a token")
    alt = f"Query {query} under {len(sums)} subsets: loss from {actual.min():.3f} to "
    alt += f"{actual.max():.3f} nats a token, against the sums of {label}."
    return panel("predicted", f"One query, {query}", alt, figure, 300)
