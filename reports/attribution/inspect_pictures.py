"""Pictures of factors, drawn once: as PNG files on white paper, and inside the page in its colors.

The page's copy is an SVG whose inks are the page's own variables, so that it follows a light or
dark screen and runs no script. The price is that nothing can be zoomed; the numbers are in words
and in a table beside it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.errors import SpecError
from reports.attribution.inspect_words import power_of_ten
from reports.attribution.spectra import SEED_RIDGE, SHARES, Spectrum
from reports.pictures import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inks of the drawing, and the page's variables for them.
INK, SOFT, RULE = "#1b1f24", "#5a6470", "#d9dee4"
PAGE_INKS = {INK: "var(--ink)", SOFT: "var(--soft)", RULE: "var(--rule)"}
COLORS = ("#2f6fb0", "#c2571a", "#2a8a6a", "#9a5ba5", "#b0891a", "#6a6a6a")
SIZE = (4.4, 3.1)  # inches: no wider than a phone's screen at 96 dots
MARGINS = {"left": 0.15, "right": 0.975, "bottom": 0.15, "top": 0.965}
DEEPEST = 1e-12  # of the largest value: what is smaller is drawn as if it were nothing


class Picture(NamedTuple):
    """One picture, drawn."""

    name: str
    title: str
    alt: str
    svg: str
    """For the page."""
    png: bytes


def prepare(folder: Path) -> None:
    """Import matplotlib, its cache in `folder`; SpecError where it is not installed."""
    try:
        import_matplotlib(folder)
    except ImportError:
        fix = 'pip install "steelyard[report]"'
        raise SpecError(f"matplotlib is not installed, which draws the pictures; {fix}") from None


def of_module(found: Spectrum, fitted_with: float) -> Iterator[Picture]:
    """Yield the pictures of one module."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", found.module)
    out, size = found.shape
    yield _picture(
        f"{stem}.lambda",
        _matrix_name(found),
        f"Heatmap of {out} by {size} eigenvalues, brighter is larger, on a log scale.",
        lambda axes, figure: _heatmap(axes, figure, found),
    )
    yield _picture(
        f"{stem}.sorted",
        "Sorted eigenvalues",
        f"Sorted from {found.smallest:.2g} to {found.largest:.2g}; damping at {found.damping:.2g}.",
        lambda axes, _: _sorted(axes, found),
    )
    yield _picture(
        f"{stem}.cumulative",
        "Cumulative variance",
        "Share of the sum against the share of directions, largest first: "
        + ", ".join(f"{s:.0%} by {n}" for s, n in zip(SHARES, found.reach, strict=True)),
        lambda axes, _: _cumulative(axes, found),
    )
    if found.inputs is not None and found.gradients is not None:
        yield _picture(
            f"{stem}.covariances",
            "Covariances, and a ridge on the trace",
            "Sorted eigenvalues of both covariances, and what a share of the trace makes of them.",
            lambda axes, _: _ridges(axes, found, fitted_with or SEED_RIDGE),
        )


def _matrix_name(found: Spectrum) -> str:
    if found.inputs is None:
        return "Mean squared gradients"
    return "Lambda matrix" if found.ridged is None else "Products of both spectra"


def across(found: list[Spectrum]) -> Iterator[Picture]:
    """Yield one picture for each figure that modules are compared by."""
    for name, title, of, is_log in (
        ("stable_rank", "Stable rank", lambda s: s.stable_rank, True),
        ("condition", "Condition number, damped", lambda s: s.condition_damped, True),
        ("damped", "Share of damped directions", lambda s: s.damped, False),
        ("reach", "Share of directions with 90% of the sum",
         lambda s: s.reach[1] / s.directions, True),
    ):  # fmt: skip
        values = [of(s) for s in found]
        yield _picture(
            f"across.{name}",
            title,
            f"{title} by layer: from {min(values):.3g} to {max(values):.3g}.",
            lambda axes, _, of=of, is_log=is_log: _by_layer(axes, found, of, is_log),
        )


def _picture(name: str, title: str, alt: str, draw: Callable[[Axes, Figure], None]) -> Picture:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9.0,
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "axes.edgecolor": SOFT,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "grid.color": RULE,
        "legend.edgecolor": RULE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": mpl.cycler(color=COLORS),
    }
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        figure = Figure(figsize=SIZE)
        figure.subplots_adjust(**MARGINS)
        draw(figure.add_subplot(), figure)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None}, transparent=True)
        figure.savefig(png, format="png", dpi=160, facecolor="white")
    return Picture(name, title, alt, _for_page(svg.getvalue(), name, alt), png.getvalue())


