"""One store to be: what it is of, its digest, and what it needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.attribution.normalize import NEEDS_SELF, SELF_KINDS
from harness.attribution.score_checks import check_modules
from harness.attribution.scorers import LEARNING, Chosen, choose, factors_decisions, factors_key
from harness.attribution.store import MODULES, SCORES, SELF, TOKENS
from harness.errors import SpecError
from harness.identity import code, digest, to_json
from harness.influence import low_rank, selection
from harness.influence.parts import Detail, module_names
from harness.rng import generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.attribution.opened import Opened
    from harness.attribution.places import Places
    from harness.attribution.rows import Pool, Queries
    from harness.attribution.score_spec import Scoring
    from harness.attribution.spec import Attribution


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that decides a store's numbers, before any of them is computed."""

    opened: Opened
    whole: Pool
    """Every train row: what factors are fitted on."""
    pool: Pool
    """The rows that are scored."""
    queries: Queries
    spec: Attribution
    options: Scoring
    """[scores], without what the estimator cannot do."""
    chosen: Chosen
    detail: tuple[Detail, ...]
    places: Places
    identity: dict[str, Any]

    @property
    def key(self) -> str:
        """16 hex digits that name the store."""
        return digest(self.identity)

    @property
    def folder(self) -> Path:
        """Where the store lies."""
        return self.places.scores(self.key)

    @property
    def module_names(self) -> list[str]:
        """The M modules of the parts; none where they are not asked for."""
        if "modules" not in self.detail:
            return []
        of = self.chosen.estimator
        model = self.opened.view.model
        return module_names(selection.choose(model, of.modules, of.last_blocks, of.biases))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What each array on disk is to hold."""
        rows, queries = len(self.pool), len(self.queries)
        shapes: dict[str, tuple[int, ...]] = {SCORES: (rows, queries)}
        if "modules" in self.detail:
            shapes[MODULES] = (rows, queries, len(self.module_names))
        if "tokens" in self.detail:
            shapes[TOKENS] = (rows, queries, self.row_tokens)
        if self.options.self_influence:
            shapes[SELF] = (rows,)
        return shapes

    @property
    def row_tokens(self) -> int:
        """T of a train row."""
        return int(self.pool.batch([0]).targets.shape[1])


def plan(
    opened: Opened,
    pool: Pool,
    queries: Queries,
    spec: Attribution,
    label: str,
    places: Places,
    say: Callable[[str], None] = lambda _: None,
) -> Job:
    """Return the job of one label; SpecError where it cannot be done. Nothing is computed."""
    if not len(pool) or not len(queries):
        raise SpecError(f"scores: {len(pool)} train rows and {len(queries)} queries; give some")
    chosen = choose(spec, label)
    check_modules(chosen, opened.view)
    options = _possible(spec.scores, chosen, say)
    scored = some_rows(pool, options.rows)
    detail: tuple[Detail, ...] = ()
    detail += ("modules",) if options.modules else ()
    detail += ("tokens",) if options.tokens else ()
    engine = [type(chosen.estimator).__module__, low_rank.__name__]
    if options.self_influence:
        engine.append("harness.attribution.score_self")
    identity = {
        "version": metadata.version("steelyard"),
        "torch": torch.__version__,
        "code": code(*engine),
        "weights": opened.model_id,
        "rows": scored.id,
        "queries": queries.id,
        "estimator": _settings(chosen),
        "factors": factors_key(opened, pool, spec, chosen),
        "decisions": factors_decisions(opened, pool, spec, chosen, places),
        "options": _deciding(options, chosen),
    }
    return Job(
        opened, pool, scored, queries, spec, options, chosen, detail, places, to_json(identity)
    )


def check_labels(spec: Attribution) -> None:
    """Refuse settings that any one label cannot follow; SpecError. Nothing is opened.

    Else the labels before it would be scored, or a model trained, by the time it is told.
    """
    for label in spec.scores.estimators:
        _possible(spec.scores, choose(spec, label), lambda _: None)


def some_rows(pool: Pool, count: int | None) -> Pool:
    """Return `count` rows of the pool in the pool's order, drawn by a key: more take in fewer."""
    if count is None or count >= len(pool):
        return pool
    order = torch.randperm(len(pool), generator=generator(0, "scored rows", len(pool)))
    return pool.only(order[:count].sort().values.numpy())


def _settings(chosen: Chosen) -> dict[str, Any]:
    settings = asdict(chosen.estimator)
    return {name: value for name, value in settings.items() if name not in ("chunk_rows", "detail")}


def _deciding(options: Scoring, chosen: Chosen) -> dict[str, Any]:
    names = ["rank", "modules", "tokens", "self_influence", "normalize", "store"]
    names += ["fit_rows"] if chosen.kind in LEARNING else []
    return {name: getattr(options, name) for name in names}


def _possible(options: Scoring, chosen: Chosen, say: Callable[[str], None]) -> Scoring:
    """Return the options without those that the estimator cannot follow, and say which."""
    kind = chosen.kind
    if options.normalize == "cosine" and kind == "grad_cos":
        told = f"{kind} is a cosine as it is, of the row's step and the query's gradient"
        say(f"{chosen.label}: normalize is left out; {told}")
        options = replace(options, normalize="none")
    if options.normalize in NEEDS_SELF and kind not in SELF_KINDS:
        what = f"scores.normalize: {options.normalize} needs scores of rows on themselves"
        raise SpecError(f"{what}, which {kind} (label {chosen.label!r}) has not; leave it out")
    if options.normalize in NEEDS_SELF:
        options = replace(options, self_influence=True)
    left_out: dict[str, Any] = {}
    if not chosen.is_hooked:
        left_out |= {n: False for n in ("modules", "tokens") if getattr(options, n)}
        left_out |= {"rank": None} if options.rank is not None else {}
    if options.self_influence and kind not in SELF_KINDS:
        left_out["self_influence"] = False
    for name in left_out:
        say(f"{chosen.label}: {name} is left out; {kind} has nothing of the kind")
    return replace(options, **left_out)
