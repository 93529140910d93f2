"""`steelyard completion`: the shell script that completes commands and options, made by tyro."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from harness.arguments import parse


def script(form: Any, shell: str) -> str:
    """Return the completion script of `form` for bash or zsh."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parse(form, ["--tyro-print-completion", shell], prog="steelyard")
    # SPEC, PATHS and DIR are files: what tyro has no word for, the shell completes
    ours, files = "complete -F ", "complete -o bashdefault -o default -F "
    return printed.getvalue().rstrip().replace(ours, files)
