"""The page's figures as SVG files, for Markdown, which runs no plotly.

They are drawn by matplotlib from the very specifications that the page draws, so that there is one
account of every number; only what our own figures use of plotly is understood. On white paper, in
fonts that a viewer has, with the figure's description as the title that a screen reader speaks.
"""

from __future__ import annotations

import html
import importlib
import io
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.figures import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = {"solid": "-", "dot": ":"}
_MARKERS = {"circle": "o", "diamond-open": "D", "square": "s", "square-open": "s"}
_MARKERS |= {"line-ns-open": "|"}
_HATCHES = {"": None, "/": "//", "x": "xx", ".": ".."}
_INCH = 96.0  # CSS pixels
_COLUMNS = 4  # of a legend


def import_matplotlib(folder: Path) -> None:
    """Import matplotlib with its font cache in `folder`, not in anyone's home; ImportError if none.

    MPLCONFIGDIR goes before, as everywhere.
    """
    if "matplotlib" in sys.modules or "MPLCONFIGDIR" in os.environ:
        importlib.import_module("matplotlib.font_manager")
        return
    os.environ["MPLCONFIGDIR"] = str(folder.resolve())
    try:
        importlib.import_module("matplotlib.font_manager")  # by now it has asked for its folder
    finally:
        del os.environ["MPLCONFIGDIR"]


def file_name(panel: Panel) -> str:
    """Return the name of a panel's file; a label may hold what a name may not."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", panel.id)
    return f"figure-{safe}.svg"


def svg(panel: Panel) -> str | None:
    """Return a panel as SVG, or None where it holds what is not drawn here.

    ImportError without matplotlib. What a user has set up for figures of their own plays no part.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    traces, layout = panel.spec["data"], panel.spec["layout"]
    if any(trace["type"] not in ("scatter", "bar") for trace in traces):
        return None
    style = {"svg.fonttype": "none", "svg.hashsalt": panel.id, "font.size": 9.0}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.6}
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        height = panel.height + 60
        figure = Figure(figsize=(600 / _INCH, height / _INCH))
        axes = figure.add_subplot()
        places = _rows(axes, layout)
        heights: dict[str, Any] = {}
        for trace in traces:
            _draw(axes, trace, places, heights)
        _arrange(axes, panel.title, layout)
        _legend(figure, axes, height, is_named=bool(places))
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return _spoken(content.getvalue(), panel.alt)


def _rows(axes: Axes, layout: dict[str, Any]) -> dict[str, int]:
    """Put names of arms on the y axis from the top down, where a figure has such an axis."""
    axis = layout.get("yaxis", {})
    if axis.get("type") != "category":
        return {}
    axes.set_yticks(range(len(axis["tickvals"])), [html.unescape(t) for t in axis["ticktext"]])
    axes.set_ylim(len(axis["tickvals"]) - 0.4, -0.6)
    return {name: place for place, name in enumerate(axis["tickvals"])}


def _draw(
    axes: Axes, trace: dict[str, Any], places: dict[str, int], heights: dict[str, Any]
) -> None:
    x, y = list(trace["x"]), [places.get(value, value) for value in trace["y"]]
    name = html.unescape(trace.get("name") or "")
    label = name if name else None
    if trace["type"] == "bar":
        left = [heights.get(place, 0.0) for place in y]
        axes.barh(y, x, 0.6, left=left, color=trace["marker"]["color"], label=label)
        heights |= {place: start + more for place, start, more in zip(y, left, x, strict=True)}
        return
    if trace.get("stackgroup"):
        below = heights.get("stack", [0.0] * len(y))
        above = [low + more for low, more in zip(below, y, strict=True)]
        hatch = _HATCHES[trace.get("fillpattern", {}).get("shape", "")]
        kind = {"step": "post", "linewidth": 0, "label": label, "hatch": hatch}
        axes.fill_between(x, below, above, color=trace["fillcolor"], **kind)
        heights["stack"] = above
        return
    if trace.get("fill") == "toself":
        color, opacity = _translucent(trace["fillcolor"])
        axes.fill(x, y, color=color, alpha=opacity, linewidth=0)
        return
    _line(axes, trace, x, y, label)


