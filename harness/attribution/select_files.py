"""The files of a selected training set: a domain's rows or its tiers, held-back splits, a spec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.attribution import select_spec
from harness.attribution.store import Row, write_lines
from harness.files import whole_file

if TYPE_CHECKING:
    from harness.attribution.opened import Opened
    from harness.attribution.select import Selecting

HELD_BACK = ("probe", "tuning", "heldout")
Pick = tuple[str, int]  # domain, row inside it


def write_rows(
    to: Path,
    kept: dict[Pick, float],
    worth: dict[Pick, float],
    rows: dict[Pick, Row],
    options: Selecting,
    opened: Opened | None,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Write a file per domain, or per tier; return facts by new domain, and sampling weights."""
    domains = sorted({domain for domain, _ in kept})
    files: dict[str, dict[str, Any]] = {}
    sampling: dict[str, float] = {}
    whole = sum(kept.values())
    for domain in domains:
        own = [pick for pick in kept if pick[0] == domain]
        for name, some in _tiers(domain, own, kept, options).items():
            alone = len(domains) == 1 and name == domain
            path = to if alone else to.with_stem(f"{to.stem}-{name}")
            texts = (_line(pick, kept, worth, rows, options, opened) for pick in some)
            has_prompt = _write_texts(path, texts)
            facts = {"path": path, "domain": domain, "rows": len(some), "prompt": has_prompt}
            files[name] = facts
            sampling[name] = sum(kept[pick] for pick in some) / whole
    return files, sampling if options.weights is not None else {}


def _tiers(
    domain: str, own: list[Pick], kept: dict[Pick, float], options: Selecting
) -> dict[str, list[Pick]]:
    if options.weights is None:
        return {domain: own}
    ordered = sorted(own, key=lambda pick: -kept[pick])
    parts = np.array_split(np.arange(len(ordered)), min(options.tiers, len(ordered)))
    return {f"{domain}-tier{n}": [ordered[i] for i in part] for n, part in enumerate(parts, 1)}


def _line(
    pick: Pick,
    kept: dict[Pick, float],
    worth: dict[Pick, float],
    rows: dict[Pick, Row],
    options: Selecting,
    opened: Opened | None,
) -> dict[str, Any]:
    if opened is None:
        prompt, answer = rows[pick].prompt, rows[pick].answer
    else:
        prompt, answer = select_spec.document(opened, "train", *pick)
    value = worth[pick]
    facts: dict[str, Any] = {"domain": pick[0], "row": pick[1]}
    facts["value"] = round(value, 6) if value == value else None
    if options.weights is not None:
        facts["weight"] = round(kept[pick], 6)
    return {"prompt": prompt, "answer": answer, **facts}


def _write_texts(path: Path, lines: Iterator[dict[str, Any]]) -> bool:
    """Write lines in columns prompt and answer, or text where no line has a prompt."""
    every = list(lines)
    has_prompt = any(line["prompt"] for line in every)
    if not has_prompt:
        every = [
            {
                "text": line["answer"],
                **{k: v for k, v in line.items() if k not in ("prompt", "answer")},
            }
            for line in every
        ]
    write_lines(path, every)
    return has_prompt


def write_held_back(
    to: Path, domains: list[str], opened: Opened
) -> dict[str, dict[str, dict[str, Any]]]:
    """Write the other splits of the kept domains; return their files by domain and split."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for domain in domains:
        for split in HELD_BACK:
            count = select_spec.num_documents(opened, split, domain)
            pairs = (select_spec.document(opened, split, domain, i) for i in range(count))
            lines = [{"prompt": p, "answer": a} for p, a in pairs if p + a]
            if lines:
                path = to.with_stem(f"{to.stem}-{domain}.{split}")
                has_prompt = _write_texts(path, iter(lines))
                facts = {"path": path, "rows": len(lines), "prompt": has_prompt}
                found.setdefault(domain, {})[split] = facts
    return found


def write_spec(
    to: Path,
    files: dict[str, dict[str, Any]],
    held_back: dict[str, dict[str, dict[str, Any]]],
    sampling: dict[str, float],
) -> None:
    """Write the [domains] that read all of it."""
    provenance = to.with_suffix(".provenance.json").name
    text = select_spec.spec_text(files, held_back, sampling, provenance)
    with whole_file(to.with_suffix(".toml")) as file:
        file.write(text.encode())
