"""Every other part on the tiny run, and an evaluation that is found again part by part."""

from __future__ import annotations

import gc
import json
import random
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.attribution import score_job
from harness.attribution.evaluate_spec import Choice, Evaluating, Part
from harness.attribution.evaluation import (
    choosing,
    mislabelled,
    models,
    planted,
    side_by_side,
    tail_patch,
)
from harness.attribution.evaluation import parts as evaluation_parts
from harness.attribution.evaluation.answers import generate
from harness.attribution.evaluation.judged import Judged
from harness.attribution.evaluation.lm_eval import unseeded
from harness.attribution.evaluation.metrics import measured
from harness.attribution.evaluation.parts import INDEX, evaluate, part_key
from harness.attribution.evaluation.removal import top
from harness.attribution.evaluation.scoring import Stores
from harness.attribution.opened import open_run
from harness.attribution.places import Places
from harness.attribution.query_spec import PromptQueries
from harness.attribution.rows import Pool, Queries, Shown
from harness.attribution.spec import Attribution
from harness.errors import SpecError
from harness.files import read_json
from harness.model import token_losses
from tests.harness.attribution.conftest import TinyRun
from tests.harness.attribution.evaluation.conftest import Direct, Judge


def of(judged: Judged, queries: Queries) -> Judged:
    """Return the same with other queries."""
    return replace(judged, queries=queries, _scores={})


def some(judged: Judged, count: int) -> Judged:
    """Return the same with its first queries alone."""
    few, own = slice(0, count), judged.queries
    batch = own.batch.select(few)
    return of(judged, Queries(batch, own.shown[few], own.names[few], f"first-{count}"))


def test_a_step_on_a_row_makes_it_likelier_and_leaves_the_run_as_it_was(judge: Judge) -> None:
    """The query is a train row itself, and the row that helps it most is that row."""
    judged = judge(patched=1, baselines=())
    pool, wanted = judged.pool, [3, 8, 20]
    shown = tuple(pool.shown(i) for i in wanted)
    judged = of(judged, Queries(pool.batch(wanted), shown, ("a", "b", "c"), "own rows"))
    model, optimizer = judged.opened.view.model, judged.opened.view.optimizer
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moments = [s["exp_avg"].clone() for s in optimizer.state_dict()["state"].values()]

    found = tail_patch.measure(judged)

    gains, control = found["gains"], np.array(found["control"])
    assert set(gains) == {"grad_dot", "backwards"}
    assert control.shape == (3, 3)
    assert np.mean(gains["grad_dot"]) > control.mean() > np.mean(gains["backwards"])
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    after = [s["exp_avg"] for s in optimizer.state_dict()["state"].values()]
    assert all(torch.equal(one, other) for one, other in zip(moments, after, strict=True))


def test_the_step_is_the_runs_own(judge: Judge) -> None:
    """AdamW by hand from the checkpoint's moments, clipped as the run was."""
    judged = judge()
    view, spec = judged.opened.view, judged.retraining().spec
    patch = tail_patch.Patch(view.model, view.optimizer, spec, rate=1e-2)
    rows = judged.pool.batch([1, 2])

    found = patch.loss_after(rows, rows.select(slice(0, 1)))

    names = [name for name, _ in view.model.named_parameters()]
    gradient = view.gradient(rows)
    size = torch.stack([g.norm() for g in gradient.values()]).norm()
    scale = min(1.0, spec.optimizer.clip / (float(size) + 1e-6)) if spec.optimizer.clip else 1.0
    order = [p for group in view.optimizer.param_groups for p in group["params"]]
    state = {id(p): view.optimizer.state[p] for p in order}
    one, two = spec.optimizer.betas
    moved = {}
    for name, p in view.model.named_parameters():
        own, g = state[id(p)], gradient[name] * scale
        step = int(own["step"]) + 1
        mean = (own["exp_avg"] * one + (1 - one) * g) / (1 - one**step)
        square = (own["exp_avg_sq"] * two + (1 - two) * g * g) / (1 - two**step)
        decay = spec.optimizer.weight_decay if p.ndim >= 2 else 0.0
        moved[name] = p.detach() * (1 - 1e-2 * decay) - 1e-2 * mean / (
            square.sqrt() + spec.optimizer.eps
        )
    assert set(moved) == set(names)
    along = {name: moved[name] - p.detach() for name, p in view.model.named_parameters()}
    losses = view.token_losses(rows.select(slice(0, 1)), along=along, eps=1.0)
    assert found == pytest.approx(float(losses.sum() / rows.mask[0].sum()), rel=1e-4)


