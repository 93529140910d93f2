"""One trial: an arm at some settings, trained at every seed of the study, seen on the tuning set.

Nothing held out is computed: the runs' evaluation has the tuning split alone. Runs are found by
their content as everywhere, so a trial that is retried after its worker was killed picks up what
that one had finished, and the run that it was at from its last checkpoint.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.corpus import corpus_id, open_corpus
from harness.files import read_json
from harness.preflight import check_buildable, check_rows, localized
from harness.records import HEADER, RECORDS, read_records
from harness.resolve import resolve
from sweeps.watching import Curve, Losses, RunWatch, Stop

if TYPE_CHECKING:
    from harness.corpus import TokenStore
    from harness.plans import Carried
    from harness.spec import Ablation, RunSpec
    from sweeps.space import Value
    from sweeps.studyfile import Study

RUNS = "runs"  # a trial's fact: (tokens, seconds) by run id


class Onlooker(Protocol):
    """Who looks on at the runs of a trial: `harness.loop.Watch`, opened for each run."""

    def __call__(self, spec: RunSpec, seed: int) -> Any:
        """Return who watches the run of `spec`, at a seed of the trial."""


@dataclass(frozen=True)
class SeedResult:
    """One seed of a trial."""

    seed: int
    loss: float
    """Tuning loss after the last step, nats per token."""
    runs: dict[str, tuple[int, float]]
    """Tokens trained on and seconds taken, by run id."""
    train_seconds: float
    """Of the main run."""
    overhead_seconds: float
    """The mixer's own, and all that its other runs took."""


@dataclass
class TrialResult:
    """The seeds of a trial so far; facts are sums over them."""

    seeds: list[SeedResult] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """Return the mean tuning loss over seeds, nats per token."""
        return statistics.fmean(one.loss for one in self.seeds)

    @property
    def mean_overhead_seconds(self) -> float:
        """Return the overhead of a seed, mean over seeds."""
        return statistics.fmean(one.overhead_seconds for one in self.seeds)

    @property
    def overhead_share(self) -> float:
        """Return overhead seconds over the main runs' training seconds."""
        return sum(one.overhead_seconds for one in self.seeds) / sum(
            one.train_seconds for one in self.seeds
        )

    def facts(self) -> dict[str, Any]:
        """Return what a trial carries along, as plain JSON values."""
        runs = {run_id: spent for one in self.seeds for run_id, spent in one.runs.items()}
        return {
            "seeds": [one.seed for one in self.seeds],
            "losses": [one.loss for one in self.seeds],
            "run_ids": list(runs),
            "tokens": sum(tokens for tokens, _ in runs.values()),
            "train_seconds": round(sum(one.train_seconds for one in self.seeds), 3),
            "overhead_seconds": round(sum(one.overhead_seconds for one in self.seeds), 3),
            RUNS: runs,  # last: where it is there, all are
        }


class PrunedRunError(Exception):
    """The pruner has ended a run between two evaluations; `spent` is what it had cost by then."""

    def __init__(self, spent: dict[str, Any]) -> None:
        super().__init__("pruned")
        self.spent = spent


