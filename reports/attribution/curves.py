"""The page of a fine-tuning: losses, learning rate, speed and memory, and what they say."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from harness.files import read_json
from harness.records import HEADER, RECORDS, best_step, read_records, tuning_losses
from reports import pages
from reports.attribution import learning
from reports.figures import Panel, panel

TRAINING, VALIDATION, QUIET = "#2f6fb0", "#c2571a", "#8a8a8a"
KEYS = [
    {"label": "training, each step faint", "color": TRAINING, "dash": "none"},
    {"label": "validation, ringed where attributed", "color": VALIDATION, "dash": "none"},
]
MAX_POINTS = 2000


def write(run: Path, looks: Path, out: Path, name: str, chosen: int) -> Path:
    """Write OUT/curves.html of the finished run in the folder `run`; return its path.

    `chosen` is the step whose checkpoint is attributed, `looks` the log of memory, if there is one.
    """
    header, records = read_json(run / HEADER), read_records(run / RECORDS)
    steps = [record for record in records if record["kind"] == "step"]
    validation = tuning_losses(records, tuple(header["domains"]))
    told = [step for step in steps if _has_target(step)]
    panels = [
        _losses(told or steps, validation, chosen),
        _rate(steps),
        *_speed(steps, header["spec"]["batch"]["rows"]),
        *_memory(_looks(looks)),
    ]
    context: dict[str, Any] = {
        "name": name,
        "header": header,
        "chosen": chosen,
        "best": best_step(validation),
        "validation": validation,
        "facts": learning.summary(header, validation),
        "readings": _read(steps, validation),
        "warnings": header.get("warnings") or [],
        "panels": panels,
        "keys": KEYS,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "curves.html"
    pages.write(path, pages.html("curves.html.jinja", context, panels))
    return path


def readings(run: Path) -> list[str]:
    """Return the sentences of the page, for a terminal."""
    header, records = read_json(run / HEADER), read_records(run / RECORDS)
    steps = [record for record in records if record["kind"] == "step"]
    return _read(steps, tuning_losses(records, tuple(header["domains"])))


def _read(steps: list[dict[str, Any]], validation: dict[int, float]) -> list[str]:
    told = [step for step in steps if _has_target(step)]
    silent = f"{len(steps) - len(told)} of {len(steps)} steps had no target in their batch"
    found = [f"Steps: {silent}, taught nothing and are left out here."]
    if not told:
        return found
    losses = [step["loss"] for step in told]
    read = learning.oscillation(losses, [step["lr"] for step in told])
    sentences = [read.text, learning.overfitting(validation, losses).text]
    return sentences if len(told) == len(steps) else found + sentences


def _has_target(step: dict[str, Any]) -> bool:
    """Tell whether any target of the step's batch counted; else no domain has a loss."""
    return any(loss is not None for loss in step["domain_losses"])


def _looks(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    last = {look["step"]: look for look in found}  # a run that was resumed takes steps again
    return [last[step] for step in sorted(last)]


def _thinned(count: int) -> np.ndarray[Any, Any]:
    """Return which of `count` points to draw."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).astype(int))


def _losses(steps: list[dict[str, Any]], validation: dict[int, float], chosen: int) -> Panel:
    losses = np.array([step["loss"] for step in steps])
    at = np.array([step["step"] for step in steps])
    width = max(1, len(losses) // 50)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    drawn, figure = _thinned(len(losses)), go.Figure()
    figure.add_scatter(
        x=at[drawn].tolist(),
        y=losses[drawn].round(4).tolist(),
        mode="lines",
        line={"color": TRAINING, "width": 1},
        opacity=0.3,
        hoverinfo="skip",
    )
    kept = _thinned(len(smooth))
    figure.add_scatter(
        x=at[width - 1 :][kept].tolist(),
        y=smooth[kept].round(4).tolist(),
        name=f"training, mean of {width} steps" if width > 1 else "training",
        mode="lines",
        line={"color": TRAINING, "width": 2},
        hovertemplate="%{y:.3f}",
    )
    figure.add_scatter(
        x=list(validation),
        y=[round(value, 4) for value in validation.values()],
        name="validation",
        mode="lines+markers",
        line={"color": VALIDATION, "width": 2},
        hovertemplate="%{y:.3f}",
    )
    if chosen in validation:
        figure.add_scatter(
            x=[chosen],
            y=[round(validation[chosen], 4)],
            name="attributed",
            mode="markers",
            marker={"size": 13, "symbol": "circle-open", "color": VALIDATION},
            hovertemplate=f"step {chosen} is attributed<extra></extra>",
        )
    figure.update_layout(hovermode="x unified")
    figure.update_xaxes(title_text="step", rangemode="tozero")
    if losses.min() > 0 and losses.max() > 10 * losses.min():
        figure.update_yaxes(type="log")
    first, last = losses[:width].mean(), losses[-width:].mean()
    alt = f"Training loss from {first:.3f} to {last:.3f} nats per token"
    if validation:
        values = list(validation.values())
        alt += f"; validation from {values[0]:.3f} to {values[-1]:.3f}, lowest {min(values):.3f}"
    return panel("losses", "Loss, nats per token", f"{alt}.", figure, 320)


def _line(name: str, title: str, x: list[Any], y: list[Any], alt: str, fmt: str) -> Panel:
    figure = go.Figure()
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": QUIET, "width": 2},
        hovertemplate=f"step %{{x}}: %{{y:{fmt}}}<extra></extra>",
    )
    figure.update_xaxes(title_text="step", rangemode="tozero")
    figure.update_yaxes(rangemode="tozero", tickformat=fmt)
    return panel(name, title, alt, figure, 220)


def _rate(steps: list[dict[str, Any]]) -> Panel:
    drawn = _thinned(len(steps))
    x = [steps[i]["step"] for i in drawn]
    y = [steps[i]["lr"] for i in drawn]
    alt = f"Learning rate: highest {max(y):.3g}, last {y[-1]:.3g}."
    return _line("rate", "Learning rate", x, y, alt, ".2~e")


def _speed(steps: list[dict[str, Any]], rows: int) -> list[Panel]:
    """Draw training rows per second over stretches of steps, by the training account's clock."""
    width = max(1, len(steps) // 40)
    ends = steps[::width]
    pairs = [(a, b) for a, b in pairwise(ends) if b["seconds"] > a["seconds"]]
    if len(pairs) < 2:
        return []
    speed = [(b["step"] - a["step"]) * rows / (b["seconds"] - a["seconds"]) for a, b in pairs]
    alt = f"Training rows per second: median {float(np.median(speed)):.3g}."
    x = [b["step"] for _, b in pairs]
    return [_line("speed", "Rows per second", x, [round(v, 3) for v in speed], alt, ".3~s")]


def _memory(looks: list[dict[str, Any]]) -> list[Panel]:
    if len(looks) < 2:
        return []
    drawn = [looks[i] for i in _thinned(len(looks))]
    y = [look["bytes"] for look in drawn]
    alt = f"Memory held: from {y[0] / 1e9:.2f} to {max(y) / 1e9:.2f} GB."
    return [_line("memory", "Memory held, bytes", [look["step"] for look in drawn], y, alt, ".3~s")]
