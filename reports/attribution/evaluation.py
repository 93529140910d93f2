"""The page of an evaluation: how far attribution can be trusted, and how good the models are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import SpecError
from harness.files import read_json
from reports import pages
from reports.attribution import evaluation_figures as figures
from reports.attribution import evaluation_words as words
from reports.attribution import judgements, model_judgements, removal
from reports.attribution.evaluation_figures import Dot
from reports.figures import Panel

INDEX = "index.json"
PAGE = "evaluation.html"

Section = dict[str, Any]


def read(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the index of an evaluation and its current parts; SpecError where there is none."""
    index = read_json(folder / INDEX)
    if index is None:
        raise SpecError(f"{folder}: no evaluation here; run steelyard attribute evaluate")
    return index, {part: read_json(folder / name) for part, name in index["parts"].items()}


def write(folder: Path, out: Path) -> Path:
    """Write OUT/evaluation.html of the evaluation in `folder`; return its path."""
    index, parts = read(folder)
    keys = figures.colors(
        [*index["estimators"], *index["baselines"], "loss"], [*index["baselines"], "loss"]
    )
    sections = {
        part: {**SECTIONS[part](found, index, keys), "masked": words.of_masks(found)}
        for part, found in parts.items()
    }
    panels = [panel for section in sections.values() for panel in section["panels"]]
    context = {
        "index": index,
        "other_step": words.of_step(index),
        "measured": parts,
        "sections": sections,
        "keys": keys,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / PAGE
    pages.write(path, pages.html("evaluation.html.jinja", context, panels))
    return path


def summary(folder: Path) -> list[str]:
    """Return what the evaluation says, a line each, for a terminal."""
    index, parts = read(folder)
    lines = [words.of_step(index)] if words.of_step(index) else []
    for part, found in parts.items():
        lines += [f"{part}: {line}" for line in words.of_masks(found)]
        lines += [f"{part}: {line}" for line in LINES[part](found, index)]
    return lines


def _dot(label: str, estimate: Any, index: dict[str, Any]) -> Dot:
    return Dot(label, estimate, label in index["baselines"] or label == "loss")


def _subsets(found: Any, index: dict[str, Any], keys: dict[str, str]) -> Section:
    agreed = judgements.datamodelling(found, index["baselines"])
    rows = [_dot(row.label, row.score, index) for row in agreed.rows]
    title = "Linear datamodelling score"
    panel = figures.dots(
        "lds", title, "rank correlation", rows, keys, agreed.ceiling, "a perfect prediction"
    )
    return {
        "agreed": agreed,
        "panels": [panel, *_one_query(found, agreed, index, keys)],
        "statements": words.of_subsets(agreed, index["estimators"]),
    }


def _one_query(
    found: Any, agreed: judgements.Agreed, index: dict[str, Any], keys: dict[str, str]
) -> list[Panel]:
    """Draw the query of the median score of the estimator that scores highest."""
    own = [row.label for row in agreed.rows if row.label in index["estimators"]]
    if not own:
        return []
    scores = agreed.queries[own[0]]
    query = int(np.argsort(scores)[len(scores) // 2])
    losses = np.array(found["losses"]).mean(0)[:, query]
    sums = np.array(found["sums"][own[0]])[:, query]
    gone = found.get("masked_queries", [])
    name = [name for name in index["queries"] if name not in gone][query]
    return [figures.predicted(sums, losses, own[0], name, keys[own[0]])]


def _removal(found: Any, index: dict[str, Any], keys: dict[str, str]) -> Section:
    left = removal.removal(found)
    rows = [_dot(row.label, row.beyond, index) for row in left.rows]
    axis = "rise beyond random groups, nats a token"
    panel = figures.dots("removal", "Without the top rows", axis, rows, keys)
    shared = words.of_shared(left, len(found["queries"]))
    return {
        "left": left,
        "panels": [panel],
        "statements": words.of_removal(left),
        "shared": shared,
    }


def _patches(found: Any, index: dict[str, Any], keys: dict[str, str]) -> Section:
    rows = judgements.tail_patch(found)
    drawn = [_dot(row.label, row.beyond, index) for row in rows]
    axis = "gain beyond random rows, nats a token"
    panel = figures.dots("tail-patch", "One step on the top rows", axis, drawn, keys)
    return {"rows": rows, "panels": [panel], "statements": words.of_patches(rows)}


def _detection(found: Any, index: dict[str, Any], keys: dict[str, str]) -> Section:
    rows = judgements.mislabelled(found)
    panels = [figures.found_wrong(rows, keys)]
    return {"rows": rows, "panels": panels, "statements": words.of_detection(rows)}


def _tracing(found: Any, index: dict[str, Any], keys: dict[str, str]) -> Section:
    rows = judgements.planted(found)
    drawn = [_dot(row.label, row.reciprocal, index) for row in rows]
    panel = figures.dots("planted", "Planted facts", "mean reciprocal rank", drawn, keys)
    return {"rows": rows, "panels": [panel], "statements": words.of_tracing(rows)}


def _answers(found: Any, index: dict[str, Any], keys: dict[str, str]) -> Section:
    table = model_judgements.answers(found)
    return {"table": table, "metrics": model_judgements.METRICS, "panels": [], "statements": []}


def _choice(found: Any, index: dict[str, Any], keys: dict[str, str]) -> Section:
    rows = model_judgements.choices(found)
    cuts = words.of_cuts(rows, len(found["subjects"]), found["shots"])
    return {"rows": rows, "cuts": cuts, "panels": [], "statements": []}


SECTIONS = {
    "lds": _subsets,
    "removal": _removal,
    "tail_patch": _patches,
    "mislabelled": _detection,
    "planted": _tracing,
    "answers": _answers,
    "choice": _choice,
}


def _interval(estimate: Any) -> str:
    if estimate.low != estimate.low:
        return f"{estimate.value:.3f} (too few for an interval)"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _subset_lines(found: Any, index: dict[str, Any]) -> list[str]:
    agreed = judgements.datamodelling(found, index["baselines"])
    lines = [f"{row.label} {_interval(row.score)}" for row in agreed.rows]
    if agreed.agreement is not None:
        told = f"two replicas agree by {_interval(agreed.agreement)}"
        lines.append(f"{told}; a perfect prediction would score {agreed.ceiling:.3f}")
    return lines


def _removal_lines(found: Any, index: dict[str, Any]) -> list[str]:
    left = removal.removal(found)
    lines = [f"{row.label} {_interval(row.beyond)} beyond random groups" for row in left.rows]
    return [*lines, *words.of_shared(left, len(found["queries"]))]


def _patch_lines(found: Any, index: dict[str, Any]) -> list[str]:
    rows = judgements.tail_patch(found)
    return [f"{row.label} {_interval(row.beyond)} beyond random rows" for row in rows]


def _detection_lines(found: Any, index: dict[str, Any]) -> list[str]:
    rows = judgements.mislabelled(found)
    return [f"{row.label} AUC {_interval(row.auc)}, recall {row.recall:.3f}" for row in rows]


def _tracing_lines(found: Any, index: dict[str, Any]) -> list[str]:
    lines = []
    for row in judgements.planted(found):
        recalls = ", ".join(f"recall@{k} {r.value:.3f}" for k, r in row.recalls.items())
        lines.append(f"{row.label} MRR {_interval(row.reciprocal)}, {recalls}")
    return lines


def _answer_lines(found: Any, index: dict[str, Any]) -> list[str]:
    return [
        f"{model} " + ", ".join(f"{m} {v.mean:.3f} (SE {v.error:.3f})" for m, v in own.items())
        for model, own in model_judgements.answers(found).items()
    ]


def _choice_lines(found: Any, index: dict[str, Any]) -> list[str]:
    rows, size = model_judgements.choices(found), len(found["subjects"])
    lines = []
    for row in rows:
        cut = f", {row.cut} of {size} prompts cut" if row.cut else ""
        lines.append(f"{row.model} accuracy {row.all.mean:.3f} (SE {row.all.error:.3f}){cut}")
    return [*lines, *words.of_cuts(rows, size, found["shots"])]


LINES = {
    "lds": _subset_lines,
    "removal": _removal_lines,
    "tail_patch": _patch_lines,
    "mislabelled": _detection_lines,
    "planted": _tracing_lines,
    "answers": _answer_lines,
    "choice": _choice_lines,
}
