"""Retraining on subsets: which rows, by which losses, and what is summed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.assemble import open_shelf
from harness.attribution.evaluation import mislabelled, removal, subsets
from harness.attribution.places import Places
from harness.attribution.rows import Pool
from harness.attribution.score_spec import Scoring
from harness.errors import SpecError
from harness.files import read_json
from harness.model import token_losses
from harness.opening import open_view
from harness.spec import Edit
from tests.harness.attribution.conftest import TinyRun
from tests.harness.attribution.evaluation.conftest import Judge


def test_subsets_are_keyed_and_keep_the_share_of_every_domain(pool: Pool) -> None:
    kept = subsets.keyed_subsets(pool, 12, 0.5, seed=3)

    assert kept.sum(1).tolist() == [round(0.5 * len(pool))] * 12
    assert len({tuple(own) for own in kept.tolist()}) == 12
    assert np.array_equal(subsets.keyed_subsets(pool, 5, 0.5, seed=3), kept[:5])
    assert not np.array_equal(subsets.keyed_subsets(pool, 12, 0.5, seed=4), kept)
    with pytest.raises(SpecError, match=r"evaluate\.share: 0\.001 of the \d+ rows of 'qa' is 0"):
        subsets.keyed_subsets(pool, 2, 0.001, seed=3)


def test_losses_are_those_of_models_that_never_learned_from_the_rows_left_out(
    judge: Judge, tiny_run: TinyRun
) -> None:
    judged = judge(subsets=3, replicas=2, baselines=("random",))

    found = subsets.measure(judged)

    losses, sums = np.array(found["losses"]), found["sums"]
    assert losses.shape == (2, 3, 8)
    assert len({run for replica in found["run_ids"] for run in replica}) == 6
    kept = subsets.keyed_subsets(judged.pool, 3, 0.5, 0)
    scores = judged.scores("grad_dot")
    by_hand = [sum(scores[i] for i in np.flatnonzero(own)) for own in kept]
    assert np.allclose(sums["grad_dot"], by_hand)
    assert np.allclose(sums["backwards"], -np.array(by_hand))
    assert set(sums) == {"grad_dot", "backwards", "random"}
    for run_id, expected in zip(found["run_ids"][1], losses[1], strict=True):
        view, _ = open_view(tiny_run.out / "runs" / run_id)
        batch = judged.queries.batch
        with torch.no_grad():
            own = token_losses(view.model, batch).sum(1) / batch.mask.sum(1)
        assert np.allclose(expected, own.numpy(), atol=1e-5)
    header = read_json(tiny_run.out / "runs" / found["run_ids"][0][0] / "run.json")
    silent = header["spec"]["edit"]["silent"]["qa"]
    assert silent == [
        row for (_, row), is_in in zip(judged.pool.picks, kept[0], strict=True) if not is_in
    ]


def test_a_row_that_is_left_out_moves_no_parameter(judge: Judge, tiny_run: TinyRun) -> None:
    """With one row kept, what is learned is that row: its loss falls below the others'."""
    judged = judge()
    retraining = judged.retraining()
    others = [i for i in range(len(judged.pool)) if i != 5]
    from harness.attribution.evaluation.retraining import leaving_out, query_losses

    spec = retraining.edited(leaving_out(judged.pool, others, "kept"))
    retraining.train([spec], "one row")

    view, _ = open_view(tiny_run.out / "runs" / spec.run_id)
    losses = query_losses(view.model, judged.pool.batch(slice(None)), spec)
    assert losses.argmin() == 5
    assert losses[5] < np.median(losses) - 2


def test_leaving_out_by_a_new_order_draws_only_what_is_left(judge: Judge) -> None:
    from harness.attribution.evaluation.retraining import leaving_out

    pool = judge().pool
    kept, new = (leaving_out(pool, [0, 3], order) for order in ("kept", "new"))  # type: ignore[arg-type]

    gone = {pool.picks[0][1], pool.picks[3][1]}
    assert set(kept.silent["qa"]) == gone
    assert not kept.only
    assert set(new.only["qa"]) == {row for _, row in pool.picks} - gone


def test_a_domain_without_a_row_is_named_and_refused(judge: Judge) -> None:
    """A domain that no edit names keeps all of its rows: none left is not the same."""
    from harness.attribution.evaluation.retraining import leaving_out

    judged = judge()
    retraining, every = judged.retraining(), range(len(judged.pool))

    for order in ("kept", "new"):
        edit = leaving_out(judged.pool, every, order)  # type: ignore[arg-type]
        with pytest.raises(SpecError, match=r"^evaluate: edit\.\w+: no row of 'qa' is left"):
            retraining.edited(edit)
    two = replace(judged.pool, picks=(*judged.pool.picks, ("other", 0)))
    assert leaving_out(two, [len(judged.pool)], "new").only["other"] == ()