def test_wrong_answers_are_anothers_and_every_row_has_its_loss(judge: Judge) -> None:
    judged = some(judge(mislabelled=0.2), 2)
    pool = judged.pool
    edit = mislabelled.wrong_answers(pool, 0.2, 0)

    found = mislabelled.measure(judged)

    texts = {pick: pool.shown(i).answer for i, pick in enumerate(pool.picks)}
    pairs = edit.answers["qa"]
    assert len(pairs) == round(0.2 * len(pool)) == len(found["wrong"])
    assert all(texts["qa", row] != texts["qa", giver] for row, giver in pairs)
    assert {pool.picks[i][1] for i in found["wrong"]} == {row for row, _ in pairs}
    assert set(found["values"]) == {"loss", "grad_dot"}  # "backwards" has no score on itself
    own = np.array(found["values"]["grad_dot"])
    assert len(own) == len(pool)
    assert (own > 0).all()  # a gradient's product with itself
    trained = open_run(judged.places.out / "runs" / found["run_id"])
    batch = trained.pool().batch(slice(None))
    with torch.no_grad():
        own_loss = token_losses(trained.view.model, batch).sum(1) / batch.mask.sum(1)
    assert np.allclose(found["values"]["loss"], own_loss.numpy(), atol=1e-5)


def test_every_other_answer_of_the_domain_can_be_given(pool: Pool) -> None:
    """Rows by answer are skipped one by one: the giver is uniform among the rows of others."""
    few = pool.only(range(6))
    answers = [one.answer for one in few.texts()]
    given: dict[int, set[int]] = {}
    for seed in range(80):
        for row, giver in mislabelled.wrong_answers(few, 0.5, seed).answers["qa"]:
            given.setdefault(row, set()).add(giver)

    rows = [row for _, row in few.picks]
    by_row = dict(zip(rows, answers, strict=True))
    for row in rows:
        assert given[row] == {other for other in rows if by_row[other] != by_row[row]}


def test_plain_text_has_no_labels(judge: Judge) -> None:
    class Plain:
        picks = (("a", 0),)

        def __len__(self) -> int:
            return 1

        def texts(self) -> Any:
            return [Shown("", "text")]

    with pytest.raises(SpecError, match="rows of plain text have no labels"):
        mislabelled.wrong_answers(Plain(), 0.5, 0)  # type: ignore[arg-type]


def test_invented_facts_are_distinct_keyed_and_in_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = planted.invent(30, seed=1)

    assert len({fact.name for fact in facts}) == len({fact.place for fact in facts}) == 30
    assert planted.invent(30, seed=1) == facts
    assert planted.invent(30, seed=2) != facts
    pairs = planted.stated(facts[:2], 3, has_prompts=True)
    assert len(pairs) == 6
    assert all(facts[0].name in prompt and facts[0].place in answer for prompt, answer in pairs[:3])
    known = f"{facts[0].name} and {facts[1].place.upper()}."
    others = [word for fact in planted.invent(30, seed=1, text=known) for word in fact]
    assert facts[0].name not in others
    assert facts[1].place not in others
    assert len(set(others)) == 60
    everything = " ".join(a + b for a in "bdfgklmnprstvz" for b in "aeiou")
    monkeypatch.setattr(planted, "_word", lambda *_: "ba")
    with pytest.raises(SpecError, match="2 names that no row holds were not found"):
        planted.invent(2, 0, everything)
    joined = planted.stated(facts[:1], 1, has_prompts=False)
    assert joined == (("", "".join(pairs[0])),)


