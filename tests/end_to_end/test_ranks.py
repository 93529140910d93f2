"""One run on two ranks is the run on one: torchrun with gloo, DDP and FSDP2, and no GPU.

Three groups of processes carry all checks, since importing torch costs more than the runs: one rank
alone, then two with DDP, then two with FSDP, whose second rank fails at the end on purpose.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import ARMS, Out, environment, steelyard, write_spec

NAME = "ranks"
INFLUENCE = "every = 4, rows = 2, probe_rows = 4, fidelity_every = 0"
SETTINGS = {
    "influence": f"{{ {INFLUENCE}, estimator = {{ check_rows = 2 }} }}",
    "exact": f'{{ {INFLUENCE}, estimator = "grad_dot" }}',
    "ekfac": f'{{ {INFLUENCE}, estimator = {{ kind = "ekfac", fitter = "hooks" }} }}',
}
SHARED = {"uniform", "influence", "vector", "stumbles"}  # arms of every group


@dataclass(frozen=True)
class Group:
    """What a group of ranks has left."""

    out: Out
    stderr: str = ""
    code: int = 0

    def run_id(self, label: str) -> str:
        """Return an arm's main run, which may be the one run that failed."""
        found: str | None = self.out.cell(NAME, label, 0)["run_id"]
        if found is not None:
            return found
        (failed,) = [i for i in self.out.run_ids() if self.out.header(i)["status"] == "failed"]
        return failed

    def records(self, label: str, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the records of an arm's main run."""
        return self.out.records(self.run_id(label), kind)

    def header(self, label: str) -> dict[str, Any]:
        """Return the header of an arm's main run."""
        return self.out.header(self.run_id(label))


@dataclass(frozen=True)
class Groups:
    """The runs of all three, and of one rank that takes up what two have left."""

    one: Group
    ddp: Group
    fsdp: Group
    after: Group


def torchrun(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `steelyard` on two ranks to its end."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *launch, "-m", "harness.cli", *map(str, arguments)],
        cwd=folder,
        env=environment(OMP_NUM_THREADS="1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Groups:
    """Return all runs; a stone makes the first `stumbles` stop half-way, and then it is gone."""
    folder = tmp_path_factory.mktemp("ranks")
    stone, other = folder / "stone", folder / "other"
    stumbles = f'method = "misbehaving:Stumbles"\nsettings = {{ stone = "{stone}" }}'
    trips = f'method = "misbehaving:Stumbles"\nsettings = {{ stone = "{other}", rank = "1" }}'
    arms = {"uniform": ARMS["uniform"], "doremi": ARMS["doremi"]}
    arms |= {k: f'method = "influence"\nsettings = {v}' for k, v in SETTINGS.items()}
    distrusts = f"{{ {INFLUENCE}, estimator = {{ check_rows = 2 }} }}"
    arms["vector"] = f'method = "misbehaving:Distrusts"\nsettings = {distrusts}'
    arms["stumbles"] = stumbles
    whole = write_spec(folder / "whole" / f"{NAME}.toml", arms, (0,))
    some = {label: arms[label] for label in arms if label in SHARED} | {"trips": trips}
    shared = write_spec(folder / "shared" / f"{NAME}.toml", some, (0,))
    often = "--checkpoint.steps=3"

    stone.touch()
    steelyard("run", whole, "--out", folder / "one", "--jobs", 1, often, cwd=folder)
    one = Group(Out(folder / "one"))
    started = one.run_id("stumbles")
    for other_out in ("ddp", "fsdp"):
        shutil.copytree(folder / "one/corpora", folder / other_out / "corpora")
        runs = folder / other_out / "runs"
        shutil.copytree(folder / "one/runs" / started, runs / started)
    stone.unlink()
    ddp = torchrun(folder, "run", whole, "--out", folder / "ddp", often)
    other.touch()
    fsdp = torchrun(folder, "run", shared, "--out", folder / "fsdp", often, "--parallel=fsdp")
    shutil.copytree(folder / "fsdp", folder / "after")
    other.unlink()
    after = steelyard("run", shared, "--out", folder / "after", "--parallel=fsdp", cwd=folder)

    return Groups(
        one,
        Group(Out(folder / "ddp"), ddp.stderr, ddp.returncode),
        Group(Out(folder / "fsdp"), fsdp.stderr, fsdp.returncode),
        Group(Out(folder / "after"), after.stderr, after.returncode),
    )


def assert_close(
    one: list[dict[str, Any]], two: list[dict[str, Any]], weights: float = 0.0
) -> None:
    """Compare records: draws to the row, losses to 1e-5, weights to `weights`, notes not at all."""
    kept = [[r for r in records if r["kind"] != "note"] for records in (one, two)]
    assert [(r["kind"], r.get("step")) for r in kept[0]] == [
        (r["kind"], r.get("step")) for r in kept[1]
    ]
    for first, second in zip(*kept, strict=True):
        for key in first.keys() - {"seconds"}:
            told, found = first[key], second[key]
            where = f"{key} of {first['kind']} at {first.get('step')}"
            if key == "weights":
                assert found == pytest.approx(told, abs=weights, rel=0), where
            elif key == "domain_losses":
                assert [x is None for x in told] == [x is None for x in found], where
                assert [x or 0 for x in found] == pytest.approx([x or 0 for x in told], 1e-5)
            elif isinstance(told, float):
                assert math.isclose(told, found, rel_tol=1e-5), where
            elif key == "nats":
                assert found == pytest.approx(told, rel=1e-5, abs=2e-6), where
            else:  # steps, tokens, rows, documents
                assert told == found, where


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_train_the_run_of_one(groups: Groups, parallel: str) -> None:
    """Weights and draws are equal, losses to 1e-5, and so is the run's id."""
    two: Group = getattr(groups, parallel)

    assert_close(groups.one.records("uniform"), two.records("uniform"))
    assert two.header("uniform")["run_id"] == groups.one.header("uniform")["run_id"]
    assert two.header("uniform")["ranks"] == 2


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_directional_scores_are_those_of_one_rank(groups: Groups, parallel: str) -> None:
    """A mixer never sees ranks: draws are equal, weights to the rounding of a difference."""
    two: Group = getattr(groups, parallel)

    assert_close(groups.one.records("influence"), two.records("influence"), weights=2e-4)
    weights = [group.records("influence", "step")[-1]["weights"] for group in (groups.one, two)]
    assert max(weights[0]) > 0.4  # it has moved
    assert two.header("influence")["run_id"] == groups.one.header("influence")["run_id"]


def test_where_no_difference_is_trusted_shards_are_differentiated_by_modules(
    groups: Groups,
) -> None:
    """The exact form takes over with FSDP too, and finds what one rank finds."""
    (note, *_), (found, *_) = (
        [r["values"] for r in group.records("vector", "note") if r["name"] == "rebalance"]
        for group in (groups.one, groups.fsdp)
    )

    assert note["form"] == found["form"] == "vector"
    assert found["raw_scores"] == pytest.approx(note["raw_scores"], rel=1e-4)
    assert_close(groups.one.records("vector"), groups.fsdp.records("vector"), weights=1e-5)


@pytest.mark.parametrize("label", ["exact", "ekfac"])
def test_hooks_score_as_on_one_rank_under_ddp(groups: Groups, label: str) -> None:
    """Row gradients and EKFAC's factors are those of all rows."""
    assert_close(groups.one.records(label), groups.ddp.records(label), weights=1e-3)


def test_a_method_that_reweights_rows_and_plans_runs(groups: Groups) -> None:
    """DoReMi's proxy changes the loss, and its main run samples with what the proxy found."""
    assert_close(groups.one.records("doremi"), groups.ddp.records("doremi"), weights=1e-6)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_what_is_billed_does_not_depend_on_ranks(groups: Groups, parallel: str) -> None:
    """Operations and tokens are those of the run, whoever computed them."""
    two: Group = getattr(groups, parallel)

    for label in ("uniform", "influence"):
        for account, cost in groups.one.header(label)["costs"].items():
            found = two.header(label)["costs"][account]
            assert (found["flops"], found["tokens"]) == (cost["flops"], cost["tokens"])


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_take_up_what_one_has_left(groups: Groups, parallel: str) -> None:
    """A run that stopped on one rank goes on from its checkpoint on two, under the same id."""
    two: Group = getattr(groups, parallel)

    assert groups.one.header("stumbles")["status"] == "failed"
    assert len(groups.one.records("stumbles", "step")) == 8
    assert two.header("stumbles")["status"] == "finished"
    assert_close(groups.one.records("uniform"), two.records("stumbles"))
    kept = groups.one.records("stumbles", "step")[:6]
    assert two.records("stumbles", "step")[:6] == kept  # as one rank wrote them, seconds and all


def test_a_failure_of_one_rank_ends_all_with_its_reason(groups: Groups) -> None:
    """Nobody waits for ever, one line says what happened, and rank 0 records it."""
    line = "steelyard: rank 1 failed: MemoryError: stumbled at step 8"

    assert groups.fsdp.code != 0
    assert groups.fsdp.stderr.count(line) == 1
    assert groups.fsdp.header("trips")["status"] == "failed"
    assert groups.fsdp.header("trips")["reason"] == "rank 1: MemoryError: stumbled at step 8"
    assert groups.ddp.code == 0, groups.ddp.stderr


def test_one_rank_takes_up_what_two_have_left_in_pieces(groups: Groups) -> None:
    """Parameters and moments that two ranks wrote are whole again in one process."""
    run_id = groups.fsdp.run_id("trips")
    folders = [path.name for path in (groups.fsdp.out.folder / "runs" / run_id).glob("*-shards-*")]

    assert folders == ["checkpoint-shards-6-0"]
    assert groups.after.code == 0, groups.after.stderr
    assert groups.after.header("trips")["status"] == "finished"
    assert_close(groups.one.records("uniform"), groups.after.records("trips"))


def test_only_rank_0_writes(groups: Groups) -> None:
    """A record is there once, and nothing lies about that a rank has left."""
    for group in (groups.ddp, groups.fsdp):
        steps = [r["step"] for r in group.records("uniform", "step")]
        assert steps == list(range(1, 13))
        runs = group.out.folder / "runs"
        names = {path.name for path in runs.glob("*/*") if "-shards-" not in path.name}
        assert names <= {"checkpoint.pt", "records.jsonl", "run.json", "error.txt", ".lock"}