@dataclass(frozen=True)
class Bench:
    """Where trials of one study are carried out: an output folder and the study's corpus."""

    study: Study
    out: Path
    say: Callable[[str], None] = print

    @cached_property
    def store(self) -> TokenStore:
        """Return the opened corpus, built first where there is none."""
        store = open_corpus(self._local[0].corpus, self.out / "corpora", self.say)
        check_rows(self.study.ablation, store)
        return store

    @cached_property
    def _local(self) -> tuple[Ablation, str, str]:
        ablation, model_id = localized(self.study.ablation, self.out, self.say)
        return ablation, corpus_id(ablation.corpus, self.out / "corpora"), model_id

    @property
    def text_ids(self) -> dict[str, str]:
        """Return fingerprints of the text and of the model that training starts from."""
        _, text_id, model_id = self._local
        return {"corpus_id": text_id, "model_id": model_id}

    def check(self) -> None:
        """Refuse a model that cannot be built and a corpus that is too small."""
        check_buildable(self._local[0])
        assert self.store

    def specs(self, arm: str, values: Mapping[str, Value]) -> dict[int, RunSpec]:
        """Return the run of each seed, with the tuning set alone to be evaluated on."""
        local, text_id, model_id = self._local
        places = {"model": local.model, "tokenizer": local.tokenizer}  # as folders of this machine
        found = resolve(replace(self.study.at(arm, dict(values)), **places), text_id, model_id)
        return {seed: spec for (label, seed), spec in found.items() if label == arm}

    def seeds(
        self,
        specs: Mapping[int, RunSpec],
        curve: Curve | None,
        onlooker: Onlooker | None,
        stop: Stop,
    ) -> Iterator[SeedResult]:
        """Yield the result of each seed, in the order of `specs`; `curve` hears of the first."""
        from harness.loop import InterruptedRunError

        for place, (seed, spec) in enumerate(specs.items()):
            if stop():  # where its run is there already, nothing else would ask
                raise InterruptedRunError
            yield self.carry_out(spec, seed, curve if place == 0 else None, onlooker, stop)

    def carry_out(
        self, spec: RunSpec, seed: int, curve: Curve | None, onlooker: Onlooker | None, stop: Stop
    ) -> SeedResult:
        """Train one seed; PrunedRunError where `curve` ended it, and the loop's own errors."""
        from harness.loop import InterruptedRunError
        from harness.runner import Runner

        weights = self.weights
        watches: list[RunWatch] = []

        def watch(wanted: RunSpec) -> RunWatch:
            inner = None if onlooker is None else onlooker(wanted, seed)
            is_main = wanted.evaluation is not None and wanted.label == spec.label
            heard = curve if is_main else None
            watches.append(RunWatch(weights, heard, inner, stop))
            return watches[-1]

        runner = Runner(self.out, self.store, self.study.ablation.checkpoint, watch)
        try:
            carried = runner.carry_out(spec)
        except InterruptedRunError:
            if any(one.is_pruned for one in watches):
                raise PrunedRunError(_spent(seed, watches)) from None
            raise
        if any(one.is_pruned for one in watches):  # on the curve of a run that was there before
            raise PrunedRunError(_spent(seed, watches))
        return self._result(seed, carried, weights)

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each domain's tuning loss in the objective; the sum is 1."""
        return self.study.weights

    def _result(self, seed: int, carried: Carried, weights: dict[str, float]) -> SeedResult:
        headers = {
            run_id: read_json(self.out / "runs" / run_id / HEADER)
            for run_id in (carried.main, *(run_id for run_id, _ in carried.auxiliary))
        }
        main = headers[carried.main]
        losses = Losses(weights)
        for record in read_records(self.out / "runs" / carried.main / RECORDS):
            losses.hear(record)
        own = main["costs"]["mixer"]["seconds"] + carried.seconds
        others = sum(_seconds(h) for run_id, h in headers.items() if run_id != carried.main)
        return SeedResult(
            seed=seed,
            runs={
                run_id: (header["num_steps"] * header["tokens_per_step"], _seconds(header))
                for run_id, header in headers.items()
            },
            loss=losses.at[main["num_steps"]],
            train_seconds=main["costs"]["train"]["seconds"],
            overhead_seconds=own + others,
        )


def _spent(seed: int, watches: list[RunWatch]) -> dict[str, Any]:
    """Return the facts of a trial that was ended in the run of its first seed."""
    headers = [watch.header for watch in watches]
    main = headers[-1]
    beside = sum(_seconds(header) for header in headers[:-1])
    return {
        "seeds": [seed],
        "run_ids": [header["run_id"] for header in reversed(headers)],
        "tokens": sum(watch.tokens for watch in watches),
        "train_seconds": round(main["costs"]["train"]["seconds"], 3),
        "overhead_seconds": round(beside + main["costs"]["mixer"]["seconds"], 3),
        RUNS: {w.header["run_id"]: (w.tokens, _seconds(w.header)) for w in watches},
    }


def _seconds(header: dict[str, Any]) -> float:
    """Return what a run took, without what the referee does on its own account."""
    return float(sum(header["costs"][account]["seconds"] for account in ("train", "mixer")))
