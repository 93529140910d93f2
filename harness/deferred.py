"""Import modules that say `import torch` without importing torch until they use it.

Importing torch takes seconds, and a misspelt key in a spec must be answered within one. Methods
are ordinary files with `import torch` on top, and reading their settings needs no tensor. So the
command line imports them while a stand-in goes by that name; the first attribute that anyone asks
of it imports the real package. `from torch import x` is such an ask: a user's method written that
way works the same, and starts slower. The stand-in leaves sys.modules at once, since libraries
look there to learn whether torch is in use.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    def __getattr__(self, attribute: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Let `import name` bind a stand-in inside the block, unless it is already imported."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None:
        yield
        return
    module = _Deferred(name)
    module.__spec__, module.__path__ = spec, list(spec.submodule_search_locations or ())
    sys.modules[name] = module
    try:
        yield
    finally:
        if sys.modules.get(name) is module:
            del sys.modules[name]