def _line(axes: Axes, trace: dict[str, Any], x: list[Any], y: list[Any], label: str | None) -> None:
    line, marker, mode = trace.get("line", {}), trace.get("marker", {}), trace["mode"]
    color = line.get("color") or marker.get("color")
    style: dict[str, Any] = {"color": color, "alpha": trace.get("opacity", 1.0), "label": label}
    style["linestyle"] = _dashes(line.get("dash", "solid")) if "lines" in mode else "none"
    style["linewidth"] = 0.8 * line.get("width", 2)
    style["drawstyle"] = "steps-post" if line.get("shape") == "hv" else "default"
    if "markers" in mode:
        symbol = marker.get("symbol", "circle")
        style |= {"marker": _MARKERS.get(symbol, "o"), "markersize": 0.7 * marker.get("size", 6)}
        if symbol.endswith("-open") and symbol != "line-ns-open":
            style["markerfacecolor"] = "none"
    axes.plot(x, y, **style)
    for key, direction in (("error_x", "xerr"), ("error_y", "yerr")):
        error = trace.get(key)
        if error and error["visible"]:
            spread = {direction: list(error["array"])}
            axes.errorbar(x, y, **spread, fmt="none", ecolor=color, elinewidth=1.6, capsize=3)


def _dashes(dash: str) -> Any:
    if dash in _DASHES:
        return _DASHES[dash]
    lengths = [float(part.removesuffix("px")) for part in dash.split(",")]
    return (0, tuple(lengths))


def _translucent(color: str) -> tuple[str, float]:
    """Return an rgba() of CSS as a color and its opacity."""
    *parts, opacity = color.removeprefix("rgba(").removesuffix(")").split(",")
    return "#" + "".join(f"{int(part):02x}" for part in parts), float(opacity)


def _arrange(axes: Axes, title: str, layout: dict[str, Any]) -> None:
    from matplotlib.ticker import EngFormatter, PercentFormatter

    horizontal, vertical = layout["xaxis"], layout["yaxis"]
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(horizontal.get("title", {}).get("text", ""))
    axes.grid(axis="x" if vertical.get("type") == "category" else "y", color="#d9dee4", lw=0.6)
    axes.set_axisbelow(True)
    if horizontal.get("type") == "log":
        axes.set_xscale("log")
        if "tickvals" in horizontal:
            low, high = axes.get_xlim()
            ticks = [t for t in horizontal["tickvals"] if low <= t <= high]
            axes.set_xticks(ticks, minor=False)
            axes.set_xticklabels([f"{t:g}" for t in ticks])
            axes.minorticks_off()
    elif horizontal.get("rangemode") == "tozero":
        axes.set_xlim(left=0)
    if "range" in horizontal:
        axes.set_xlim(*horizontal["range"])
    if max(axes.get_xlim()) >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if vertical.get("ticksuffix"):
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    if "range" in vertical:
        axes.set_ylim(*vertical["range"])
    for axis, number in ((horizontal, axes.axvline), (vertical, axes.axhline)):
        if axis.get("zeroline"):
            number(0, color="#5a6470", lw=0.8, zorder=0)


def _legend(figure: Figure, axes: Axes, height: float, *, is_named: bool) -> None:
    """Name the traces under the figure, and make room: a layout engine would draw all twice."""
    _, names = axes.get_legend_handles_labels()
    rows = math.ceil(len(names) / _COLUMNS) if len(names) > 1 else 0
    bottom = (50 + 17 * rows) / height
    figure.subplots_adjust(0.2 if is_named else 0.09, bottom, 0.98, 1 - 26 / height)
    if rows:
        figure.legend(loc="lower center", ncols=_COLUMNS, frameon=False, fontsize=8)


def _spoken(text: str, alt: str) -> str:
    """Describe an SVG to those who do not see it."""
    opening = text.index("<svg")
    end = text.index(">", opening)
    told = f' role="img" aria-label="{html.escape(" ".join(alt.split()))}"'
    return text[:end] + told + text[end:]
