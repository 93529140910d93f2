"""Everything that can be reached from an object by attributes: how fairness is proved.

The walk follows what a method could follow in ordinary code: attributes, slots and properties,
items, closures, defaults, partials, bound methods, the base of an array, and the module-level
names of this project's own modules. It does not follow stack frames or the file system.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch

OURS = ("harness", "baselines")
LEAVES = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)


def reachable(root: object) -> Iterator[Any]:
    """Yield `root` and everything behind it, each object once."""
    seen, stack = {}, [root]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value  # held, so that no id is used twice
        yield value
        if not isinstance(value, LEAVES):
            stack.extend(_neighbors(value))


def _neighbors(value: Any) -> Iterator[Any]:
    if isinstance(value, types.ModuleType):
        if _is_ours(value.__name__):
            yield from vars(value).values()
        return
    if isinstance(value, type):
        if _is_ours(value.__module__):
            yield from vars(value).values()
        return
    yield from getattr(value, "__dict__", {}).values()
    yield from _declared(value)
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, Collection) and not isinstance(value, torch.Tensor | np.ndarray):
        yield from value
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, types.FunctionType):
        yield from _behind(value)
    elif isinstance(value, types.GeneratorType):
        yield from value.gi_frame.f_locals.values() if value.gi_frame else ()
    elif isinstance(value, np.ndarray):
        yield value.base
    elif isinstance(value, memoryview):
        yield value.obj
    elif isinstance(value, torch.Tensor):
        yield from (value._base, value.grad if value.is_leaf else None)
    elif isinstance(value, weakref.ref):
        yield value()


def _declared(value: Any) -> Iterator[Any]:
    """Yield slots, and the properties of our own classes."""
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            yield getattr(value, slot, None)
        if _is_ours(cls.__module__):
            yield cls
            properties = (n for n, v in vars(cls).items() if isinstance(v, property))
            yield from (getattr(value, name) for name in properties)


def _behind(function: types.FunctionType) -> Iterator[Any]:
    """Yield what a function holds, and the module that it was written in."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    if _is_ours(function.__module__ or ""):
        yield from function.__globals__.values()


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in OURS


def arrays_that_show(root: object, secret: np.ndarray, tokens: int) -> list[Any]:
    """Return what shares memory with `secret`, or holds a copy of one of its first rows."""
    rows = [
        np.asarray(secret[i : i + tokens]).astype(np.int64).tobytes()
        for i in range(0, min(len(secret) - tokens, 8 * tokens), tokens)
    ]
    found = []
    for value in reachable(root):
        array = value.detach().cpu().numpy() if _is_integer_tensor(value) else value
        if not isinstance(array, np.ndarray):
            continue
        if np.may_share_memory(array, secret) or _holds(array, rows):
            found.append(value)
    return found


def _is_integer_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_floating_point() and not value.is_meta


def _holds(array: np.ndarray, rows: list[bytes]) -> bool:
    if array.dtype.kind not in "iu":
        return False
    content = np.ascontiguousarray(array).astype(np.int64).tobytes()
    return any(row in content for row in rows)


def numbers_in(root: object) -> set[float]:
    """Return every float that can be reached, those inside of tensors and arrays too."""
    found: set[float] = set()
    for value in reachable(root):
        if isinstance(value, float):
            found.add(value)
        elif isinstance(value, torch.Tensor) and value.is_floating_point() and not value.is_meta:
            found.update(value.detach().double().flatten().tolist())
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            found.update(value.astype(float).ravel().tolist())
    return found
