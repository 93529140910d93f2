"""From a study's best trials to a spec that compares them, on seeds that no trial has used.

The spec's own text is kept, comments and all; the name and the new arms are what changes. What was
written is read back and compared, so that an unusual spec is refused rather than misread.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from harness.errors import SpecError
from harness.files import whole_file
from harness.run_header import git_state
from harness.specfile import build_ablation
from sweeps.findings import best, eligible, front
from sweeps.space import nested
from sweeps.study import Row
from sweeps.studyfile import Study
from sweeps.tables import num_ended


def promote(study: Study, found: dict[str, list[Row]], command: Any, storage: str) -> list[str]:
    """Write the spec; return what to tell. SpecError where there is nothing to promote."""
    to: Path = command.to
    if to.exists() and not command.force:
        raise SpecError(f"--to: {to} exists; choose another path, or add --force")
    _check_equal(study, found, command.force)
    wanted = _wanted(study, command.trial)
    text = study.spec_path.read_text()
    raw = tomllib.loads(text)
    tables, expected = [], {**raw, "arms": {**raw["arms"]}, "name": f"{raw['name']}-tuned"}
    told = []
    for arm, rows in found.items():
        row = _chosen(study, arm, rows, wanted.get(arm))
        label = study.asked.arms[arm].promoted or f"{arm}_tuned"
        if label in raw["arms"]:
            where = f"{study.path}: arms.{arm}.promoted"
            raise SpecError(f"{where}: {label!r} is an arm of the spec already; choose another")
        settled = _merged(raw["arms"][arm], nested(row.params))
        settled["provenance"] = _provenance(study, arm, row, rows, storage)
        if study.ablation.arms[arm].settings.is_fixed:
            settled["control"] = True  # what any method has to beat, and no method itself
        expected["arms"][label] = settled
        tables.append(f"\n[arms.{label}]\n{_lines(settled)}")
        told.append(f"{label}: trial {row.number}, tuning loss {row.values[0]:.4f}")
    written = _extended(study, text, raw["name"], expected, "".join(tables))
    try:
        with whole_file(to) as file:
            file.write(written.encode())
    except OSError as error:
        raise SpecError(f"--to: {to} cannot be written: {error.strerror}") from None
    return [*told, f"wrote {to}; compare: steelyard run {to} --out {command.out}"]


def _extended(study: Study, text: str, name: str, expected: dict[str, Any], tables: str) -> str:
    """Return the spec's text under its new name, with the new arms; what it says is checked."""
    named = rf'(?m)^name\s*=\s*["\']{re.escape(name)}["\']'
    head, count = re.subn(named, f'name = "{expected["name"]}"', text, count=1)
    written = f"{head.rstrip()}\n\n# ---- from the study, by `steelyard study promote`\n{tables}"
    try:
        is_whole = count == 1 and tomllib.loads(written) == expected
    except tomllib.TOMLDecodeError:
        is_whole = False
    if not is_whole:
        raise SpecError(f"{study.spec_path}: its text cannot be extended; write the arms by hand")
    build_ablation(expected, study.spec_path, (), study.find_method)
    return written


def _check_equal(study: Study, found: dict[str, list[Row]], is_forced: bool) -> None:
    """Refuse arms of which one has had fewer trials than another: search is what is equal."""
    open_ = {arm: num_ended(rows) for arm, rows in found.items()}
    behind = {arm: done for arm, done in open_.items() if done < study.asked.trials}
    if behind and not is_forced:
        told = ", ".join(f"{arm} {done}" for arm, done in behind.items())
        raise SpecError(
            f"{study.path}: trials: {study.asked.trials} are for every arm, and some are still to "
            f"be done ({told}); go on with `study run`, or add --force"
        )


def _wanted(study: Study, given: tuple[str, ...]) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for one in given:
        arm, _, number = one.partition("=")
        if arm not in study.asked.arms or not number.isdecimal():
            raise SpecError(f"--trial: must be ARM=NUMBER of a tuned arm, got {one!r}")
        if arm in wanted:
            raise SpecError(f"--trial: {arm} is given twice; give each arm one trial")
        wanted[arm] = int(number)
    return wanted


def _chosen(study: Study, arm: str, rows: list[Row], number: int | None) -> Row:
    if number is not None:
        row = next((r for r in eligible(study, rows) if r.number == number), None)
        if row is None:
            why = "complete at every seed and within the study's constraint"
            raise SpecError(f"--trial: {arm} has no trial {number} that is {why}")
        return row
    if study.asked.overhead:
        front_ = ", ".join(str(row.number) for row in front(study, rows))
        raise SpecError(
            f"{arm}: two objectives have no one best; choose from its front by "
            f"--trial {arm}=NUMBER ({front_})"
        )
    row = best(study, rows)
    if row is None:
        raise SpecError(f"{arm}: no trial has completed at every seed; go on with `study run`")
    return row


def _provenance(study: Study, arm: str, row: Row, rows: list[Row], storage: str) -> dict[str, Any]:
    """Return where an arm's settings come from, and the seeds that it may not be compared on."""
    commit, dirty = git_state()
    return {
        "study": study.asked.name,
        "arm": arm,
        "trial": row.number,
        "trials": num_ended(rows),
        "tuning_loss": row.values[0],
        "seeds": sorted(row.facts["seeds"]),
        "run_ids": row.facts["run_ids"],
        "storage": storage,
        "commit": f"{commit or 'unknown'}{' (changed)' if dirty else ''}",
    }


def _merged(table: Any, change: Any) -> Any:
    if not isinstance(table, dict) or not isinstance(change, dict):
        return change
    return {**table, **{key: _merged(table.get(key), change[key]) for key in change}}


def _lines(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: Any) -> str:
    """Return a value as TOML on one line; JSON's strings, numbers and lists are TOML's too."""
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
