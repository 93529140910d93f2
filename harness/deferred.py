"""Import modules that say `import torch` without importing torch until they use it.

Importing torch takes seconds, and a misspelt key in a spec must be answered within one. Methods
are ordinary files with `import torch` on top, and reading their settings needs no tensor. So the
command line imports steelyard's own methods while a stand-in goes by that name; the first attribute
that anyone asks of it imports the real package. The stand-in leaves sys.modules at once, since
libraries look there to learn whether torch is in use. A user's methods are imported plainly: what
they do with torch on top of a file is their business.
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
        if attribute == "__path__":
            # no package: `import torch.nn` fails at once, where half an import would crash later
            raise AttributeError(attribute)
        self.step_aside()
        return getattr(importlib.import_module(self.__name__), attribute)

    def step_aside(self) -> None:
        """Leave the name to the real package."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Let `import name` bind a stand-in inside the block, unless it is already imported."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None:
        yield
        return
    module = _Deferred(name)
    module.__spec__ = spec
    sys.modules[name] = module
    try:
        yield
    finally:
        module.step_aside()
