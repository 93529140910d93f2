"""The arms table for a paper: LaTeX with booktabs, every text of a user escaped."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from reports import notation

_NONE = "--"
_SPECIAL = {letter: f"\\{letter}" for letter in "&%$#_{}"}
_SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}


def arms_table(context: dict[str, Any]) -> str:
    """Return a table environment that needs the package booktabs; `context` is the report's."""
    rows, header = context["arms"], context["header"]
    primary = {"target": "Target", "mean": "Mean", "worst": "Worst"}
    star = {metric: "*" if metric == context["primary"] else "" for metric in primary}
    frame = pd.DataFrame(
        {
            "Arm": [escaped(row["arm"]) for row in rows],
            **{
                f"{name}{star[metric]}": [_number(row[metric]) for row in rows]
                for metric, name in primary.items()
            },
            "Difference* [95\\% interval]": [
                _difference(row, "difference", "low", "high") for row in rows
            ],
            "At equal compute": [
                _difference(row, "equal_difference", "equal_low", "equal_high") for row in rows
            ],
            "Overhead": [_percent(row["overhead_flops_percent"]) for row in rows],
            "Seeds": [f"{row['num_seeds']}/{row['declared_seeds']}" for row in rows],
            "Verdict": [escaped(row["verdict"]) for row in rows],
        }
    )
    table: str = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="l" + "r" * 7 + "l",
        position="t",
        position_float="centering",
        caption=_caption(context),
        label=f"tab:{''.join(c if c.isalnum() else '-' for c in context['name'])}",
    )
    command = " ".join(str(header["command"]).split())
    return f"% \\usepackage{{booktabs}}\n% {command}\n{table}"


def _caption(context: dict[str, Any]) -> str:
    baseline = escaped(context["header"]["baseline"])
    return (
        f"{escaped(context['title'])}: held-out bits per byte, mean over finished seeds. *Primary: "
        f"{escaped(context['primary_name'])}; difference = arm $-$ {baseline}, paired by seed, "
        "negative is better. At equal compute, overhead counts; descriptive. Overhead in \\% of "
        "training FLOPs, auxiliary runs included."
    )


def escaped(text: str) -> str:
    """Return a user's text as LaTeX prints it, on one line."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(str(text).split()))


def _number(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"${value:+.3f}$"


def _difference(row: dict[str, Any], mean: str, low: str, high: str) -> str:
    if math.isnan(row[mean]):
        return _NONE
    interval = "" if math.isnan(row[low]) else f" [{_signed(row[low])}, {_signed(row[high])}]"
    return _signed(row[mean]) + interval


def _percent(value: float) -> str:
    return _NONE if math.isnan(value) else notation.percent(value).replace("%", "\\%")
