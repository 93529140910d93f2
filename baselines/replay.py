"""Controls that replay another arm's weights: is it the schedule, its order, or its movement?

They name another arm by its label (`of`), which is carried out first, at the same seed, and shown,
not billed to them. With w_t the weights that arm's main run sampled with at step t:

  replay             static at the mean of w_t: all that the arm knows but when it knew it
  shuffled_schedule  w_t permuted in time: the right weights at the wrong moments
  random_walk        from the first w_t, at each change a step of equal length in a random
                     direction: movement without knowledge

A stretch of steps with equal weights is permuted as one, so that each mixture keeps the time that
it lasts, and never into the order that it had; shuffling or walking an arm without changes is
refused, and so is any replay of one that weighs losses in place of sampling (DoGE online). A random
step is drawn anew, up to 100 times, while it leaves the simplex, and is projected back to it then,
which may shorten it. Proposed as controls by this project; the first is what the authors of
LLM-Shearing expected to do about as well as their method.

Needs: another arm. Cost: none of their own. Defaults: none. Deviations: none, there is no paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from baselines.proxies import CONFIG, static_at
from baselines.schedules import Scheduled, stretches, walked
from harness.api import Mixer
from harness.rng import generator

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View

_BOUND = ConfigDict(**CONFIG, arbitrary_types_allowed=True)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class _Control(Mixer):
    """Names an arm; what is bound to it carries out the plan."""

    of: str
    """Label of the arm that is replayed."""
    is_control: ClassVar[bool] = True
    bound: ClassVar[type[Mixer]]
    moves: ClassVar[bool] = True
    """Whether it makes anything only of an arm whose weights change."""

    def bind(self, arms: Mapping[str, Mixer]) -> Mixer:
        """Put the arm's mixer in place of its label."""
        if self.of not in arms:
            fix = f"choose another arm: {', '.join(arms)}" if arms else "give the spec another arm"
            raise ValueError(f"of: {self.of!r} is no other arm; {fix}")
        if arms[self.of].is_fixed and self.moves:
            raise ValueError(
                f"of: the weights of {self.of!r} never change; choose an arm that moves"
            )
        return self.bound(source=arms[self.of])  # type: ignore[call-arg]

    def init(self, view: View) -> State:
        """Refuse to run by itself: it is a name until a spec binds it."""
        raise ValueError(f"{type(self).__name__} replays another arm of a spec; it has none here")


@dataclass(frozen=True, kw_only=True, config=_BOUND)
class _OfArm(Mixer):
    """Replays an arm in some way."""

    source: Mixer
    """That arm's mixer."""

    def others(self) -> tuple[Mixer, ...]:
        """Return the arm that is replayed."""
        return (self.source,)

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Carry out the arm, then the main run on what becomes of its weights."""

        def sampling(wanted: Any) -> Any:
            if wanted.evaluation is not None and wanted.mixer.reweights:
                raise ValueError("of: this arm weighs losses and samples alike; nothing to replay")
            return run(wanted)

        found = self.source.plan(replace(spec, mixer=self.source), sampling)
        mixer = self.made(found.weights, found.domains, spec.data_seed)
        return run(replace(spec, mixer=mixer))

    def made(self, weights: Tensor, domains: tuple[str, ...], seed: int) -> Mixer:
        """Return the main run's mixer from the arm's weights [S, K]."""
        raise NotImplementedError


class ReplayOf(_OfArm):
    """Static at the mean weights."""

    def made(self, weights: Tensor, domains: tuple[str, ...], seed: int) -> Mixer:
        """Return the time average."""
        return static_at(weights.mean(0), domains)


class ShuffledOf(_OfArm):
    """The same stretches in another order."""

    def made(self, weights: Tensor, domains: tuple[str, ...], seed: int) -> Mixer:
        """Return the stretches, permuted."""
        found = stretches(weights)
        if len(found) == 1 and len(domains) > 1:
            raise ValueError("of: this arm's weights never change; there is nothing to shuffle")
        keyed, order = generator(seed, "shuffled schedule"), list(range(len(found)))
        while len(order) > 1 and order == sorted(order):  # the arm itself would be no control
            order = torch.randperm(len(found), generator=keyed).tolist()
        return Scheduled(domains=domains, stretches=tuple(found[i] for i in order))


class WalkOf(_OfArm):
    """Steps of the same lengths in random directions."""

    def made(self, weights: Tensor, domains: tuple[str, ...], seed: int) -> Mixer:
        """Return the walk."""
        walk = tuple(walked(stretches(weights), domains, seed))
        return Scheduled(domains=domains, stretches=walk)


class Replay(_Control):
    """Static at the time average of another arm's weights."""

    bound = ReplayOf
    moves = False


class ShuffledSchedule(_Control):
    """Another arm's weights, permuted in time."""

    bound = ShuffledOf


class RandomWalk(_Control):
    """Weights that move as far and as often as another arm's, without knowing where."""

    bound = WalkOf
