"""Where numbers come from: machines and versions, corpora and licences, run ids."""

from __future__ import annotations

import json
import math
from typing import Any

from reports import notation, tables
from reports.load import MAIN, Evidence

_SPLITS = ("train", "probe", "tuning", "heldout")
_ENVIRONMENT = ("device", "device_name", "threads", "precision", "git_commit", "git_dirty")


def environment(evidence: Evidence) -> list[tuple[str, list[str]]]:
    """List what the runs ran on; more than one value of an entry means a mixed ablation."""
    found: dict[str, list[str]] = {}
    for header in evidence.run_headers.values():
        facts = {
            "parameters": notation.whole(header.get("num_parameters", math.nan)),
            "tokens per step": notation.whole(header.get("tokens_per_step", math.nan)),
            **{key.replace("_", " "): header.get(key) for key in _ENVIRONMENT},
            **(header.get("versions") or {}),
        }
        for key, value in facts.items():
            values = found.setdefault(key, [])
            if str(value) not in values:
                values.append(str(value))
    return list(found.items())


def corpus(evidence: Evidence) -> list[dict[str, Any]]:
    """List each domain's licence, source and sizes as far as the corpus manifest tells them."""
    path = evidence.out_dir / "corpora" / str(evidence.header.get("corpus_id")) / "manifest.json"
    try:
        domains = json.loads(path.read_bytes())["domains"]
        return [_corpus_row(domain, entry) for domain, entry in domains.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # a report must not depend on a cache that may have been cleared


def _corpus_row(domain: str, entry: dict[str, Any]) -> dict[str, Any]:
    splits = entry.get("splits") or {}
    licence = entry.get("license") or ""
    package = [str(entry[key]) for key in ("package", "version") if entry.get(key)]
    return {
        "domain": domain,
        "license": ", ".join(licence) if isinstance(licence, list) else str(licence),
        "source": " ".join(package) or str(entry.get("kind", "")),
        "splits": [(split, splits.get(split) or {}) for split in _SPLITS],
    }


def run_ids(evidence: Evidence) -> list[tuple[str, list[tuple[int, list[tuple[str, str]]]]]]:
    """Nest the runs behind the numbers: arm, then seed, then (role, run id).

    A main run's role is "", since a plan may call an auxiliary one by any word. What a control
    looks at is another arm's and stands there with its roles; here it is named.
    """
    table = tables.run_ids_table(evidence)
    table["role"] = table["role"].mask(table["kind"] == MAIN, "")
    nested = []
    for arm, rows in table.groupby("arm", sort=False):
        cells = {run["seed"]: run for run in evidence.header["arms"][str(arm)]["runs"]}
        seeds = [
            (
                int(seed),
                [
                    *zip(runs["role"], runs["run_id"], strict=True),
                    *(("another arm's", run_id) for run_id in cells[int(seed)].get("shown") or ()),
                ],
            )
            for seed, runs in rows.groupby("seed")
        ]
        nested.append((str(arm), seeds))
    return nested
