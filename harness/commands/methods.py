"""`steelyard methods`: what can be compared, from the methods' own docstrings and settings.

A method's module says in its docstring, after "Needs:", "Cost:", "Defaults:" and "Deviations:",
what a user has to know; there is no second place that could say something else.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.api import Mixer

SECTIONS = ("Needs", "Cost", "Defaults", "Deviations")
_NEXT = "|".join(SECTIONS)


def section(method: type, name: str) -> str:
    """Return what the docstring of a method's module says after `name`, on one line."""
    text = module_docstring(method)
    found = re.search(rf"\b{name}:\s(.*?)(?=\s(?:{_NEXT}):\s|\n\n|\Z)", text, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def papers(method: type) -> list[str]:
    """Return the arXiv numbers in the docstring, in order; the first is the method's own."""
    return list(dict.fromkeys(re.findall(r"arXiv:(\d{4}\.\d{5})", module_docstring(method))))


def module_docstring(method: type) -> str:
    """Return the docstring of the module in which a method is."""
    return inspect.getdoc(sys.modules[method.__module__]) or ""


def summary(method: type) -> str:
    """Return the first line of a method's own docstring."""
    return (inspect.getdoc(method) or "").partition("\n")[0]


def list_methods(methods: dict[str, type], console: Console) -> None:
    """Print a table of methods and one of controls."""
    for title, controls in (("methods", False), ("controls", True)):
        table = Table(title=title, title_justify="left", show_lines=console.width < 140)
        for column in ("name", "what it does", "arXiv", "needs", "costs"):
            table.add_column(column, overflow="fold", ratio=None if column == "name" else 1)
        table.columns[2].ratio, table.columns[2].min_width = None, 10
        for name, method in methods.items():
            if issubclass(method, Mixer) and method.is_control is controls:
                paper = next(iter(papers(method)), "")
                told = [_clause(section(method, part)) for part in ("Needs", "Cost")]
                table.add_row(Text(name, style="bold"), summary(method), paper, *told)
        console.print(table)
    console.print("steelyard methods NAME says how one works and lists its settings.")


def _clause(text: str) -> str:
    """Return what a section says before it goes into detail."""
    return re.split(r"[:.;] |\.$| \(", text)[0]


def describe_method(name: str, method: Any, console: Console) -> None:
    """Print a method's docstring and its settings; ValueError where it is none."""
    if not (isinstance(method, type) and issubclass(method, Mixer)):
        raise ValueError(f"{name!r} is no mixing method; give a subclass of harness.api.Mixer")
    text = module_docstring(method)
    if summary(method) and summary(method) not in text:
        text = f"{inspect.getdoc(method)}\n\n{text}"
    console.print(Text(text))
    told = documentation(method)
    table = Table(title=f"\nsettings of {name}", title_justify="left")
    for column in ("setting", "default", "what it is"):
        table.add_column(column, overflow="fold")
    for one in fields(method):
        table.add_row(one.name, Text(_default(one)), Text(told.get(one.name, "")))
    if table.row_count:
        console.print(table)


def documentation(method: type) -> dict[str, str]:
    """Return the strings that stand below a method's settings, inherited ones too."""
    told: dict[str, str] = {}
    for cls in reversed(method.__mro__[:-1]):
        told |= _below(sys.modules[cls.__module__], cls.__name__)
    return told


def _below(module: Any, name: str) -> dict[str, str]:
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):  # no source: a class made in an interpreter
        return {}
    body = [
        statement
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == name
        for statement in node.body
    ]
    told = {}
    for one, after in pairwise(body):
        match one, after:
            case (
                ast.AnnAssign(target=ast.Name(id=setting)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                told[setting] = " ".join(text.split())
    return told


def _default(one: Field[Any]) -> str:
    if one.default is not MISSING:
        return "unset" if one.default is None else repr(one.default)
    if one.default_factory is not MISSING:
        return repr(one.default_factory())
    return "required"
