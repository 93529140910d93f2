"""What a study draws, and what it cuts short: spaces, samplers and pruners as Optuna's.

And what its trials say of the parameters, once there are enough of them.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import FrozenTrial, TrialState

from harness.rng import key
from sweeps.space import Choice, IntRange, Parameter, Value
from sweeps.studyfile import Study


def distribution(parameter: Parameter) -> BaseDistribution:
    """Return a parameter of a search space as Optuna's distribution."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values)
    if isinstance(parameter, IntRange):
        step = parameter.step or 1
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def distributions(study: Study, arm: str) -> dict[str, BaseDistribution]:
    """Return an arm's search space as Optuna's distributions, by parameter name."""
    return {name: distribution(parameter) for name, parameter in study.parameters(arm).items()}


def search_space_json(study: Study, arm: str) -> str:
    """Return an arm's search space as `optuna ask --search-space` takes it."""
    spaces = distributions(study, arm)
    return json.dumps({name: json.loads(distribution_to_json(d)) for name, d in spaces.items()})


def sampler(study: Study, arm: str, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of trial `number`: by its number alone, whichever worker carries it out.

    TPE and random draw when they are asked for a setting; a Gaussian process draws when a trial is
    given out, before its number is known, so that its draws cannot be had again.
    """
    seed = key(0, study.asked.name, arm, number) % 2**32
    if study.asked.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    first = max(4, study.asked.trials // 4)  # drawn at random, before there is what to learn from
    if study.asked.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=first)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=first)


def pruner(study: Study) -> optuna.pruners.BasePruner:
    """Return what ends trials early."""
    asked = study.asked
    if asked.pruner == "wilcoxon":
        return optuna.pruners.WilcoxonPruner(p_threshold=asked.threshold)
    most = num_evaluations(study)
    if asked.pruner == "median":
        # What rebalances has done nothing yet in its first steps: nothing is pruned in the first
        # half of a run.
        first = max(4, asked.trials // 4)
        return optuna.pruners.MedianPruner(n_startup_trials=first, n_warmup_steps=most // 2 + 1)
    if asked.pruner == "hyperband":  # whose point is to stop early, in some of its brackets
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=most)
    return optuna.pruners.NopPruner()


def num_evaluations(study: Study) -> int:
    """Return the evaluations of a run after the untrained one."""
    return math.ceil(study.ablation.num_steps / study.ablation.evaluation.every)


def suggest(trial: optuna.Trial, parameters: Mapping[str, Parameter]) -> dict[str, Value]:
    """Return the settings that Optuna proposes, or that a queued trial brings along."""
    found: dict[str, Value] = {}
    for name, parameter in parameters.items():
        if isinstance(parameter, Choice):
            found[name] = trial.suggest_categorical(name, parameter.values)
        elif isinstance(parameter, IntRange):
            step = parameter.step or 1
            found[name] = trial.suggest_int(
                name, parameter.low, parameter.high, log=parameter.log, step=step
            )
        else:
            found[name] = trial.suggest_float(
                name, parameter.low, parameter.high, log=parameter.log, step=parameter.step
            )
    return found


def importances(found: optuna.Study, target: int = 0) -> dict[str, dict[str, float]]:
    """Return how much each parameter matters for objective `target`, by fANOVA and PED-ANOVA.

    Relative: they sum to 1, of noise too. {} where fewer than ten trials have completed or all
    values are equal.
    """
    done = found.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < 10 or len({t.values[target] for t in done}) < 2:
        return {}
    kinds = {
        "fanova": optuna.importance.FanovaImportanceEvaluator(seed=0),
        "ped_anova": optuna.importance.PedAnovaImportanceEvaluator(),
    }

    def objective(trial: FrozenTrial) -> float:
        return float(trial.values[target])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PED-ANOVA reminds that low values are what it looks at
        return _shares(found, kinds, objective)


def _shares(
    found: optuna.Study, kinds: dict[str, Any], objective: Callable[[FrozenTrial], float]
) -> dict[str, dict[str, float]]:
    return {
        name: {
            parameter: float(share)
            for parameter, share in optuna.importance.get_param_importances(
                found, evaluator=evaluator, target=objective
            ).items()
        }
        for name, evaluator in kinds.items()
    }
