"""What an arm differs in from the baseline, and no more: what a reader of a long spec looks for."""

from __future__ import annotations

import json
from typing import Any

from reports.columns import Json
from reports.load import Evidence

_ARM = ("data_seed",)
"""What an arm may set beside its method and settings that changes its runs."""


def differences(evidence: Evidence) -> dict[str, list[tuple[str, str]]]:
    """Return what each arm differs from the baseline in, as (key, value), by label.

    With the baseline's method: the settings whose values differ. With another: the method, and the
    settings that are not its defaults; all of them where a file of before does not say which.
    """
    arms = evidence.header["arms"]
    baseline = arms[evidence.header["baseline"]]
    return {label: _of(arm, baseline) for label, arm in arms.items() if arm is not baseline}


def _of(arm: Json, baseline: Json) -> list[tuple[str, str]]:
    settings, theirs = arm.get("settings") or {}, baseline.get("settings") or {}
    if arm["method"] == baseline["method"]:
        found = [(k, _shown(v)) for k, v in settings.items() if v != theirs.get(k)]
    else:
        changed = arm.get("changed", settings)
        found = [("method", arm["method"]), *((k, _shown(v)) for k, v in changed.items())]
    found += [(k, _shown(arm[k])) for k in _ARM if arm.get(k) != baseline.get(k)]
    origin = arm.get("provenance")
    if origin:
        found.append(("chosen by", f"study {origin['study']}, trial {origin['trial']}"))
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