def test_facts_cannot_be_planted_in_packed_rows(judge: Judge) -> None:
    judged = judge(facts=2, copies=1)
    retraining = judged.retraining()
    store, batch = judged.opened.store, replace(judged.opened.spec.batch, pack=True)
    packed = open_shelf(store, "train", store.domains, batch)
    opened = SimpleNamespace(shelf=lambda _: packed, store=store)
    there = replace(retraining, opened=opened)  # type: ignore[arg-type]

    for edit in (Edit(planted={"qa": (("a", "b"),)}), Edit(answers={"qa": ((0, 1),)})):
        with pytest.raises(SpecError, match=r"rows of 'qa' are no prompts .*; set batch\.pack = "):
            there.edited(edit)


def test_a_run_of_another_folder_is_trained_again_beside_itself(
    judge: Judge, tiny_run: TinyRun, tmp_path: Path
) -> None:
    """What is measured of it lies under this attribution; its corpus is where the run is."""
    beside = judge(mislabelled=0.2, seed=5, estimators=("grad_dot",))
    away = replace(beside, places=Places(tmp_path, "away"), _scores={})

    found = mislabelled.measure(away)

    assert (tiny_run.out / "runs" / found["run_id"] / "run.json").exists()
    assert not (tmp_path / "runs").exists()
    assert mislabelled.measure(beside) == found


def test_what_was_measured_is_found_again_without_training(judge: Judge, tiny_run: TinyRun) -> None:
    judged = judge(subsets=3, replicas=1)
    first = subsets.measure(judged)
    kept = sorted((judged.places.evaluation / "losses").rglob("*.json"))
    assert len(kept) == 3
    for run_id in first["run_ids"][0]:
        (tiny_run.out / "runs" / run_id / "checkpoint.pt").rename(
            tiny_run.out / "runs" / run_id / "gone.pt"
        )
    try:
        assert judge(subsets=3, replicas=1).places == judged.places
        assert subsets.measure(judge(subsets=3, replicas=1)) == first
    finally:
        for run_id in first["run_ids"][0]:
            folder = tiny_run.out / "runs" / run_id
            (folder / "gone.pt").rename(folder / "checkpoint.pt")


def test_top_rows_are_left_out_by_every_label_beside_random_groups(judge: Judge) -> None:
    judged = judge(removed=6, groups=3, removal_queries=2, replicas=1, baselines=("random",))

    found = removal.measure(judged)

    kinds = [(g["kind"], g["label"], g["query"]) for g in found["groups"]]
    assert kinds[:3] == [("random", None, None)] * 3
    assert kinds[3:] == [
        ("top", label, q) for label in ("grad_dot", "backwards", "random") for q in (0, 4)
    ]
    assert np.array(found["losses"]).shape == (1, 9, 8)
    assert np.array(found["whole"]).shape == (1, 8)
    scores = judged.scores("grad_dot")
    best = np.sort(scores[:, 4])[-6:].sum()
    assert found["sums"]["grad_dot"][4][4] == pytest.approx(best)
    worst = np.sort(scores[:, 4])[:6].sum()
    assert found["sums"]["grad_dot"][6][4] == pytest.approx(worst)


def test_the_whole_run_again_is_the_run(judge: Judge, tiny_run: TinyRun) -> None:
    """Without evaluation it has another id, and the very same weights."""
    judged = judge()
    retraining = judged.retraining()
    spec = retraining.edited(None)
    retraining.train([spec], "again")

    again, _ = open_view(tiny_run.out / "runs" / spec.run_id)
    for name, value in judged.opened.view.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_more_rows_than_half_of_the_pool_are_refused(judge: Judge) -> None:
    with pytest.raises(SpecError, match=r"evaluate\.removed: 32 rows, and the pool has"):
        removal.measure(judge(removed=32))


def test_an_estimator_that_is_not_scored_is_refused(judge: Judge) -> None:
    with pytest.raises(SpecError, match=r"'ekfac' is none of scores\.estimators \(grad_dot, "):
        _ = judge(estimators=("ekfac",)).labels


def test_a_baseline_among_the_estimators_is_a_baseline_and_no_name_stands_for_another(
    judge: Judge,
) -> None:
    judged = judge(baselines=("random", "bm25"))
    listed = {"grad_dot": "grad_dot", "bm25": "bm25", "words": {"kind": "bm25"}}
    spec = replace(judged.spec, scores=Scoring(estimators=listed))
    named = replace(judged.spec, scores=Scoring(estimators={"random": "grad_dot"}))

    own, other = (replace(judged, spec=one, _scores={}) for one in (spec, named))

    assert own.estimators == ("grad_dot",)
    assert own.baselines == ("bm25", "words", "random")
    assert own.labels == ("grad_dot", "bm25", "words", "random")
    with pytest.raises(
        SpecError, match=r"^scores\.estimators\.random: is of kind grad_dot, no ran"
    ):
        _ = other.labels


@pytest.mark.slow
def test_runs_go_at_once_on_workers(judge: Judge, tiny_run: TinyRun, tmp_path: Path) -> None:
    """The same losses as one after the other."""
    together = subsets.measure(judge(subsets=3, replicas=1, jobs=2, seed=77))
    apart = subsets.measure(judge(subsets=3, replicas=1, jobs=1, seed=77))

    assert together == apart