def test_planted_facts_are_trained_on_and_their_ranks_are_counted(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = judge(facts=3, copies=2, baselines=("bm25",))
    with pytest.raises(SpecError, match=r"needs rows of \d\d tokens, and batch\.tokens is 24"):
        planted.measure(judged)
    short = (("{name} is", " {place}"), ("{name} of", " {place}"))
    monkeypatch.setattr(planted, "STATEMENTS", short)
    monkeypatch.setattr(planted, "QUESTION", ("{name} in", " {place}"))

    found = planted.measure(judged)

    assert found["rows"] == len(judged.pool) + 6
    ranks = {label: np.array(own) for label, own in found["ranks"].items()}
    assert {label: own.shape for label, own in ranks.items()} == {
        label: (3, 2) for label in ("grad_dot", "backwards", "bm25")
    }
    assert np.array_equal(ranks["backwards"], found["rows"] + 1 - ranks["grad_dot"])
    assert (ranks["bm25"] <= 2).all()  # an invented name is in its own rows alone


def test_models_answer_side_by_side(judge: Judge, tiny_run: TinyRun) -> None:
    judged = judge(prompts=3, max_new_tokens=6, runs=(str(tiny_run.folder),))
    with pytest.raises(SpecError, match="holds no finished run"):
        models.names(judge(runs=("nowhere",)))

    judged = judge(prompts=3, max_new_tokens=6)
    found = side_by_side.measure(judged)

    assert found["models"] == ["base", "fine-tuned"]
    assert [row["query"] for row in found["answers"]] == [
        judged.queries.names[i] for i in (0, 2, 5)
    ]
    first = found["answers"][0]
    assert first["right"] == judged.queries.shown[0].answer
    assert set(first["metrics"]["base"]) == {"exact", "f1", "rouge1", "rouge2", "rougeL"}
    scores = judged.scores("grad_dot")[:, 2]
    behind = found["answers"][1]["rows"]["grad_dot"]
    assert [tuple(row["row"]) for row in behind] == [
        judged.pool.picks[i] for i in np.argsort(-scores)[:3]
    ]
    prompts = [judged.queries.shown[i].prompt for i in (0, 2, 5)]
    said = generate(judged.opened, prompts, 6, lambda _: None)
    assert [row["answers"]["fine-tuned"] for row in found["answers"]] == said
    assert [row["answers"]["base"] for row in found["answers"]] != said
    assert first["metrics"]["base"] == measured(first["answers"]["base"], first["right"])


def test_plain_text_is_continued() -> None:
    assert side_by_side.prompted(Shown("Q?", " A")) == ("Q?", " A")
    assert side_by_side.prompted(Shown("", "one two three four")) == ("one two", " three four")
    assert side_by_side.prompted(Shown("", "one")) == ("one", "")


def test_generated_answers_have_no_right_one(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = judge(prompts=2, max_new_tokens=4)
    asked = replace(judged.spec, queries=PromptQueries(path="prompts.json"))

    lines: list[str] = []
    monkeypatch.setattr(side_by_side, "prompted", lambda shown: ("word " * 200, shown.answer))
    found = side_by_side.measure(replace(judged, spec=asked, say=lines.append))

    cut = "answers: 2 of 2 prompts were cut to their last"
    assert [line.split(cut)[0] for line in lines] == ["base: ", "fine-tuned: "]
    assert found["generated"]
    assert all(row["right"] is None and not row["metrics"] for row in found["answers"])


def test_every_model_chooses(judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "law_test.csv").write_text("who?,a,b,c,d,A\nwhat?,a,b,c,d,D\nwhen?,a,b,c,d,B\n")
    retraining = judge().retraining()
    again = retraining.edited(None)
    retraining.train([again], "again")
    folder = str(retraining.places.out / "runs" / again.run_id)
    questions = Choice(paths=(str(tmp_path / "law_test.csv"),))
    judged = judge(parts=("choice",), choice=questions, runs=(folder,))

    found = choosing.measure(judged)

    assert found["subjects"] == ["law"] * 3
    assert found["models"] == list(found["answered"]) == ["base", "fine-tuned", again.run_id]
    assert found["answered"][again.run_id] == found["answered"]["fine-tuned"]  # the same weights
    assert found["answered"]["base"]["nats"] != found["answered"]["fine-tuned"]["nats"]
    assert all(len(own["right"]) == len(own["nats"]) == 3 for own in found["answered"].values())
    assert found["lm_eval"] == {}


def test_lm_eval_that_is_not_installed_is_one_line(judge: Judge) -> None:
    from importlib.util import find_spec

    if find_spec("lm_eval") is not None:
        pytest.skip("lm-evaluation-harness is installed")

    with pytest.raises(SpecError, match=r'pip install "steelyard\[lm-eval\]"'):
        choosing.measure(judge(parts=("choice",), lm_eval=("mmlu",)))


def test_no_generator_is_moved_by_what_seeds_them_all() -> None:
    legacy = np.random.get_state()  # noqa: NPY002
    before = random.getstate(), legacy[1].tolist(), torch.get_rng_state()  # type: ignore[index]

    with unseeded():
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    assert random.getstate() == before[0]
    state = np.random.get_state()  # noqa: NPY002
    assert state[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_model_is_let_go_before_the_next(judge: Judge) -> None:
    each = models.each(judge())
    one = next(each)
    base = weakref.ref(one.model)
    del one

    assert next(each).name == "fine-tuned"
    gc.collect()
    assert base() is None


def test_a_part_is_told_by_what_is_in_its_files_and_runs(
    judge: Judge, tiny_run: TinyRun, tmp_path: Path
) -> None:
    path, moved = tmp_path / "law_test.csv", tmp_path / "moved/runs"
    path.write_text("who?,a,b,c,d,A\n")
    retraining = judge().retraining()
    again = retraining.edited(None)
    retraining.train([again], "again")
    moved.mkdir(parents=True)
    folder = tiny_run.out / "runs" / again.run_id
    (moved / again.run_id).symlink_to(folder, target_is_directory=True)
    questions = Choice(paths=(str(tmp_path / "*.csv"),))
    here = judge(parts=("choice",), choice=questions, runs=(str(folder),))
    there = judge(parts=("choice",), choice=questions, runs=(str(moved / again.run_id),))

    before = part_key(here, "choice")

    assert part_key(there, "choice") == before
    assert part_key(judge(parts=("choice",), choice=questions), "choice") != before
    path.write_text("who?,a,b,c,d,B\n")  # as many bytes as before
    assert part_key(here, "choice") == before  # what is measured is what was read
    edited = judge(parts=("choice",), choice=questions, runs=(str(folder),))
    assert part_key(edited, "choice") != before


def test_questions_may_move(judge: Judge, tmp_path: Path) -> None:
    """Neither paths nor a data set's folder decide a key: the questions do, and the shots."""
    pytest.importorskip("datasets")
    row = '{"question": "who?", "subject": "law", "choices": ["a","b","c","d"], "answer": %d}\n'
    for name, right in (("one", 0), ("moved", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.jsonl").write_text(row % right)
        (tmp_path / name / "law_test.csv").write_text(f"who?,a,b,c,d,{'AB'[right]}\n")

    def key(**choice: Any) -> str:
        return part_key(judge(parts=("choice",), choice=Choice(**choice)), "choice")

    def folder(name: str) -> dict[str, str]:
        return {"dataset": str(tmp_path / name), "config": "default"}

    def csv(name: str) -> tuple[str]:
        return (str(tmp_path / name / "law_test.csv"),)

    one = key(paths=csv("one"))
    assert key(paths=csv("moved")) == one
    assert key(paths=csv("other")) != one
    assert key(paths=csv("one"), shots=1) != one
    for name in ("one", "moved", "other"):
        (tmp_path / name / "law_test.csv").unlink()
    assert key(**folder("one")) == key(**folder("moved")) == one
    assert key(**folder("other")) != one


def test_choice_needs_questions() -> None:
    with pytest.raises(ValueError, match=r"choice needs questions; set choice\.paths"):
        Evaluating(parts=("choice",))
    with pytest.raises(ValueError, match="exactly one of paths and dataset"):
        Choice()


def test_an_evaluation_is_found_part_by_part(judge: Judge, tiny_run: TinyRun) -> None:
    judged = some(judge(parts=("tail_patch", "answers"), max_new_tokens=3, prompts=2), 3)
    lines: list[str] = []

    def carry_out(spec: Attribution) -> tuple[Path, list[str]]:
        scorer = Direct()
        parts = (judged.opened, judged.pool, judged.queries, spec, judged.places, judged.progress)
        return evaluate(*parts, lines.append, scorer), scorer.asked

    folder, asked = carry_out(judged.spec)
    first = read_json(folder / INDEX)
    files = [json.loads((folder / name).read_text()) for name in first["parts"].values()]

    assert folder == judged.places.evaluation
    assert asked
    assert [one["part"] for one in files] == ["tail_patch", "answers"]
    assert first["estimators"] == ["grad_dot", "backwards"]
    assert first["run_id"] == tiny_run.folder.name
    assert first["step"] == first["num_steps"] == 40
    assert carry_out(judged.spec)[1] == []  # nothing is scored again
    assert lines[-2:] == [
        f"{part}: found measured ({part_key(judged, part)})" for part in ("tail_patch", "answers")
    ]
    longer = replace(judged.spec, evaluate=replace(judged.options, patched=4))
    carry_out(longer)
    second = read_json(folder / INDEX)["parts"]
    assert second["answers"] == first["parts"]["answers"]
    assert second["tail_patch"] != first["parts"]["tail_patch"]


def test_parts_measured_before_stay_on_the_page(judge: Judge) -> None:
    """As long as they are of the same options: another part alone drops none of them."""
    judged = some(judge(parts=("tail_patch",), max_new_tokens=3, prompts=2), 3)
    lines: list[str] = []

    def shown(**options: Any) -> list[str]:
        lines.clear()
        spec = replace(judged.spec, evaluate=replace(judged.options, **options))
        parts = (judged.opened, judged.pool, judged.queries, spec, judged.places, judged.progress)
        return list(read_json(evaluate(*parts, lines.append, Direct()) / INDEX)["parts"])

    shown(parts=("answers",))

    assert shown(parts=("tail_patch",)) == ["tail_patch", "answers"]
    assert "answers: measured before, shown too" in lines
    assert shown(parts=("answers",), patched=4) == ["answers"]  # not of these options
    missing = {"runs": ("nowhere",)}  # only answers would read it
    assert shown(parts=("tail_patch",), **missing) == ["tail_patch"]


def test_a_part_is_of_the_code_that_its_scores_are_of(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corrected estimator is scored anew, and so is what it was judged by."""
    judged = judge(choice=None)
    stores = Stores(judged.spec, judged.places, judged.progress, judged.say)
    judged = replace(judged, scorer=stores, _scores={})
    parts: tuple[Part, ...] = ("lds", "removal", "tail_patch", "mislabelled", "planted", "answers")

    def keys() -> list[str]:
        return [part_key(judged, part) for part in parts]

    before, unscored = keys(), part_key(judged, "choice")
    assert keys() == before
    with monkeypatch.context() as patch:
        patch.setattr(score_job, "code", lambda *_: "renewed")
        assert not set(keys()) & set(before)
        assert part_key(judged, "choice") == unscored
    with monkeypatch.context() as patch:
        patch.setattr(score_job, "factors_decisions", lambda *_: {"masked": [["qa", 3]]})
        assert not set(keys()) & set(before)
    monkeypatch.setattr(evaluation_parts, "code", lambda *_: "renewed")
    assert [a == b for a, b in zip(keys(), before, strict=True)] == [
        part not in ("lds", "removal", "tail_patch", "planted") for part in parts
    ]


class Fitting(Direct):
    """Leaves out rows when it is first asked, as a fit on the way may."""

    def __init__(self) -> None:
        super().__init__()
        self.decided: str | None = None

    def scores(self, *args: Any) -> np.ndarray:
        self.decided = "a row is left out"
        return super().scores(*args)

    def identity(self, label: str, *_: Any) -> dict[str, Any]:
        return {"label": label, "decisions": self.decided}


def test_a_part_is_named_by_what_was_decided_while_it_was_measured(judge: Judge) -> None:
    judged = some(judge(parts=("tail_patch", "answers"), max_new_tokens=3, prompts=2), 3)
    what = (judged.opened, judged.pool, judged.queries, judged.spec, judged.places)
    scorer, lines = Fitting(), list[str]()
    folder = evaluate(*what, judged.progress, lines.append, scorer)
    first = read_json(folder / INDEX)["parts"]
    asked = list(scorer.asked)

    evaluate(*what, judged.progress, lines.append, scorer)

    assert read_json(folder / INDEX)["parts"] == first
    assert scorer.asked == asked  # nothing is scored again
    assert [line.partition(" (")[0] for line in lines] == [
        f"{part}: found measured" for part in ("tail_patch", "answers")
    ]


def test_every_label_is_checked_before_one_is_judged(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Direct):
        def check(self, label: str, *_: Any) -> None:
            if label == "backwards":
                raise SpecError("there is no going backwards")

    def judged_by(scorer: Direct, *parts: Part) -> None:
        judged = some(judge(parts=parts), 3)
        what = (judged.opened, judged.pool, judged.queries, judged.spec, judged.places)
        evaluate(*what, judged.progress, judged.say, scorer)

    scorer = Refusing()
    with pytest.raises(SpecError, match="there is no going backwards"):
        judged_by(scorer, "tail_patch")
    assert not scorer.asked
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(SpecError, match=r"evaluate.baselines: bm25 needs bm25s .*; pip install"):
        judged_by(Direct(), "tail_patch")


def test_scores_that_are_not_finite_are_named(judge: Judge) -> None:
    class Broken(Direct):
        def scores(self, *args: Any) -> np.ndarray:
            found = super().scores(*args)
            found[4, 1] = np.inf
            return found

    judged = replace(judge(), scorer=Broken(), _scores={})

    with pytest.raises(FloatingPointError, match="grad_dot: 1 scores are not finite, the first of"):
        judged.scores("grad_dot")


class Masking(Direct):
    """Knows nothing of a row and of a query, by one estimator."""

    def scores(self, label: str, *args: Any) -> np.ndarray:
        found = np.array(super().scores(label, *args))
        if label == "backwards":
            found[4], found[:, 1] = np.nan, np.nan
        return found

    def own(self, *args: Any) -> np.ndarray | None:
        found = super().own(*args)
        if found is None:
            return None
        found = np.array(found)
        found[4] = np.nan
        return found


def test_what_is_masked_is_no_zero(judge: Judge) -> None:
    """A query without scores is left out for all labels; a row without them comes last."""
    asked = judge(parts=("tail_patch",), baselines=(), patched=2)
    judged = replace(some(asked, 3), scorer=Masking(), _scores={})
    parts = (judged.opened, judged.pool, judged.queries, judged.spec, judged.places)
    names, lines = judged.queries.names, []

    folder = evaluate(*parts, judged.progress, lines.append, Masking())

    index = read_json(folder / INDEX)
    found = read_json(folder / index["parts"]["tail_patch"])
    assert found["masked_queries"] == [names[1]]
    assert found["masked_rows"] == {"backwards": 1}
    assert lines == ["tail_patch: without 1 queries that an estimator has masked"]
    assert {label: len(own) for label, own in found["gains"].items()} == {
        "grad_dot": 2,
        "backwards": 2,
    }
    known = judged.known()
    assert known.queries.names == (names[0], names[2])
    assert known.queries.id != judged.queries.id
    assert torch.equal(known.queries.batch.inputs, judged.queries.batch.inputs[[0, 2]])
    assert top(known.scores("backwards")[:, 0], len(judged.pool))[-1] == 4
    assert np.array_equal(known.scores("grad_dot"), judged.scores("grad_dot")[:, [0, 2]])
    values = judged.self_influence("grad_dot", judged.opened, judged.pool)
    assert values is not None
    assert np.isnan(values).nonzero()[0].tolist() == [4]


def test_places_are_the_attributions_own(tmp_path: Path) -> None:
    assert Places(tmp_path, "x").evaluation == tmp_path / "attribution/x/evaluation"
