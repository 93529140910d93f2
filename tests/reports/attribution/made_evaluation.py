"""An evaluation that was never measured: what is good in it is good by construction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

ESTIMATORS = ["good", "backwards"]
BASELINES = ["bm25", "random"]
LABELS = [*ESTIMATORS, *BASELINES]
QUERIES = [f"query-{i}" for i in range(12)]


def parts_made() -> dict[str, dict[str, Any]]:
    """Return every part, keyed."""
    generator = np.random.default_rng(3)
    size, subsets = len(QUERIES), 30
    truth = generator.normal(size=(subsets, size))
    losses = 2 - 0.1 * truth + 0.05 * generator.normal(size=(2, subsets, size))
    noise = generator.normal(size=(3, subsets, size))
    sums = {
        "good": truth + 0.3 * noise[0],
        "backwards": -truth,
        "bm25": 0.4 * truth + noise[1],
        "random": noise[2],
    }
    parts = {
        "lds": {
            "rows": 90,
            "share": 0.5,
            "order": "kept",
            "kept": [45] * subsets,
            "run_ids": [[f"{r}{s:015x}" for s in range(subsets)] for r in range(2)],
            "losses": losses.tolist(),
            "sums": {label: own.tolist() for label, own in sums.items()},
        },
        "removal": _removal(generator),
        "tail_patch": {
            "rows": 90,
            "patched": 8,
            "rate": 1e-3,
            "before": [2.0] * size,
            "gains": {
                label: (
                    0.1 + gain + (0.05 * generator.normal(size=size) if gain else 0)
                    + (0 if gain else np.tile([0.02, -0.02], size // 2))
                ).tolist()
                for label, gain in zip(LABELS, (0.2, -0.2, 0.1, 0.0), strict=True)
            },
            "control": [[0.1] * size] * 3,
        },
        "mislabelled": {
            "rows": 90,
            "run_id": "ab" * 8,
            "share": 0.1,
            "wrong": list(range(9)),
            "values": {
                "loss": (generator.normal(size=90) + 2 * (np.arange(90) < 9)).tolist(),
                "good": (generator.normal(size=90) + 3 * (np.arange(90) < 9)).tolist(),
            },
        },
        "planted": {
            "rows": 122,
            "facts": [{"name": f"N{i}", "place": f"P{i}"} for i in range(8)],
            "copies": 2,
            "run_id": "cd" * 8,
            "ranks": {
                label: generator.integers(1, high, (8, 2)).tolist()
                for label, high in zip(LABELS, (9, 122, 4, 122), strict=True)
            },
        },
        "answers": _answers(generator),
        "choice": {
            "models": ["base", "fine-tuned"],
            "shots": 0,
            "subjects": ["law"] * 20 + ["ethics"] * 10,
            "answered": {
                name: {"right": (generator.random(30) < p).astype(int).tolist(), "nats": [1.4] * 30,
                       "cut": 2}
                for name, p in (("base", 0.25), ("fine-tuned", 0.5))
            },
            "lm_eval": {"base": {"mmlu": {"acc": 0.25, "acc_stderr": 0.01}}},
        },
    }  # fmt: skip
    return {
        part: {"part": part, "key": f"{i:016x}", "seconds": 1.5, **found}
        for i, (part, found) in enumerate(parts.items())
    }


def _removal(generator: np.random.Generator) -> dict[str, Any]:
    size, groups = len(QUERIES), 10
    chosen = [0, 2, 4, 6, 8, 10]
    facts: list[dict[str, Any]] = [{"kind": "random", "label": None, "query": None}] * groups
    facts += [{"kind": "top", "label": label, "query": q} for label in LABELS for q in chosen]
    whole = np.full((2, size), 2.0)
    rise = 0.05 * generator.normal(size=(len(facts), size))
    for g, fact in enumerate(facts):
        if fact["label"] == "good":
            rise[g, fact["query"]] += 0.5
        if fact["label"] == "random":
            rise[g, fact["query"]] = rise[:groups, fact["query"]].mean() + 0.01 * (-1) ** g
    noise = 0.01 * generator.normal(size=rise.shape)
    return {
        "rows": 90,
        "removed": 8,
        "order": "kept",
        "groups": facts,
        "queries": chosen,
        "run_ids": [[f"{r}{g:015x}" for g in range(len(facts))] for r in range(2)],
        "whole_run_ids": ["01" * 8, "02" * 8],
        "whole": whole.tolist(),
        "losses": np.broadcast_to(2 + rise, (2, *rise.shape)).tolist(),
        "sums": {label: (rise + noise * (1 + 9 * i)).tolist() for i, label in enumerate(LABELS)},
    }


def _answers(generator: np.random.Generator) -> dict[str, Any]:
    metrics = ("exact", "f1", "rouge1", "rouge2", "rougeL")
    rows = []
    for i in range(6):
        behind = {
            "row": ["patents", i],
            "score": 0.1,
            "prompt": "an abstract",
            "answer": " a label",
        }
        rows.append(
            {
                "query": f"query-{i}",
                "prompt": "What is it? " * 30,
                "right": " a label",
                "answers": {"base": "<b>bold</b>", "fine-tuned": " a label"},
                "metrics": {
                    name: {m: float(generator.random() < p) for m in metrics}
                    for name, p in (("base", 0.2), ("fine-tuned", 0.7))
                },
                "rows": {"good": [behind] * 3},
            }
        )
    return {"models": ["base", "fine-tuned"], "generated": False, "continued": 0, "answers": rows}


def made(folder: Path, which: tuple[str, ...] = ()) -> Path:
    """Write the evaluation into `folder`, of some parts or of all; return its folder."""
    own, files = folder / "evaluation", {}
    (own / "parts").mkdir(parents=True)
    for part, found in parts_made().items():
        if not which or part in which:
            files[part] = f"parts/{part}-{found['key']}.json"
            (own / files[part]).write_text(json.dumps(found))
    index = {
        "name": "made",
        "run_id": "77" * 8,
        "checkpoint": "checkpoint.pt",
        "model_id": "99" * 8,
        "rows": 90,
        "queries": QUERIES,
        "estimators": ESTIMATORS,
        "baselines": BASELINES,
        "parts": files,
    }
    (own / "index.json").write_text(json.dumps(index))
    return own
