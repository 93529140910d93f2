"""Draw domain weights over training: one stacked panel for each arm that moved them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from reports import measures, notation, palette
from reports.figures import Panel, panel
from reports.load import Evidence

_MAX_POINTS = 300  # more than a panel has pixels to show


def weights(evidence: Evidence) -> tuple[list[Panel], list[tuple[str, str]]]:
    """Draw the weights of every arm that changed or learned them, and name the fixed ones.

    A control that looks at another arm's runs, such as a replay, stands beside that arm. An arm is
    fixed if its weights are constant in time, equal over seeds and needed no other run.
    """
    panels, fixed = [], []
    keys = palette.domain_keys(evidence)
    runs = measures.main_runs(evidence)
    helped = set(measures.auxiliary_runs(evidence)["arm"])
    for arm in _beside(evidence):
        ids = runs[runs["arm"] == arm.label]["run_id"]
        own = evidence.weights[evidence.weights["run_id"].isin(ids)]
        if own.empty:
            continue
        span = own.groupby("domain", observed=True)["weight"].agg(["min", "max"])
        mean = own.pivot_table(index="tokens", columns="domain", values="weight", observed=True)
        mean = mean[[d for d in measures.trained_domains(evidence) if d in mean]]
        if (span["max"] - span["min"]).max() < 1e-9 and arm.label not in helped:
            parts = [f"{domain} {100 * mean[domain].iloc[0]:.1f}%" for domain in mean]
            fixed.append((arm.label, ", ".join(parts)))
        else:
            panels.append(_stack(arm.label, _thin(mean), len(ids), keys))
    return panels, fixed


def _beside(evidence: Evidence) -> list[measures.Arm]:
    """Return the arms, each followed by the controls that look at its runs."""
    declared = measures.arms(evidence)
    looked_at = measures.looked_at(evidence)
    place = {arm.label: k for k, arm in enumerate(declared)}

    def order(arm: measures.Arm) -> tuple[int, int]:
        other = looked_at.get(arm.label)
        return (place[other], 1 + place[arm.label]) if other else (place[arm.label], 0)

    return sorted(declared, key=order)


def _thin(frame: pd.DataFrame) -> pd.DataFrame:
    if len(frame) <= _MAX_POINTS:
        return frame
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, _MAX_POINTS).round().astype(int))]


def _stack(arm: str, mean: pd.DataFrame, num_seeds: int, keys: dict[str, palette.Key]) -> Panel:
    figure = go.Figure()
    for domain in mean:
        key = keys[domain]
        figure.add_scatter(
            x=mean.index.tolist(),
            y=(100 * mean[domain]).round(4).tolist(),
            name=notation.plain(domain),
            stackgroup="weights",
            mode="lines",
            line={"width": 0.5, "color": key.color, "shape": "hv"},
            fillcolor=key.color,
            fillpattern={"shape": key.hatch, "fgcolor": "#333333", "size": 6},
            hovertemplate="%{y:.1f}%",
        )
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(range=[0, 100], ticksuffix="%", dtick=25)
    figure.update_xaxes(title_text="training tokens", range=[mean.index[0], mean.index[-1]])
    start, end = 100 * mean.iloc[0], 100 * mean.iloc[-1]
    changes = ", ".join(f"{d} {start[d]:.0f}% to {end[d]:.0f}%" for d in mean)
    seeds = f"mean over {num_seeds} seed{'' if num_seeds == 1 else 's'}"
    alt = f"Domain weights of {arm}, {seeds}, from start to end: {changes}."
    return panel(f"weights-{arm}", arm, alt, figure, 260)
