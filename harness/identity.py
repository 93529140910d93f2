"""What makes two runs the same run: a hash of what they ask for and of the code that answers.

Whatever changes bits has to be in it, or a stale result is taken for a new one; whatever changes
none should not be, or everything is trained again for a comment.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from dataclasses import fields
from functools import cache
from importlib.abc import InspectLoader
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.api import Mixer


def describe(mixer: Mixer) -> dict[str, Any]:
    """Return a mixer's identity: its class, its settings and a digest of the code behind it."""
    cls = type(mixer)
    settings = {f.name: getattr(mixer, f.name) for f in fields(mixer)}
    return {
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "settings": {name: _plain(value) for name, value in settings.items()},
        "code": _code(cls.__module__),
    }


def _plain(setting: Any) -> Any:
    """Return a setting as JSON values; mixers in it, of other arms, by their identity."""
    if isinstance(setting, Mixer):
        return describe(setting)
    if isinstance(setting, list | tuple):
        return [_plain(part) for part in setting]
    if isinstance(setting, dict):
        return {to_json(key): _plain(part) for key, part in setting.items()}
    return to_json(setting)


def code(*modules: str) -> str:
    """Return a digest of modules and of what they import from the engine, for other keys."""
    return digest({module: _code(module) for module in modules})


@cache  # read once, near the import: a file that is edited later is not what runs
def _code(module: str) -> str:
    """Return a digest of a method's module and of what it imports from its package and the engine.

    Comments, docstrings and line breaks are left out, so that a better sentence re-runs nothing.
    What has been imported so far plays no part: it differs between a parent and its workers.
    """
    package, trees, waiting = module.split(".")[0], {}, [module]
    while waiting:
        name = waiting.pop()
        source = _source(name) if name not in trees else None
        if source is not None:
            trees[name] = tree = ast.parse(source)
            waiting += _imports(tree, name, package)
    return digest({name: _without_docstrings(tree) for name, tree in trees.items()})


def _source(name: str) -> str | None:
    """Return a module's source; None for what is no module of Python's, such as a class in one."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if isinstance(spec.loader, InspectLoader):
        return spec.loader.get_source(name)
    # a loader of another kind, such as pytest's for test modules
    is_file = spec.origin is not None and spec.origin.endswith(".py")
    return Path(str(spec.origin)).read_text() if is_file else None


def _imports(tree: ast.Module, importer: str, package: str) -> list[str]:
    """Return what a module imports of a method's code: all that may be the name of a module."""
    spec = importlib.util.find_spec(importer)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, spec.parent if spec else None)
            found.append(base)
            # asking for the module `base.Name` would import `base`, and what that imports
            if _is_method_code(base, package) and _is_package(base):
                found += [f"{base}.{alias.name}" for alias in node.names]
    return [name for name in found if _is_method_code(name, package)]


def _is_package(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.submodule_search_locations is not None


def _is_method_code(name: str, package: str) -> bool:
    # what a method's numbers depend on; the rest of the harness goes by its version
    return name.startswith(("harness.domains", "harness.influence")) or (
        name.split(".")[0] == package and package != "harness"
    )


def _without_docstrings(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = node.body[ast.get_docstring(node, clean=False) is not None :]
    return ast.dump(tree)


def digest(value: Any) -> str:
    """Return 16 hex digits of a JSON value, or of a text."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def to_json(value: Any) -> Any:
    """Return a value as plain JSON values."""
    return TypeAdapter(Any).dump_python(value, mode="json")
