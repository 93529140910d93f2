"""Options and help of the commands that attribute: `steelyard attribute ...`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from harness.form_marks import WandbMode, positional

SpecPath = Annotated[Path, *positional("SPEC")]


@dataclass(frozen=True, kw_only=True)
class _Staged:
    """What every stage takes."""

    spec: SpecPath
    """The attribution, a TOML file such as sweeps/attribution/demo.toml."""
    out: Path = Path("runs")
    """Folder of runs, corpora and attributions; it can be shared by many."""


@dataclass(frozen=True, kw_only=True)
class AttributeTrain(_Staged):
    """Fine-tune the model by the one loop, and choose the checkpoint to attribute.

    Finished training is found by its content, an interrupted one resumes. Any key of the spec can
    be overridden, here and in every stage: give the same ones to each.

    Example: steelyard attribute train sweeps/attribution/demo.toml --out runs/attribution
    """

    wandb_mode: WandbMode | None = None
    """Where W&B is a tracker; by default WANDB_MODE, else online if logged in, else offline."""


@dataclass(frozen=True, kw_only=True)
class AttributeFit(_Staged):
    """Fit the curvature (EKFAC and its kin) on training rows, stage by stage; it resumes.

    Example: steelyard attribute fit sweeps/attribution/demo.toml --out runs/attribution
    """

    on_nonfinite: Literal["error", "retry-float32", "more-damping", "mask"] | None = None
    """What follows NaN or infinity, in place of the spec's factors.on_nonfinite; recorded.
    Stages that use such factors have to allow it too: --factors.on-nonfinite."""


@dataclass(frozen=True, kw_only=True)
class AttributeInspect(_Staged):
    """Draw the fitted curvature and say in words what the pictures show.

    Example: steelyard attribute inspect sweeps/attribution/demo.toml --out runs/attribution
    """

    layers: tuple[str, ...] = ()
    """Regular expressions of module names; by default every fitted module."""


@dataclass(frozen=True, kw_only=True)
class AttributeScore(_Staged):
    """Score training rows for every query, with every estimator of the spec; it resumes.

    Positive: training on the row lowers the query's loss. What is computed and kept (a rank, parts
    by module or token, norms) are keys of [scores].

    Example: steelyard attribute score sweeps/attribution/demo.toml --out runs/attribution
    """

    on_nonfinite: Literal["error", "retry-float32", "more-damping", "mask"] | None = None
    """What follows NaN or infinity, in place of the spec's scores.on_nonfinite; recorded."""
    npz: bool = False
    """Also write LABEL-KEY.npz beside the pages, KEY the store's: `scores` [queries, rows], names
    and row numbers."""


@dataclass(frozen=True, kw_only=True)
class AttributeTop(_Staged):
    """Show the most helpful and most harmful rows per query, as a table and as a page.

    Example: steelyard attribute top sweeps/attribution/demo.toml --out runs/attribution --k 5
    """

    k: int = 5
    """Rows at either end."""
    estimator: tuple[str, ...] = ()
    """Labels of estimators to show, the first in the terminal too; by default all of them."""
    queries: tuple[str, ...] = ()
    """Queries to show in the terminal: regular expressions of names; by default the first three."""


@dataclass(frozen=True, kw_only=True)
class AttributeSelect(_Staged):
    """Write a filtered or reweighted training set, ready for the next run.

    A row's value is its mean score for the wanted queries less that for the unwanted ones, each
    query's in units of its standard deviation over rows. Beside the rows come the held-back splits,
    a spec's [domains] that reads them all, and where they are from. Set one of keep, drop, weights.

    Example: steelyard attribute select sweeps/attribution/demo.toml --keep .5 --to kept.jsonl
    """

    to: Path
    """The file to write, .jsonl; with several domains, one file each beside it."""
    keep: float | None = None
    """Share of the scored rows to keep, the most helpful ones."""
    drop: float | None = None
    """Share of the scored rows to leave out, the most harmful ones; 1 and above: their number."""
    weights: float | None = None
    """Weight rows by the softmax of their value at this temperature, in tiers that are sampled."""
    tiers: int = 4
    """Into so many files of equal size a domain is cut by weight."""
    estimator: tuple[str, ...] = ()
    """Labels whose scores are used, their mean; by default the first of the spec."""
    queries: tuple[str, ...] = ()
    """Wanted: regular expressions of query names; by default all that are not unwanted."""
    unwanted: tuple[str, ...] = ()
    """Regular expressions of the names of queries that show behaviour to be rid of."""


@dataclass(frozen=True, kw_only=True)
class AttributeEvaluate(_Staged):
    """Judge the attribution (retraining on subsets, ...) and the model (answers, benchmarks).

    The spec's [evaluate] says which parts; each is found when it was measured before, and resumes.

    Example: steelyard attribute evaluate sweeps/attribution/demo.toml --out runs/attribution
    """

    runs: tuple[str, ...] = ()
    """Folders of finished runs, such as an ablation's, whose answers and choices are judged too."""


@dataclass(frozen=True, kw_only=True)
class AttributeRun(_Staged):
    """Do every stage, one after the other, and print where the pages are.

    Example: steelyard attribute run sweeps/attribution/demo.toml --out runs/attribution
    """

    wandb_mode: WandbMode | None = None
    """As for train."""


Command = (
    AttributeTrain
    | AttributeFit
    | AttributeInspect
    | AttributeScore
    | AttributeTop
    | AttributeSelect
    | AttributeEvaluate
    | AttributeRun
)

GROUPS: dict[str, tuple[str, dict[str, type]]] = {
    "attribute": (
        "Which training rows made the model say so: fine-tune, fit, inspect, score, evaluate.",
        {
            "train": AttributeTrain,
            "fit": AttributeFit,
            "inspect": AttributeInspect,
            "score": AttributeScore,
            "top": AttributeTop,
            "select": AttributeSelect,
            "evaluate": AttributeEvaluate,
            "run": AttributeRun,
        },
    ),
}