def _for_page(text: str, name: str, alt: str) -> str:
    """Return the SVG element in the page's inks, with names of its own and its description."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for ink, variable in PAGE_INKS.items():
        text = text.replace(ink, variable)
    prefix = re.sub(r"\W", "-", name)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\1{prefix}-", text)
    spoken = alt.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    head = re.match(r"<svg [^>]*>", text)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head[0])
    assert box is not None
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening = f'<svg {namespaces} {box[0]} role="img" aria-label="{spoken}" class="drawn">'
    return opening + text[head.end() :]


def _heatmap(axes: Axes, figure: Figure, found: Spectrum) -> None:
    from matplotlib.colors import LogNorm

    heat = found.heat
    top = float(heat.max())
    positive = heat[heat > DEEPEST * top]
    norm = LogNorm(vmin=float(positive.min()), vmax=top) if positive.min() < top else None
    out, size = found.shape
    image = axes.imshow(
        np.maximum(heat, positive.min()),
        norm=norm,
        cmap="viridis",
        aspect="auto",
        interpolation="nearest",
        extent=(0, size, out, 0),
    )
    rotated = found.inputs is not None
    axes.set_xlabel("inputs, eigenvalue rising →" if rotated else "inputs")
    axes.set_ylabel("← rising, output gradients" if rotated else "outputs")
    figure.subplots_adjust(right=0.9)  # room for the bar's labels
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.outline.set_visible(False)  # type: ignore[operator]
    if norm is not None:
        bar.set_ticks(_decades(float(positive.min()), top))
        bar.ax.yaxis.set_major_formatter(_power)
        bar.ax.minorticks_off()


def _symlog(axes: Axes, values: Any) -> None:
    """Make the y axis a log one down to the smallest value, or to nothing, and linear around 0."""
    largest = float(values.max())
    around = max(DEEPEST * largest, float(values[values > 0].min()) / 10)
    axes.set_yscale("symlog", linthresh=around, linscale=0.3)
    axes.set_ylim(bottom=min(0.0, float(values.min())))
    axes.set_yticks([0.0, *_decades(around, largest)])
    axes.yaxis.set_major_formatter(_power)
    axes.minorticks_off()


def _decades(low: float, high: float) -> list[float]:
    """Return at most 6 powers of ten between two numbers, evenly spaced."""
    first, last = np.ceil(np.log10(low)), np.floor(np.log10(high))
    step = max(1, int(np.ceil((last - first) / 5)))
    return [float(10.0**e) for e in np.arange(last, first - 0.5, -step)[::-1]]


def _power(value: float, _: Any = None) -> str:
    """Write a power of ten, or a number between two."""
    if value == 0:
        return "0"
    exponent = np.log10(abs(value))
    if abs(exponent - round(exponent)) > 1e-6 or -3 < exponent < 4:
        return f"{value:g}"
    return ("-" if value < 0 else "") + power_of_ten(round(exponent))


def _sorted(axes: Axes, found: Spectrum) -> None:
    x = found.ranks / max(1, found.directions - 1)
    axes.plot(x, found.values, lw=1.8, label="eigenvalues")
    axes.axhline(found.damping, color=COLORS[1], lw=1.2, ls="--", label="damping")
    _symlog(axes, found.values)
    axes.set_xlabel("share of directions, smallest first")
    axes.grid(axis="y", lw=0.6)
    axes.legend(frameon=False, loc="upper left")


def _cumulative(axes: Axes, found: Spectrum) -> None:
    held = np.concatenate([[0.0], found.held])
    share = np.concatenate([[0.0], found.held_at]) / found.directions
    axes.plot(share, held, lw=1.8)
    for part, count in zip(SHARES, found.reach, strict=True):
        axes.plot(count / found.directions, part, "o", ms=4, color=COLORS[1])
        axes.annotate(
            f"{part:.0%}", (count / found.directions, part), (6, -9), textcoords="offset points"
        )
    axes.set_xlabel("share of directions, largest first")
    axes.set_ylabel("share of the sum")
    axes.set_ylim(0, 1.03)
    axes.grid(lw=0.6)


def _ridges(axes: Axes, found: Spectrum, share: float) -> None:
    sides = {"inputs": found.inputs, "output gradients": found.gradients}
    for color, (name, side) in zip(COLORS, sides.items(), strict=False):
        assert side is not None
        x = np.linspace(0, 1, len(side.values))
        axes.plot(x, side.values, color=color, lw=1.8, label=name)
        ridged = side.ridged(share)
        axes.plot(x, ridged, color=color, lw=1.2, ls=":", label=f"{share:.0%} of trace added")
    _symlog(axes, np.concatenate([s.values for s in sides.values() if s is not None]))
    axes.set_xlabel("share of directions, smallest first")
    axes.grid(axis="y", lw=0.6)
    axes.legend(frameon=False, fontsize=7.5, loc="lower right")


def _spans_decades(axes: Axes) -> bool:
    low, high = axes.get_ylim()
    return bool(high > 30 * low)


def _by_layer(
    axes: Axes, found: list[Spectrum], of: Callable[[Spectrum], float], is_log: bool
) -> None:
    from matplotlib.ticker import NullFormatter

    kinds = list(dict.fromkeys(s.kind for s in found))
    for kind in kinds:
        members = [s for s in found if s.kind == kind]
        x = [s.layer if s.layer is not None else found.index(s) for s in members]
        axes.plot(x, [of(s) for s in members], "o-", ms=4, lw=1.4, label=kind)
    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_power)
        axes.yaxis.set_minor_formatter(NullFormatter() if _spans_decades(axes) else _power)
    else:
        axes.set_ylim(0, 1.02)
    axes.set_xlabel("layer")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", lw=0.6)
    if len(kinds) <= len(COLORS):
        axes.legend(frameon=False, fontsize=7.5)
