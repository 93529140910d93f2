"""Every part of an evaluation, found or measured, and the file that says which are current.

A part is one JSON file named by the digest of all that it depends on, so that a changed option
repeats the parts that it is about and no other, and a corrected estimator all that it is judged in;
retrainings are runs of their own, and are found. What it reads is told by its content, wherever it
lies. Inside of a part, retrainings and their losses are found one by one: what is killed goes on
where it was.

    parts/PART-KEY.json   numbers as they were measured, without statistics
    losses/QUERIES/RUN.json   mean loss of each query under one retraining
    index.json            which files a report shows: the parts asked for, and those that were
                          measured before with the same options
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.attribution.evaluation import (
    baselines,
    choosing,
    mislabelled,
    models,
    planted,
    removal,
    side_by_side,
    subsets,
    tail_patch,
)
from harness.attribution.evaluation.answers import room_for_prompts
from harness.attribution.evaluation.judged import Found, Judged
from harness.attribution.evaluation.scoring import Stores
from harness.errors import SpecError
from harness.files import write_json
from harness.identity import code, digest, to_json

if TYPE_CHECKING:
    from pathlib import Path

    from harness.attribution.evaluate_spec import Part
    from harness.attribution.evaluation.judged import Say, Scorer
    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.progress import Progress
    from harness.attribution.rows import Pool, Queries
    from harness.attribution.spec import Attribution

INDEX = "index.json"
# Of a part's file; raise it whenever equal options give other numbers.
FORMATS: dict[Part, int] = {"choice": 2, "planted": 2}

MEASURES: dict[Part, Callable[[Judged], Found]] = {
    "lds": subsets.measure,
    "removal": removal.measure,
    "tail_patch": tail_patch.measure,
    "mislabelled": mislabelled.measure,
    "planted": planted.measure,
    "answers": side_by_side.measure,
    "choice": choosing.measure,
}
# Options that a part depends on, beside the run, its rows, the queries, and the seed of draws.
OPTIONS: dict[Part, tuple[str, ...]] = {
    "lds": ("baselines", "subsets", "share", "replicas", "order"),
    "removal": ("baselines", "removed", "groups", "removal_queries", "replicas", "order"),
    "tail_patch": ("baselines", "patched", "patch_rate"),
    "mislabelled": ("mislabelled",),
    "planted": ("baselines", "facts", "copies"),
    "answers": ("prompts", "max_new_tokens", "runs"),
    "choice": ("choice", "runs", "lm_eval"),
}
ON_QUERIES = ("lds", "removal", "tail_patch", "answers")  # parts that look at the run's queries
UNSCORED = ("choice",)  # parts that no estimator plays a part in


def evaluate(
    opened: Opened,
    pool: Pool,
    queries: Queries,
    spec: Attribution,
    places: Places,
    progress: Progress,
    say: Say,
    scorer: Scorer | None = None,
) -> Path:
    """Measure every part that the spec asks for; return the folder of their files.

    `scorer` gives estimators' scores; by default from their stores, which are made if need be.
    """
    if scorer is None:
        scorer = Stores(spec, places, progress, say)
    judged = Judged(opened, pool, queries, spec, places, progress, say, scorer)
    labels = {"estimators": judged.estimators, "baselines": judged.baselines}
    folder = places.evaluation
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    _check(judged)
    paths = {part: _path(judged, part) for part in dict.fromkeys(spec.evaluate.parts)}
    _check_scores(judged, [part for part, path in paths.items() if not path.exists()])
    for part, path in paths.items():
        if path.exists():
            say(f"{part}: found measured ({path.stem.removeprefix(f'{part}-')})")
        else:
            paths[part] = _measure(judged, part)
    paths |= _before(judged)
    about = {
        "name": spec.name,
        "run_id": opened.run_id,
        "checkpoint": opened.checkpoint,
        "model_id": opened.model_id,
        "step": opened.view.step,
        "num_steps": opened.spec.num_steps,
        "rows": len(pool),
        "queries": list(queries.names),
        **labels,
    }
    shown = {part: str(paths[part].relative_to(folder)) for part in MEASURES if part in paths}
    write_json(folder / INDEX, {**about, "parts": shown})
    return folder


def _path(judged: Judged, part: Part) -> Path:
    """Return a part's file."""
    return _named(judged, part, part_key(judged, part))


