"""A study as its file says it: which arms of which spec are tuned, over what, on which seeds.

    name = "demo"
    spec = "../demo.toml"          # beside this file
    trials = 24                    # for every arm: nobody gets more tries than another
    seeds = [1000, 1001, 1002]     # of every trial; none of the spec's own

    [arms.influence]
    space = "../spaces/influence.toml"

The objective is a loss on the tuning set, and nothing held out is computed by a trial. Settings are
compared, after `promote`, on the spec's own seeds, which no trial has used.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from harness.api import Mixer
from harness.errors import SpecError
from harness.preflight import plain
from harness.spec import Ablation, Name, Seed
from harness.specfile import build_ablation, read_spec
from sweeps.space import Choice, Parameter, Space, Value, load_space, nested, validated

FindMethod = Callable[[str], type[Mixer]]
Count = Annotated[int, Field(strict=True, gt=0)]
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

OVER_STEPS = ("median", "hyperband")
"""Pruners that look at the learning curve of a trial's first seed."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Tuned:
    """One arm that is tuned: an Optuna study of its own."""

    space: str
    """Search space, a path from the study's file."""
    promoted: Name | None = None
    """Label of the arm that `promote` writes; by default this one's, with _tuned."""
    wandb: Literal["bayes", "random", "grid"] = "bayes"
    """How the W&B sweep that is written for this arm searches."""
    grid: Annotated[int, Field(strict=True, gt=1)] = 3
    """For a grid: points of each range, ends included, even on its own scale."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class StudyFile:
    """What a study's file holds."""

    name: Name
    spec: str
    """The ablation, a path from this file."""
    trials: Count
    """Settings tried of each arm, failures and prunings included; the first are the spec's own."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Of every trial; none of the spec's."""
    arms: Annotated[dict[Name, Tuned], Field(min_length=1)]
    objective: Literal["target", "mean"] = "target"
    """The tuning loss that is minimised, nats per token: the target's, or the mean over domains."""
    overhead: Annotated[bool, Field(strict=True)] = False
    """Two objectives, the loss and the overhead in seconds: a front, not one best; no pruning."""
    max_overhead: Annotated[float, Field(strict=True, gt=0)] | None = None
    """Constraint: overhead as a share of the main run's training seconds."""
    sampler: Literal["tpe", "random", "gp"] = "tpe"
    pruner: Literal["none", "wilcoxon", "median", "hyperband"] = "none"
    """`wilcoxon` stops between seeds. `median` and `hyperband` stop the first seed's run between
    evaluations: median in the second half of a run alone, hyperband from the first on, where a
    method that has not rebalanced yet looks like any other."""
    threshold: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.1
    """For wilcoxon: the p below which a trial is worse than the best."""

    @model_validator(mode="after")
    def _can_prune(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names a seed twice; remove the repetition")
        if self.overhead and self.pruner != "none":
            raise ValueError(
                'pruner: Optuna cannot prune with two objectives; set pruner = "none", or '
                "overhead = false"
            )
        smallest = 0.5 ** len(self.seeds)
        if self.pruner == "wilcoxon" and smallest >= self.threshold:
            raise ValueError(
                f"pruner: {len(self.seeds)} seeds give no Wilcoxon p below {smallest:g}, and "
                f"threshold is {self.threshold:g}: nothing would be pruned; add seeds, raise "
                'threshold, or set pruner = "median"'
            )
        return self


# Fingerprints stand for text and tokenizer; the rest is about the comparison, not about a trial.
_NOT_OF_A_TRIAL = ("name", "seeds", "arms", "baseline", "primary", "margin", "equal_compute")
_NOT_OF_A_TRIAL += ("trackers", "checkpoint", "domains", "tokenizer", "splits")


@plain_dataclass(frozen=True)
class Study:
    """A study that has been read, with the spec and the spaces that it names."""

    path: Path
    asked: StudyFile
    raw: dict[str, Any]
    """The spec's tables, read once: a file that is edited later is not what is tuned."""
    ablation: Ablation
    """As the spec says it: with its own seeds and held-out evaluation."""
    spaces: dict[str, Space]
    find_method: FindMethod

    @property
    def spec_path(self) -> Path:
        """Return where the spec lies."""
        return self.path.parent / self.asked.spec

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the K trained domains, sorted."""
        return tuple(sorted(n for n, domain in self.ablation.domains.items() if domain.train))

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each domain's tuning loss in the objective; the sum is 1."""
        if self.asked.objective == "target":
            return self.ablation.targets
        return dict.fromkeys(self.domains, 1 / len(self.domains))  # as in a report's mean

    def optuna_name(self, arm: str) -> str:
        """Return the name of an arm's study in Optuna's storage."""
        return f"{self.asked.name}.{arm}"

    def check_arm(self, arm: str) -> None:
        """Refuse an arm that is not tuned."""
        if arm not in self.asked.arms:
            known = ", ".join(self.asked.arms)
            raise SpecError(f"ARM: {arm!r} is not tuned by this study; choose from {known}")

    def parameters(self, arm: str) -> dict[str, Parameter]:
        """Return what may change of an arm, by dotted key."""
        return self.spaces[arm].over(self.domains)

    def at(self, arm: str, values: dict[str, Value]) -> Ablation:
        """Return the ablation of one trial: this arm at `values`, on the tuning set alone.

        SpecError where the method refuses them.
        """
        changes = {arm: nested(values)}
        ablation = build_ablation(self.raw, self.spec_path, (), self.find_method, changes)
        evaluation = replace(ablation.evaluation, splits=("tuning",))
        return replace(ablation, seeds=self.asked.seeds, evaluation=evaluation, trackers=())

    def identity(self, arm: str) -> dict[str, Any]:
        """Return all of the spec that a trial of an arm depends on, as plain JSON values.

        Where the text and the model lie is left out: fingerprints stand for them.
        """
        values = plain(self.ablation)
        kept = {key: value for key, value in values.items() if key not in _NOT_OF_A_TRIAL}
        kept["splits"] = values["splits"]
        kept["model"] |= {"source": None, "revision": None}
        tuned = values["arms"][arm]
        return {**kept, "arm": {key: tuned[key] for key in ("method", "settings", "data_seed")}}

    def defaults(self, arm: str) -> dict[str, Value]:
        """Return the spec's own settings of an arm, those that lie inside of the space."""
        found = {}
        for key, parameter in self.parameters(arm).items():
            value = _setting(self.ablation.arms[arm].settings, key)
            if value in parameter:
                found[key] = value
        return found


def _setting(settings: Any, key: str) -> Any:
    """Return the value of a dotted key of an arm; None where there is none."""
    here = settings
    for part in key.split(".")[1:]:
        here = here.get(part) if isinstance(here, dict) else getattr(here, part, None)
    return here


def load_study(path: Path, find_method: FindMethod) -> Study:
    """Return the study in `path`; SpecError says what is wrong, before any compute."""
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; give the path of a study (TOML)") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    asked = validated(StudyFile, raw, str(path))
    spec_path = path.parent / asked.spec
    spec = read_spec(spec_path)
    ablation = build_ablation(spec, spec_path, (), find_method)
    spaces = {label: load_space(path.parent / arm.space) for label, arm in asked.arms.items()}
    study = Study(path, asked, spec, ablation, spaces, find_method)
    _check(study)
    return study


def _check(study: Study) -> None:
    """Refuse arms that are not there, seeds that the comparison needs, settings out of bounds."""
    own = set(study.ablation.seeds) & set(study.asked.seeds)
    if own:
        raise SpecError(
            f"{study.path}: seeds: {min(own)} is a seed of {study.spec_path.name}, where the tuned "
            "settings will be compared; choose others"
        )
    for label, space in study.spaces.items():
        where = f"{study.path}: arms.{label}"
        if label not in study.ablation.arms:
            known = ", ".join(study.ablation.arms)
            raise SpecError(f"{where}: is no arm of {study.spec_path.name}; choose from {known}")
        method = study.ablation.arms[label].method
        if method != space.method:
            raise SpecError(f"{where}.space: is for {space.method!r}, and the arm is {method!r}")
        _check_corners(study, label, where)


def _check_corners(study: Study, label: str, where: str) -> None:
    """Build the arm at the bounds of its space: what is refused there would fail trial by trial."""
    parameters = study.parameters(label)
    alone = [{key: value} for key, p in parameters.items() for value in _extremes(p)]
    together = [{key: _extremes(p)[end] for key, p in parameters.items()} for end in (0, -1)]
    for values in [*alone, *together]:
        try:
            study.at(label, values)
        except SpecError as error:
            tried = ", ".join(f"{key} = {value}" for key, value in values.items())
            raise SpecError(f"{where}.space: {tried} is refused: {error}") from None


def _extremes(parameter: Parameter) -> tuple[Value, ...]:
    return parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
