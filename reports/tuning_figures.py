"""Draw a study: its trials in order, a slice for each parameter, importances, a map, the costs."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from reports import notation, palette
from reports.columns import Json
from reports.figures import Panel, panel
from reports.tuning import own_trial, shown

DONE, CUT, OWN, BEST = palette.ARM_COLORS[0], palette.BASELINE_COLOR, "#E69F00", "#D55E00"


def panels(study: Json) -> list[tuple[str, list[Panel]]]:
    """Return the drawings of every arm that has a complete trial."""
    found = []
    for arm, facts in study["arms"].items():
        if not _done(facts):
            continue
        key = f"{study['name']}-{arm}"
        drawn = [_history(key, arm, facts), *_importances(key, arm, facts)]
        drawn += [_slice(key, arm, name, facts) for name in facts["space"]]
        drawn += [*_map(key, arm, facts), _costs(key, arm, facts)]
        found.append((arm, drawn))
    return found


def _done(facts: Json) -> list[Json]:
    """Return the trials that may be chosen: complete, at every seed, within the constraint."""
    return [t for t in facts["trials"] if t["number"] in facts["eligible"]]


def _history(key: str, arm: str, facts: Json) -> Panel:
    figure, done = go.Figure(), _done(facts)
    lowest, line = float("inf"), []
    for trial in done:
        lowest = min(lowest, trial["values"][0])
        line.append(lowest)
    numbers = [t["number"] for t in done]
    figure.add_scatter(
        x=numbers, y=line, mode="lines", line={"color": DONE, "shape": "hv"}, hoverinfo="skip"
    )
    _dots(figure, numbers, done, DONE)
    cut = [t for t in facts["trials"] if t["state"] == "pruned" and t["values"]]
    figure.add_scatter(
        x=[t["number"] for t in cut],
        y=[t["values"][0] for t in cut],
        mode="markers",
        marker={"symbol": "x-thin-open", "size": 8, "color": CUT},
        text=[_told(t) for t in cut],
        hovertemplate="%{text}<extra>pruned</extra>",
    )
    figure.update_xaxes(title_text="trial")
    figure.update_yaxes(tickformat=".2f", nticks=6)
    alt = f"Tuning loss of {arm} by trial: from {done[0]['values'][0]:.3f} to {lowest:.3f} at best."
    return panel(f"study-{key}-history", "Tuning loss, trial by trial", alt, figure, 230)


def _slice(key: str, arm: str, name: str, facts: Json) -> Panel:
    figure, done, short = go.Figure(), _done(facts), name.removeprefix("settings.")
    _dots(figure, [_place(t["params"][name]) for t in done], done, DONE)
    for trials, color, symbol, label in (
        ([own] if (own := own_trial(facts)) in done else [], OWN, "circle-open", "own"),
        ([t for t in done if t["number"] == facts["best"]], BEST, "star", "best"),
    ):
        figure.add_scatter(
            x=[_place(t["params"][name]) for t in trials],
            y=[t["values"][0] for t in trials],
            mode="markers",
            marker={"symbol": symbol, "size": 13, "color": color, "line": {"width": 2.5}},
            text=[_told(t) for t in trials],
            hovertemplate=f"%{{text}}<extra>{label}</extra>",
        )
    _axis(figure.update_xaxes, facts["space"][name], "")
    figure.update_yaxes(tickformat=".2f", nticks=5)
    best = next((t for t in done if t["number"] == facts["best"]), None)
    at = "" if best is None else f" The best trial has {best['params'][name]}."
    alt = f"Tuning loss of {arm} against {short}, {len(done)} trials.{at}"
    return panel(f"study-{key}-{short}", short, alt, figure, 210)


def _importances(key: str, arm: str, facts: Json) -> list[Panel]:
    found = facts["importances"]
    if not found:
        return []
    figure, names = go.Figure(), list(found["fanova"])
    short = [notation.plain(name.removeprefix("settings.")) for name in names]
    labels = {"fanova": "fANOVA", "ped_anova": "PED-ANOVA"}
    for kind, color in (("fanova", palette.ARM_COLORS[0]), ("ped_anova", palette.ARM_COLORS[2])):
        figure.add_bar(
            x=[found[kind].get(name, 0.0) for name in names],
            y=short,
            name=labels[kind],
            orientation="h",
            marker={"color": color},
            hovertemplate=f"{labels[kind]} %{{x:.2f}}<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(range=[0, 1], tickformat=".1f", title_text="relative importance, sum 1")
    parts = ", ".join(f"{n.removeprefix('settings.')} {found['fanova'][n]:.2f}" for n in names)
    alt = f"Importance of {arm}'s parameters by fANOVA: {parts}."
    title = "What mattered: fANOVA (blue), PED-ANOVA (green)"
    return [panel(f"study-{key}-importance", title, alt, figure, 90 + 34 * len(names))]


def _map(key: str, arm: str, facts: Json) -> list[Panel]:
    """Draw the loss over the two parameters that mattered most, where both are numbers."""
    ranked = sorted(facts["importances"].get("fanova", {}).items(), key=lambda item: -item[1])
    names = [name for name, _ in ranked if facts["space"][name]["type"] != "choice"][:2]
    if len(names) < 2:
        return []
    figure, done = go.Figure(), _done(facts)
    x, y = ([t["params"][name] for t in done] for name in names)
    columns, rows = sorted(set(x)), sorted(set(y))
    cells: list[list[float | None]] = [[None] * len(columns) for _ in rows]
    for trial, right, up in zip(done, x, y, strict=True):
        cells[rows.index(up)][columns.index(right)] = trial["values"][0]
    figure.add_contour(
        x=columns,
        y=rows,
        z=cells,
        connectgaps=True,
        colorscale="Cividis",
        reversescale=True,
        colorbar={"thickness": 10, "tickformat": ".2f"},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"size": 6, "color": "#FFFFFF", "line": {"width": 1, "color": "#222222"}},
        text=[_told(t) for t in done],
        hovertemplate="%{text}<extra></extra>",
    )
    short = [name.removeprefix("settings.") for name in names]
    _axis(figure.update_xaxes, facts["space"][names[0]], short[0])
    _axis(figure.update_yaxes, facts["space"][names[1]], short[1])
    alt = f"Tuning loss of {arm} over {short[0]} and {short[1]}; interpolated between trials."
    title = f"{short[0]} and {short[1]} together (interpolated between trials)"
    return [panel(f"study-{key}-map", title, alt, figure, 280)]


def _costs(key: str, arm: str, facts: Json) -> Panel:
    """Draw loss against overhead: the front is what nothing else is below in both."""
    figure, done = go.Figure(), _done(facts)
    seconds = [_overhead(t) for t in done]
    _dots(figure, seconds, done, DONE)
    front = [t for number in facts["front"] for t in done if t["number"] == number]
    figure.add_scatter(
        x=[_overhead(t) for t in front],
        y=[t["values"][0] for t in front],
        mode="lines+markers",
        line={"color": BEST, "shape": "hv"},
        marker={"size": 8},
        text=[_told(t) for t in front],
        hovertemplate="%{text}<extra>front</extra>",
    )
    figure.update_xaxes(title_text="overhead, seconds per seed", rangemode="tozero")
    figure.update_yaxes(tickformat=".2f", nticks=6)
    parts = "; ".join(f"{_overhead(t):.2f} s {t['values'][0]:.3f}" for t in front)
    alt = f"Tuning loss of {arm} against overhead. On the front: {parts}."
    return panel(f"study-{key}-pareto", "Loss and overhead (line: the front)", alt, figure, 230)


def _overhead(trial: Json) -> float:
    return float(trial["facts"]["overhead_seconds"] / len(trial["facts"]["seeds"]))


def _dots(figure: go.Figure, x: list[Any], trials: list[Json], color: str) -> None:
    figure.add_scatter(
        x=x,
        y=[t["values"][0] for t in trials],
        mode="markers",
        marker={"size": 7, "color": color, "opacity": 0.75},
        text=[_told(t) for t in trials],
        hovertemplate="%{text}<extra></extra>",
    )


def _place(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _axis(update: Any, space: Json, title: str) -> None:
    if space["type"] == "choice":
        update(type="category", title_text=title)
    elif space["log"]:
        update(type="log", title_text=title, dtick="D2", tickformat="~g")
    elif space["type"] == "int" and space["high"] - space["low"] < 8:
        update(title_text=title, dtick=1)
    else:
        update(title_text=title, nticks=6)


def _told(trial: Json) -> str:
    parts = [f"trial {trial['number']}: {trial['values'][0]:.4f}"]
    for name, value in trial["params"].items():
        parts.append(f"{name.removeprefix('settings.')} {shown(value)}")
    return "<br>".join(notation.plain(part) for part in parts)
