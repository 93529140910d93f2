"""Loss on answers alone, from files to bits per byte, against an independent reading of both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Loaded

from baselines.influence import Influence
from harness.corpus import TokenStore, open_corpus
from harness.cost import Meter
from harness.errors import SpecError
from harness.influence.directional import row_losses
from harness.influence.directional_estimator import Directional
from harness.loop import InterruptedRunError
from harness.model import token_losses
from harness.spec import Batching, Corpus, FilesDomain, RunSpec, SyntheticDomain, Tokenizer
from tests.harness.corpus.test_bad_inputs import prose
from tests.tiny import ONLY_AT_THE_END, Onlooker, assemble_loop, run_spec

TOKENS = 16
ROWS = {f"{prose(i)}?": f"It is {prose(i + 500)}" for i in range(60)}
PROMPT, ANSWER = "Question: {q}\nAnswer:", " {a}"


def write(folder: Path) -> FilesDomain:
    """Write questions and answers as JSON lines; return their domain."""
    rows = (json.dumps({"q": q, "a": a}) + "\n" for q, a in ROWS.items())
    (folder / "qa.jsonl").write_text("".join(rows))
    return FilesDomain(paths=(str(folder / "qa.jsonl"),), prompt=PROMPT, answer=ANSWER)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, TokenStore]:
    """Return a corpus of questions with answers, and of sentences that count whole."""
    folder = tmp_path_factory.mktemp("answers")
    domains: dict[str, Any] = {
        "qa": write(folder),
        "plain": SyntheticDomain(num_documents=60, words_per_document=60),
    }
    spec = Corpus(domains=domains, tokenizer=Tokenizer(vocab_size=400))
    return spec, open_corpus(spec, folder / "corpora")


def spec_on(answers: tuple[Corpus, TokenStore], **changes: Any) -> RunSpec:
    """Return the tiny run on that corpus."""
    corpus, store = answers
    settings = {"corpus": corpus, "targets": {"qa": 1.0}, "batch": Batching(rows=8, tokens=TOKENS)}
    return run_spec(store, **{**settings, **changes})


def test_the_mask_covers_answers_and_ends_of_text_alone(answers: tuple[Corpus, TokenStore]) -> None:
    """Read from the files with numpy and the tokenizer alone: counted tokens spell the answers."""
    folder = answers[1].folder
    tokenizer = Loaded.from_file(str(folder / "tokenizer.json"))
    met, facts = 0, json.loads((folder / "manifest.json").read_text())["domains"]
    for split in ("train", "probe", "tuning", "heldout"):
        stream = np.load(folder / f"qa.{split}.tokens.npy")
        mask = np.load(folder / f"qa.{split}.mask.npy")
        assert (mask.dtype, mask.shape) == (np.bool_, stream.shape)
        assert facts["qa"]["splits"][split]["targets"] == mask.sum()
        starts = np.load(folder / f"qa.{split}.documents.npy")
        for tokens, counts in zip(
            np.split(stream, starts[1:]), np.split(mask, starts[1:]), strict=True
        ):
            prompt = tokenizer.decode(tokens[~counts].tolist())
            answer = tokenizer.decode(tokens[counts][:-1].tolist())
            question = prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
            assert answer == f" {ROWS[question]}"
            assert (tokens[-1], counts[-1]) == (0, True)
            assert (np.diff(counts.astype(int)) >= 0).all(), "first the prompt, then the answer"
            met += 1
    assert met == len(ROWS)
    assert facts["qa"]["loss"] == "answer"
    assert facts["plain"]["loss"] == "all"
    assert not list(folder.glob("plain.*.mask.npy"))


def test_batches_carry_the_mask_of_their_targets(answers: tuple[Corpus, TokenStore]) -> None:
    """Shifted by one, as targets are; domains without prompts count whole."""
    store = answers[1]
    loop = assemble_loop(spec_on(answers), store, store.folder.parent / "mask")
    batch = loop.stream.train.batch([("qa", 2), ("plain", 0), ("qa", 0)], store.domains, "cpu")
    first = 2 * TOKENS + 1
    mask = np.load(store.folder / "qa.train.mask.npy")

    assert batch.mask[0].tolist() == mask[first : first + TOKENS].tolist()
    assert bool(batch.mask[1].all())
    assert batch.mask[2].tolist() == mask[1 : TOKENS + 1].tolist()


def test_evaluation_counts_tokens_and_bytes_of_answers(answers: tuple[Corpus, TokenStore]) -> None:
    """Nats, tokens and bytes of the counted targets, by hand from the files."""
    store = answers[1]
    loop = assemble_loop(spec_on(answers), store, store.folder.parent / "eval")
    assert loop.evaluator is not None
    evaluator = replace(loop.evaluator, rows=10_000)
    record = next(r for r in evaluator.evaluate(loop.view.model, Meter()) if r["domain"] == "qa")
    stream = np.load(store.folder / "qa.heldout.tokens.npy")
    size = (len(stream) - 1) // TOKENS * TOKENS
    counted = stream[1 : size + 1][np.load(store.folder / "qa.heldout.mask.npy")[1 : size + 1]]
    tokenizer = Loaded.from_file(str(store.folder / "tokenizer.json"))
    num_bytes = sum(len(tokenizer.id_to_token(t)) for t in counted.tolist() if t != 0)
    picks = [("qa", row) for row in range(size // TOKENS)]
    batch = evaluator.shelves["heldout"].batch(picks, store.domains, "cpu")
    with torch.no_grad():
        nats = token_losses(loop.view.model, batch).double()[batch.mask].sum()

    assert record["num_tokens"] == len(counted) < size  # rows without any are left out of both
    assert record["num_bytes"] == num_bytes
    assert record["nats_per_token"] == pytest.approx(float(nats) / len(counted), rel=1e-6)


def test_rows_without_a_counted_target_divide_nothing_by_zero(
    answers: tuple[Corpus, TokenStore], tmp_path: Path
) -> None:
    """A batch that is all prompt: loss 0, no gradient, finite parameters, and no influence."""
    loop = assemble_loop(spec_on(answers), answers[1], tmp_path)
    shelf = loop.stream.train
    nothing = {"qa": np.zeros_like(shelf.masks["qa"]), "plain": np.zeros(10**5, np.bool_)}
    loop.stream = replace(loop.stream, train=replace(shelf, masks=nothing))
    loop.view.stream = loop.stream
    loop.start()
    loop.step()
    loop.close()
    rows = loop.stream.train.batch([("qa", 0), ("plain", 1)], answers[1].domains, "cpu")
    gradient = loop.view.gradient(rows)

    assert loop.view.step == 1
    assert all(bool(p.isfinite().all()) for p in loop.view.model.parameters())
    assert all(float(g.abs().max()) == 0 for g in gradient.values())
    assert row_losses(loop.view, rows, gradient, 0.0).tolist() == [0.0] * len(rows.rows)


@pytest.mark.parametrize("micro_rows", [None, 2])
def test_the_steps_loss_is_the_mean_over_counted_targets(
    answers: tuple[Corpus, TokenStore], tmp_path: Path, micro_rows: int | None
) -> None:
    """Of the whole batch, in one pass or in four."""
    batching = Batching(rows=8, tokens=TOKENS, micro_rows=micro_rows)
    watch = Onlooker()
    loop = assemble_loop(spec_on(answers, batch=batching), answers[1], tmp_path, watch)
    loop.start()
    weights = loop.spec.mixer.propose(loop.view, loop.state)
    batch = loop.stream.draw(weights, torch.zeros(2).long(), 0, 8)
    with torch.no_grad():
        losses = token_losses(loop.view.model, batch)
    loop.step()
    loop.close()
    record = next(record for record in watch.records if record["kind"] == "step")

    assert 0 < int(batch.mask.sum()) < batch.mask.numel()
    assert record["loss"] == pytest.approx(float(losses[batch.mask].mean()), rel=1e-5)


def test_rows_that_are_all_prompt_are_trained_on_and_never_measured(
    answers: tuple[Corpus, TokenStore], tmp_path: Path
) -> None:
    """Probes, candidates and evaluations take rows with a loss; a probe gradient is never 0."""
    store = answers[1]
    loop = assemble_loop(spec_on(answers), store, tmp_path)
    qa = store.domains.index("qa")
    candidates, probes = loop.view.candidates(10_000), loop.view.probes(10_000)
    stream = np.load(store.folder / "qa.train.tokens.npy")
    size = (len(stream) - 1) // TOKENS
    mask = np.load(store.folder / "qa.train.mask.npy")[1 : size * TOKENS + 1]
    expected = np.flatnonzero(mask.reshape(size, TOKENS).sum(1))

    assert sorted(candidates.rows[candidates.domains == qa].tolist()) == expected.tolist()
    assert len(expected) < size == loop.stream.train.num_rows("qa")
    assert bool(probes.mask.any(1).all())


def test_a_stopped_run_on_answers_resumes_to_the_same_bits(
    answers: tuple[Corpus, TokenStore], tmp_path: Path
) -> None:
    """With a method that looks at candidates and probes on the way."""
    mixer = Influence(every=4, rows=2, probe_rows=4, estimator=Directional(check_rows=2))
    spec = spec_on(answers, mixer=mixer)
    whole = Onlooker()
    assemble_loop(spec, answers[1], tmp_path / "whole", whole).run()
    first = assemble_loop(
        spec, answers[1], tmp_path / "cut", Onlooker(stop_after=5), every=ONLY_AT_THE_END
    )
    with pytest.raises(InterruptedRunError):
        first.run()
    rest = Onlooker()
    assemble_loop(spec, answers[1], tmp_path / "cut", rest).run()

    def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in record.items() if k != "seconds"} for record in records]

    assert timeless(rest.records) == timeless(whole.records)
    assert any(record["kind"] == "note" for record in whole.records)


def test_an_answer_that_lies_in_no_whole_row_is_refused(
    answers: tuple[Corpus, TokenStore],
) -> None:
    """Before any run: a split whose only answers are in the rest that no row holds."""
    from harness.preflight import check_rows
    from harness.spec import Ablation

    corpus, store = answers
    cut = {(d, s): store.mask(d, s) for d in ("qa",) for s in ("train", "probe", "heldout")}
    cut["qa", "heldout"] = np.zeros_like(cut["qa", "heldout"])
    arms = {"one": {"method": "static"}}
    ablation = Ablation(
        name="t", target="qa", seeds=(0,), domains=corpus.domains, arms=arms, baseline="one",
        budget={"steps": 3}, batch={"tokens": TOKENS},
    )  # fmt: skip

    check_rows(ablation, store)
    with pytest.raises(SpecError, match=r"domains\.qa: no answer lies in a whole row .* heldout"):
        check_rows(ablation, replace(store, _masks=cut))
