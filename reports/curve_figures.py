"""Draw held-out losses along training: against tokens, against FLOPs, against seconds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports import measures, notation, palette, tables
from reports.along import UNITS, along
from reports.figures import Panel, panel
from reports.load import Evidence

_AXES = {
    "tokens": ("Against training tokens", "training tokens"),
    "flops": ("Against FLOPs, overhead included", "FLOPs of training, mixer and auxiliary runs"),
    "seconds": (
        "Against seconds, overhead included",
        "seconds of training, mixer and auxiliary runs",
    ),
}


def spending(evidence: Evidence) -> list[Panel]:
    """Draw the primary metric three times: against tokens, FLOPs and seconds.

    What auxiliary runs cost comes before an arm's first step and shifts its curve to the right.
    """
    table, primary = _drawn(along(evidence)), evidence.header["primary"]
    if table.empty:
        return []
    name, keys = tables.metric_name(evidence, primary), palette.arm_keys(evidence)
    panels = []
    for unit in UNITS:
        known = table.dropna(subset=[unit, primary])
        title, axis = _AXES[unit]
        alt = f"Held-out bits per byte, {name}, {title.lower()}"
        panels.append(_curve(f"spending-{unit}", title, axis, known, (unit, primary), keys, alt))
    return panels


def curves(evidence: Evidence) -> list[Panel]:
    """Draw held-out bits per byte against tokens: paired difference, metrics, and every domain.

    Lines are means over finished seeds, bands run from the lowest to the highest seed. The
    untrained start is left out where three later points exist, as it would flatten the rest.
    """
    table = _drawn(along(evidence))
    if table.empty:
        return []
    targets, trained = evidence.header["targets"], measures.trained_domains(evidence)
    primary = evidence.header["primary"]
    names = {m: tables.metric_name(evidence, m) for m in measures.METRICS if m != primary}
    for domain in evidence.header["probe_domains"]:
        if list(targets) != [domain]:  # a single target is among the metrics already
            names[domain] = f"{domain}{'' if domain in trained else ' (not trained on)'}"
    keys, columns = palette.arm_keys(evidence), list(names.items())
    difference = _to_baseline(evidence, table)
    if difference is not None:
        title = f"{tables.metric_name(evidence, primary)}, paired difference to "
        columns.insert(0, ("difference", f"{title}{evidence.header['baseline']}"))
        table = table.assign(difference=difference)
    panels = []
    for k, (column, title) in enumerate(columns):
        alt = f"Held-out bits per byte against training tokens, {title}"
        known, axes = table.dropna(subset=[column]), ("tokens", column)
        panels.append(_curve(f"curve-{k}", title, "training tokens", known, axes, keys, alt))
    return panels


def _drawn(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["step"] > 0] if table["step"].nunique() > 3 else table


def _to_baseline(evidence: Evidence, table: pd.DataFrame) -> np.ndarray | None:
    """Return arm - baseline, paired by seed, along training: what the seeds share is gone."""
    baseline = table[table["arm"] == evidence.header["baseline"]]
    if baseline.empty:
        return None
    values = table[evidence.header["primary"]]
    reference = baseline.set_index(["seed", "step"])[evidence.header["primary"]]
    rows = pd.MultiIndex.from_frame(table[["seed", "step"]])
    difference: np.ndarray = values.to_numpy() - reference.reindex(rows).to_numpy()
    return difference


def _curve(
    identity: str,
    title: str,
    axis: str,
    table: pd.DataFrame,
    columns: tuple[str, str],
    keys: dict[str, palette.Key],
    alt: str,
) -> Panel:
    """Draw one line for each arm: `columns` are x and y, means over seeds at each step."""
    figure, ends = go.Figure(), []
    nearest, furthest = float("inf"), 0.0  # of where the arms' curves end
    horizontal, vertical = columns
    for arm in keys:
        own = table[table["arm"] == arm]
        if own.empty:
            continue
        steps = own.groupby("step")
        x = steps[horizontal].mean().tolist()
        y = steps[vertical].agg(["mean", "min", "max"])
        _line(figure, arm, x, y, keys[arm])
        ends.append(f"{arm} {y['mean'].iloc[-1]:.3f} at {notation.quantity(x[-1])}")
        nearest, furthest = min(nearest, x[-1]), max(furthest, x[-1])
    # seen at one place only where all arms were evaluated there
    figure.update_layout(hovermode="x unified" if horizontal == "tokens" else "closest")
    figure.update_xaxes(title_text=axis, rangemode="tozero", nticks=6, tickformat="~s")
    if horizontal != "tokens" and ends and furthest > 5 * nearest:  # one arm would squeeze the rest
        figure.update_xaxes(type="log", rangemode="normal")
    figure.update_yaxes(tickformat=".2f", nticks=6)
    return panel(identity, title, f"{alt}. At the end: {', '.join(ends)}.", figure, 250)


def _line(figure: go.Figure, arm: str, x: list[float], y: pd.DataFrame, key: palette.Key) -> None:
    dash = key.dash.replace(" ", "px,") + "px" if key.dash else "solid"
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=np.round([*y["max"], *y["min"][::-1]], 5).tolist(),
        mode="lines",
        fill="toself",
        fillcolor=palette.translucent(key.color),
        line={"width": 0},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=x,
        y=y["mean"].round(5).tolist(),
        name=notation.plain(arm),
        mode="lines+markers",
        marker={"size": 5},
        line={"color": key.color, "width": 2, "dash": dash},
        hovertemplate="%{y:.3f}",
    )
