"""A finished run, opened: what its mixer would have seen after the last step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness import checkpoint
from harness.corpus import TokenStore, open_corpus
from harness.errors import SpecError
from harness.opening import open_view, spec_of
from harness.runner import Runner
from harness.spec import RunSpec
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSpec, TokenStore]:
    """Return the folder of a tiny finished run, its spec and its corpus."""
    out = tmp_path_factory.mktemp("out")
    store = open_corpus(tiny.corpus_spec(), out / "corpora")
    spec = tiny.run_spec(store)
    Runner(out, store, tiny.ONLY_AT_THE_END, lambda _: tiny.Onlooker()).ensure(spec)
    return out / "runs" / spec.run_id, spec, store


def test_model_optimizer_and_position_are_the_runs_own(
    run: tuple[Path, RunSpec, TokenStore],
) -> None:
    folder, spec, _ = run
    saved = checkpoint.load(folder / "checkpoint.pt")
    assert saved is not None

    view, store = open_view(folder)

    assert view.step == spec.num_steps
    assert store.id == json.loads((folder / "run.json").read_text())["corpus_id"]
    for name, value in view.model.state_dict().items():
        assert torch.equal(value, saved["model"][name])
    moments = view.optimizer.state_dict()["state"]
    assert moments
    for index, state in saved["optimizer"]["state"].items():
        assert torch.equal(moments[index]["exp_avg_sq"], state["exp_avg_sq"])
    assert torch.equal(view.seen, saved["seen"])


def test_its_rows_are_those_of_the_run(run: tuple[Path, RunSpec, TokenStore]) -> None:
    """The same candidates and probes as a mixer would be given at that step."""
    folder, _, _ = run

    one, other = open_view(folder)[0], open_view(folder)[0]

    assert torch.equal(one.candidates(2).inputs, other.candidates(2).inputs)
    assert torch.equal(one.probes(2, fixed=True).rows, other.probes(2, fixed=True).rows)
    losses = one.token_losses(one.probes(2, fixed=True))
    assert torch.isfinite(losses).all()


def test_a_header_gives_its_spec_back(run: tuple[Path, RunSpec, TokenStore]) -> None:
    folder, spec, _ = run
    found = spec_of(json.loads((folder / "run.json").read_text()))

    # the label is no part of a run, and the mixer is left out on purpose
    assert replace(found, mixer=spec.mixer, label=spec.label) == spec
    assert replace(found, mixer=spec.mixer).run_id == spec.run_id


@pytest.mark.parametrize("lacking", ["run.json", "checkpoint.pt"])
def test_what_is_not_there_is_one_line(
    lacking: str, run: tuple[Path, RunSpec, TokenStore], tmp_path: Path
) -> None:
    folder = tmp_path / "out/runs/x"
    folder.mkdir(parents=True)
    for name in ("run.json", "checkpoint.pt"):
        if name != lacking:
            (folder / name).write_bytes((run[0] / name).read_bytes())

    with pytest.raises(SpecError) as refused:
        open_view(folder)

    assert "\n" not in str(refused.value)


def test_a_run_that_has_not_finished_and_a_corpus_that_is_gone_are_refused(
    run: tuple[Path, RunSpec, TokenStore], tmp_path: Path
) -> None:
    folder = tmp_path / "out/runs/x"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes((run[0] / "checkpoint.pt").read_bytes())
    header = json.loads((run[0] / "run.json").read_text())

    (folder / "run.json").write_text(json.dumps(header | {"status": "interrupted"}))
    with pytest.raises(SpecError, match="the run is interrupted; finish it first"):
        open_view(folder)
    (folder / "run.json").write_text(json.dumps(header))
    with pytest.raises(SpecError, match="the run's corpus is not there"):
        open_view(folder)
