"""A trial: the study's seeds, the tuning set, nothing held out; and a worker that does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from harness.cli import find_method
from harness.errors import SpecError
from sweeps.storage import open_storage, requeue
from sweeps.study import create, load, rows
from sweeps.studyfile import Study, load_study
from sweeps.trial import Bench, PrunedRunError, SeedResult, TrialResult
from sweeps.worker import Event, Worker

from .tiny_study import SPEC, STUDY, tiny_study, write_study

ONE_ARM = '[arms.influence]\nspace = "influence.toml"\n'
STATIC = '[arms.uniform]\nspace = "static.toml"\n'
MIX = {"settings.weights.a": 0.2, "settings.weights.b": 0.2, "settings.weights.c": 0.6}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder, shared so that the corpus is built once."""
    return tmp_path_factory.mktemp("out")


def bench(study: Study, out: Path) -> Bench:
    return Bench(study, out, say=lambda _: None)


def records(out: Path, run_id: str) -> list[dict[str, Any]]:
    text = (out / "runs" / run_id / "records.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def one_seed(study: Study, out: Path, curve: Any = None, stop: Any = lambda: False) -> Any:
    at = bench(study, out)
    return at.carry_out(at.specs("uniform", MIX)[100], 100, curve, None, stop)


def test_a_trial_computes_no_held_out_number(tmp_path: Path, out: Path) -> None:
    """Neither in its records, nor asked for by its spec."""
    found = one_seed(tiny_study(tmp_path), out)

    (run_id,) = found.runs
    evaluated = {r["split"] for r in records(out, run_id) if r["kind"] == "eval"}
    assert evaluated == {"tuning"}
    header = json.loads((out / "runs" / run_id / "run.json").read_text())
    assert header["spec"]["evaluation"]["splits"] == ["tuning"]
    assert "heldout" not in (out / "runs" / run_id / "records.jsonl").read_text()


def test_a_method_with_runs_of_its_own_computes_none_either(tmp_path: Path, out: Path) -> None:
    space = 'method = "doremi"\n[parameters."settings.eta"]\ntype = "float"\nlow = 0.1\nhigh = 2.0'
    path = write_study(tmp_path, arms='[arms.doremi]\nspace = "doremi.toml"\n', doremi=space)
    (tmp_path / "tiny.toml").write_text(SPEC + '\n[arms.doremi]\nmethod = "doremi"\n')
    at = bench(load_study(path, find_method), out)
    spec = at.specs("doremi", {"settings.eta": 0.5})[100]

    found = at.carry_out(spec, 100, None, None, lambda: False)

    assert [tokens for tokens, _ in found.runs.values()] == [12 * 8 * 16] * 3
    assert found.overhead_seconds > found.train_seconds
    for run_id in found.runs:
        assert "heldout" not in (out / "runs" / run_id / "records.jsonl").read_text()


def test_the_objective_is_the_targets_last_tuning_loss_or_the_mean(
    tmp_path: Path, out: Path
) -> None:
    of_target = one_seed(tiny_study(tmp_path / "a"), out)
    of_mean = one_seed(tiny_study(tmp_path / "b", head=STUDY + 'objective = "mean"\n'), out)

    assert of_target.runs == of_mean.runs  # one run, read in two ways
    last = {
        r["domain"]: r["nats_per_token"]
        for r in records(out, next(iter(of_target.runs)))
        if r["kind"] == "eval" and r["step"] == 12
    }
    assert of_target.loss == pytest.approx(last["c"], rel=1e-12)
    assert of_mean.loss == pytest.approx(sum(last.values()) / 3, rel=1e-12)


def test_the_mean_is_over_what_is_trained_on_as_in_the_comparison(tmp_path: Path) -> None:
    path = write_study(tmp_path, head=STUDY + 'objective = "mean"\n', arms=ONE_ARM)
    spec = SPEC.replace('target = "c"', 'target = "b"').replace("b = { ", "b = { train = false, ")
    (tmp_path / "tiny.toml").write_text(spec)
    study = load_study(path, find_method)

    assert bench(study, tmp_path).weights == {"a": 0.5, "c": 0.5}


def test_no_trial_uses_a_seed_of_the_comparison(tmp_path: Path, out: Path) -> None:
    study = tiny_study(tmp_path)

    specs = bench(study, out).specs("influence", {"settings.every": 3})

    assert set(specs) == {100, 101}
    assert {spec.seed for spec in specs.values()} == {100, 101}
    assert not set(specs) & set(study.ablation.seeds)


def test_a_curve_is_heard_at_each_evaluation_and_may_end_the_run(tmp_path: Path, out: Path) -> None:
    study, heard = tiny_study(tmp_path), []
    mix = {**MIX, "settings.weights.a": 0.3}
    at = bench(study, out)

    def curve(step: int, loss: float) -> bool:
        heard.append((step, loss))
        return step == 8

    with pytest.raises(PrunedRunError) as pruned:
        at.carry_out(at.specs("uniform", mix)[100], 100, curve, None, lambda: False)

    assert [step for step, _ in heard] == [4, 8]
    (run_id,) = pruned.value.spent["run_ids"]
    assert pruned.value.spent["tokens"] == 8 * 8 * 16
    steps = [r["step"] for r in records(out, run_id) if r["kind"] == "step"]
    assert max(steps) == 8
    # the same settings go on from there when a later trial wants all of it, and are pruned again
    # from what is on the disk when one does not
    whole = at.carry_out(at.specs("uniform", mix)[100], 100, None, None, lambda: False)
    assert [tokens for tokens, _ in whole.runs.values()] == [12 * 8 * 16]
    with pytest.raises(PrunedRunError):
        at.carry_out(at.specs("uniform", mix)[100], 100, curve, None, lambda: False)


def worker(study: Study, out: Path, url: str, **changes: Any) -> tuple[Worker, list[Event]]:
    create(study, open_storage(url))
    heard: list[Event] = []
    return Worker(study, out, url, tell=heard.append, **changes), heard


def found_rows(study: Study, arm: str, url: str) -> Any:
    return rows(load(study, arm, open_storage(url)))


def test_a_worker_carries_out_every_slot_of_every_arm_once(tmp_path: Path, out: Path) -> None:
    study, url = tiny_study(tmp_path), f"journal:{tmp_path / 'log'}"
    one, heard = worker(study, out, url)

    one.work()

    for arm in ("influence", "uniform"):
        found = found_rows(study, arm, url)
        assert [row.slot for row in found] == [0, 1, 2]
        assert {row.state for row in found} == {"complete"}
        assert all(row.facts["seeds"] == [100, 101] for row in found)
        assert all(len(row.facts["run_ids"]) == 2 for row in found)
        assert all(row.facts["tokens"] == 2 * 12 * 8 * 16 for row in found)
        assert all(row.facts["train_seconds"] > 0 for row in found)
        assert all(row.values[0] == pytest.approx(sum(row.facts["losses"]) / 2) for row in found)
    assert found_rows(study, "influence", url)[0].params == study.defaults("influence")
    assert sum(event.kind == "complete" for event in heard) == 6


FAILURES = {
    "the spec": (SpecError("settings.weights: too heavy"), "settings.weights: too heavy"),
    "a method's plan": (ValueError("no law\nfits"), "ValueError: no law fits"),
    "a user's method": (SystemExit("enough"), "SystemExit: enough"),
    "the machine": (MemoryError("no room"), "MemoryError: no room"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_trial_that_fails_takes_its_slot_says_why_and_stops_nobody(
    case: str, tmp_path: Path, out: Path
) -> None:
    error, said = FAILURES[case]
    study, url = tiny_study(tmp_path, arms=STATIC), f"journal:{tmp_path / 'log'}"
    one, heard = worker(study, out, url)
    real, calls = Bench.specs, []

    def specs(self: Bench, arm: str, values: Any) -> Any:
        calls.append(arm)
        if len(calls) == 2:
            raise error
        return real(self, arm, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "specs", specs)
        one.work()

    found = found_rows(study, "uniform", url)
    assert [row.state for row in found] == ["complete", "failed", "complete"]
    assert found[1].facts["reason"] == said
    assert [e.text for e in heard if e.kind == "failed"] == [said]


def test_a_stopped_worker_leaves_its_trial_to_the_next_with_its_settings(
    tmp_path: Path, out: Path
) -> None:
    study, url = tiny_study(tmp_path, arms=STATIC), f"journal:{tmp_path / 'log'}"
    one, heard = worker(study, out, url)
    one.stop = lambda: any(event.kind == "seed" for event in heard)

    one.work()

    first, *_, again = found_rows(study, "uniform", url)
    assert (first.state, again.state) == ("failed", "waiting")
    assert (first.slot, again.slot) == (0, 0)
    assert first.params == again.params

    other, _ = worker(study, out, url)
    other.work()

    found = found_rows(study, "uniform", url)
    assert [row.state for row in found] == ["failed", "complete", "complete", "complete"]
    assert found[-1].facts["run_ids"][0] == first.facts["run_ids"][0]  # found, not trained again


def test_a_pruner_over_steps_ends_trials_after_the_first_half_of_a_run(
    tmp_path: Path, out: Path
) -> None:
    """Sixteen trials of static mixtures: some give the target little, and are below the median."""
    head = STUDY.replace("trials = 3", "trials = 16") + 'pruner = "median"\nsampler = "random"\n'
    study = tiny_study(tmp_path, head=head, arms=STATIC)
    url = f"journal:{tmp_path / 'log'}"
    one, _ = worker(study, out, url)

    one.work()

    found = found_rows(study, "uniform", url)
    pruned = [row for row in found if row.state == "pruned"]
    assert len(found) == 16
    assert pruned
    for row in pruned:
        assert max(row.reported) >= 2  # of 3 evaluations; the first of them is warm-up
        assert row.facts["seeds"] == [100]
        assert row.facts["run_ids"]
        assert 0 < row.facts["tokens"] < 12 * 8 * 16
    complete = [row for row in found if row.state == "complete"]
    assert all(set(row.reported) == {1, 2, 3} for row in complete)


def test_wilcoxon_reports_seeds_in_an_order_of_its_own_and_prunes_between_them(
    tmp_path: Path, out: Path
) -> None:
    seeds = "seeds = [100, 101, 102, 103]"
    head = STUDY.replace("trials = 3", "trials = 8").replace("seeds = [100, 101]", seeds)
    head += 'pruner = "wilcoxon"\nthreshold = 0.3\nsampler = "random"\n'
    study = tiny_study(tmp_path, head=head, arms=STATIC)
    url = f"journal:{tmp_path / 'log'}"
    one, _ = worker(study, out, url)

    one.work()

    found = found_rows(study, "uniform", url)
    assert {row.state for row in found} == {"complete"}  # the mean so far is the value
    assert len({tuple(row.facts["seeds"]) for row in found}) > 1
    for row in found:
        by_place = {study.asked.seeds.index(s): loss for s, loss in
                    zip(row.facts["seeds"], row.facts["losses"], strict=True)}  # fmt: skip
        assert row.reported == pytest.approx(by_place)
    assert any(len(row.facts["seeds"]) < 4 for row in found)


def test_two_objectives_are_loss_and_overhead_seconds(tmp_path: Path, out: Path) -> None:
    head = STUDY.replace("trials = 3", "trials = 2") + "overhead = true\n"
    study = tiny_study(tmp_path, head=head, arms=ONE_ARM)
    url = f"journal:{tmp_path / 'log'}"
    one, _ = worker(study, out, url)

    one.work()

    for row in found_rows(study, "influence", url):
        loss, seconds = row.values
        assert loss == pytest.approx(sum(row.facts["losses"]) / 2)
        assert seconds == pytest.approx(row.facts["overhead_seconds"] / 2, abs=1e-3)


def test_a_constraint_is_told_to_optuna(tmp_path: Path, out: Path) -> None:
    head = STUDY.replace("trials = 3", "trials = 1") + "max_overhead = 0.5\n"
    study = tiny_study(tmp_path, head=head, arms=ONE_ARM)
    url = f"journal:{tmp_path / 'log'}"
    one, _ = worker(study, out, url)

    one.work()

    (trial,) = load(study, "influence", open_storage(url)).trials
    overhead, training = (trial.user_attrs[f"{x}_seconds"] for x in ("overhead", "train"))
    half = 0.0005  # facts are to the millisecond, of which a tiny run takes few
    lowest, highest = (overhead - half) / (training + half), (overhead + half) / (training - half)
    assert lowest - 0.5 <= trial.constraints["overhead"] <= highest - 0.5


def test_a_trial_without_a_slot_is_given_back(tmp_path: Path, out: Path) -> None:
    """Where workers share no folder, Optuna may make one up between a look and the taking."""
    study, url = tiny_study(tmp_path, arms=STATIC), f"journal:{tmp_path / 'log'}"
    one, _ = worker(study, out, url)
    one.work()
    before = found_rows(study, "uniform", url)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.worker.claim", lambda *_: True)
        storage = open_storage(url)
        one._take("uniform", load(study, "uniform", storage), storage)

    *kept, surplus = found_rows(study, "uniform", url)
    assert kept == before
    assert (surplus.state, surplus.slot) == ("failed", None)
    assert surplus.facts["reason"] == "no slot was left"


def test_a_worker_that_was_believed_dead_gives_its_trial_up_and_goes_on(
    tmp_path: Path, out: Path
) -> None:
    """Another has the trial by now: what this one finds is told to nobody."""
    study, url = tiny_study(tmp_path, arms=STATIC), f"journal:{tmp_path / 'log'}"
    one, heard = worker(study, out, url)
    real = Bench.carry_out

    def carry_out(self: Bench, *arguments: Any) -> Any:
        found = load(study, "uniform", open_storage(url))
        first = found.trials[0]
        if first.state == TrialState.RUNNING:
            requeue(found, first)
            found.tell(0, state=TrialState.FAIL)
        return real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "carry_out", carry_out)
        one.work()

    found = found_rows(study, "uniform", url)
    assert [row.state for row in found] == ["failed", "complete", "complete", "complete"]
    assert [row.slot for row in found] == [0, 1, 2, 0]
    assert [event.kind for event in heard].count("lost") == 1


def test_facts_of_a_trial_add_up_over_its_seeds_and_shared_runs_count_once() -> None:
    result = TrialResult(
        [
            SeedResult(1, 2.0, {"a": (10, 5.0), "shared": (5, 1.0)}, 4.0, 1.0),
            SeedResult(2, 4.0, {"b": (20, 9.0), "shared": (5, 1.0)}, 6.0, 4.0),
        ]
    )

    assert result.loss == 3.0
    assert result.mean_overhead_seconds == 2.5
    assert result.overhead_share == 0.5
    assert result.facts()["run_ids"] == ["a", "shared", "b"]
    assert result.facts()["tokens"] == 35
    assert result.facts()["overhead_seconds"] == 5.0
    assert list(result.facts())[-1] == "runs"
