"""The user's mistake, told apart from ours.

A `SpecError` is shown as it is, without a traceback, so its message has to carry everything. The
price is that it may only be raised where the user can do something about it: what is broken in the
harness itself stays an assertion, with its traceback.
"""

from __future__ import annotations


class SpecError(ValueError):
    """What a user asked for cannot be done.

    The message is one line: what is wrong, where, the value, and the fix. The command line prints
    it and exits with status 2.
    """
