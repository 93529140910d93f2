"""Write numbers the same way in every table: three decimals for losses, units in words.

A typographic minus is as wide as a plus, so columns of signed numbers line up.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"


def bits(value: float) -> str:
    """Write a loss (bits per byte or nats per token) with three decimals."""
    return NONE if _is_missing(value) else f"{value:.3f}"


def signed(value: float) -> str:
    """Write a difference with its sign and three decimals."""
    return NONE if _is_missing(value) else f"{value:+.3f}".replace("-", MINUS)


def interval(low: float, high: float) -> str:
    """Write an interval of differences; nothing where there is none."""
    return "" if _is_missing(low) else f"[{signed(low)}, {signed(high)}]"


def percent(value: float) -> str:
    """Write a share given in percent: one decimal below ten."""
    if _is_missing(value):
        return NONE
    return f"{value:.1f}%" if 0 < abs(value) < 9.95 else f"{value:.0f}%"


def share(value: float) -> str:
    """Write a fraction that may be negative or above 1, in whole percent."""
    return NONE if _is_missing(value) else f"{100 * value:.0f}%".replace("-", MINUS)


def share_interval(low: float, high: float) -> str:
    """Write an interval of fractions; nothing where there is none."""
    return "" if _is_missing(low) else f"[{share(low)}, {share(high)}]"


def p_value(value: float) -> str:
    """Write a p value with three significant digits, or as a bound below .0001."""
    if _is_missing(value):
        return NONE
    return f"{value:.3g}" if value >= 1e-4 else "< 0.0001"


def power(row: Mapping[str, Any]) -> str:
    """Write what a row of the arms table could have shown, and what it would take; or nothing."""
    parts = []
    if not _is_missing(row["detectable"]):
        found = f"find a difference of {bits(row['detectable'])} in four of five repetitions"
        parts.append(f"{row['num_pairs']} seeds of this spread {found}")
    if not _is_missing(row["wished_seeds"]):
        noun = "one" if parts else "with this spread, a difference"
        wished, seeds = bits(row["wished_effect"]), whole(row["wished_seeds"])
        parts.append(f"{noun} of {wished} would need {seeds} seeds")
    return "; ".join(parts)


def seconds(value: float) -> str:
    """Write a duration in seconds, minutes or hours."""
    if _is_missing(value):
        return NONE
    if value < 120:
        return f"{value:.1f} s" if value >= 0.95 else f"{value:.2g} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def quantity(value: float) -> str:
    """Write a count with an SI prefix and three significant digits, as in 1.25 T."""
    if _is_missing(value):
        return NONE
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            scaled = value / 10**power
            digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
            return f"{scaled:.{digits}f} {prefix}"
    return f"{value:g}"


def whole(value: float) -> str:
    """Write a count with thousands separators."""
    return NONE if _is_missing(value) else f"{value:,.0f}"


def times(value: float) -> str:
    """Write how often something was repeated."""
    return NONE if _is_missing(value) else f"{value:.2f}"


def correlation(value: float) -> str:
    """Write a correlation with three decimals."""
    return NONE if _is_missing(value) else f"{value:.3f}".replace("-", MINUS)


def listed(names: list[str]) -> str:
    """Join names as in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plain(text: str) -> str:
    """Escape a user's text for plotly, which reads labels as a small HTML."""
    return html.escape(text, quote=False)


def short(text: str, width: int = 18) -> str:
    """Cut a label in its middle, for an axis: ends tell labels of one family apart."""
    if len(text) <= width:
        return text
    half = (width - 1) // 2
    return f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


def _is_missing(value: float | None) -> bool:
    return value is None or math.isnan(value)
