"""Marks that the forms of several files share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


def positional(name: str) -> Any:
    """Return the marks of an argument without a flag, shown as `name` in help and complaints."""
    return tyro.conf.Positional, tyro.conf.arg(metavar=name)


ONCE_EACH: Any = tyro.conf.UseAppendAction
"""The mark of an option that is given once for each of its values."""
Spec = Annotated[Path, *positional("SPEC")]
Folder = Annotated[Path, *positional("DIR")]
WandbMode = Literal["online", "offline", "disabled"]
