"""Import modules that say `import torch` without importing torch until they use it.

Importing torch takes seconds, and a misspelt key in a spec must be answered within one. Methods
are ordinary files with `import torch` on top, and reading their settings needs no tensor. So the
command line imports them while a stand-in goes by that name; the first attribute that anyone asks
of it imports the real package. `from torch import x` and `import torch.nn` are such asks: a user's
method written that way works the same, and starts slower. The stand-in leaves sys.modules at once,
since libraries look there to learn whether torch is in use.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    def __getattr__(self, attribute: str) -> Any:
        self.step_aside()
        return getattr(importlib.import_module(self.__name__), attribute)

    def step_aside(self) -> None:
        """Leave the name to the real package."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


class _Submodules:
    """Finds submodules of a stand-in: by importing the real package, which is whole only then."""

    def __init__(self, stand_in: _Deferred) -> None:
        self.stand_in = stand_in
        self.real: dict[str, ModuleSpec | None] = {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package = self.stand_in.__name__
        if sys.modules.get(package) is self.stand_in and name.startswith(f"{package}."):
            return ModuleSpec(name, self)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.stand_in.step_aside()
        module = importlib.import_module(spec.name)
        self.real[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.real[module.__name__]  # it has run; importing put our own spec there


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Let `import name` bind a stand-in inside the block, unless it is already imported."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None:
        yield
        return
    module = _Deferred(name)
    module.__spec__, module.__path__ = spec, list(spec.submodule_search_locations or ())
    submodules = _Submodules(module)
    sys.modules[name] = module
    sys.meta_path.insert(0, submodules)
    try:
        yield
    finally:
        sys.meta_path.remove(submodules)
        module.step_aside()