def _named(judged: Judged, part: Part, key: str) -> Path:
    return judged.places.evaluation / "parts" / f"{part}-{key}.json"


def _measure(judged: Judged, part: Part) -> Path:
    """Measure a part; return its file, named by what it has come to depend on.

    Factors that were fitted on the way may have left out rows, which the key tells as well.
    """
    started = time.perf_counter()
    found = _measured(judged, part)
    seconds = round(time.perf_counter() - started, 3)
    key = part_key(judged, part)
    path = _named(judged, part, key)
    write_json(path, {"part": part, "key": key, "seconds": seconds, **found})
    return path


def _before(judged: Judged) -> dict[Part, Path]:
    """Return the parts that are not asked for now and that these options were measured on."""
    found: dict[Part, Path] = {}
    for part in MEASURES:
        there = (judged.places.evaluation / "parts").glob(f"{part}-*.json")
        if part in judged.options.parts or not any(there):
            continue
        try:
            path = _path(judged, part)
        except SpecError as error:  # it reads files or runs that are gone; nobody has asked for it
            judged.say(f"{part}: measured before, not shown: {error}")
            continue
        if path.exists():
            judged.say(f"{part}: measured before, shown too")
            found[part] = path
    return found


def _measured(judged: Judged, part: Part) -> Found:
    """Return what a part measures, and what it had to leave out since it was masked."""
    if part not in ON_QUERIES:
        return MEASURES[part](judged)
    known = judged.known()
    left = [name for name in judged.queries.names if name not in known.queries.names]
    if left:
        judged.say(f"{part}: without {len(left)} queries that an estimator has masked")
    found = MEASURES[part](known)
    return {"masked_queries": left, "masked_rows": known.masked(), **found}


def _check(judged: Judged) -> None:
    """Refuse what a part cannot do before any part takes its time."""
    options = judged.options
    if {"answers", "choice"} & set(options.parts):
        models.names(judged)
    if "answers" in options.parts:
        room_for_prompts(judged.opened.view.model, options.max_new_tokens)
    if "choice" in options.parts:
        _ = judged.questions  # read
    if "mislabelled" in options.parts:
        mislabelled.wrong_answers(judged.pool, options.mislabelled, options.seed)


def _check_scores(judged: Judged, parts: list[Part]) -> None:
    """Refuse labels that the parts left to measure cannot be scored by, before one of them is."""
    if any("baselines" in OPTIONS[part] for part in parts) and "bm25" in judged.baselines:
        baselines.import_bm25s()
    if any(part in ON_QUERIES for part in parts):  # others score a run that they train first
        for label in judged.asked:
            judged.scorer.check(label, judged.opened, judged.pool, judged.queries)


def part_key(judged: Judged, part: Part) -> str:
    """Return the digest of all that a part depends on."""
    options, opened, spec = judged.options, judged.opened, judged.spec
    content: Found = {
        "format": FORMATS.get(part, 1),
        "part": part,
        "run": [opened.run_id, opened.checkpoint, opened.model_id],
        "pool": judged.pool.id,
        "queries": judged.queries.id,
        "seed": options.seed,
        "options": {name: to_json(getattr(options, name)) for name in OPTIONS[part]},
    }
    if part not in UNSCORED:
        what = opened, judged.pool, judged.queries
        content["estimators"] = [
            [label, judged.scorer.identity(label, *what)] for label in judged.asked
        ]
        content["scores"] = to_json([spec.scores, spec.factors])
        if spec.scores.on_nonfinite == "mask":
            content["masked"] = "is unknown"  # it once stood for 0
    if "baselines" in OPTIONS[part]:
        content["baselines"] = code(baselines.__name__)
    if "runs" in OPTIONS[part]:  # a run is what it was trained as, and not where it lies
        content["options"]["runs"] = models.names(judged)
    if part == "choice" and options.choice is not None:  # not where the questions came from
        asked = {"questions": digest(judged.questions), "shots": options.choice.shots}
        content["options"]["choice"] = asked
    return digest(to_json(content))
