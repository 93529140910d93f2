"""A training set that scores have filtered or weighted: what is in it, and that a run reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.attribution import select_spec
from harness.attribution.desk import load_attribution
from harness.attribution.select import Selecting, select
from harness.attribution.store import ScoreStore
from harness.attribution.values import values
from harness.corpus import open_corpus
from harness.corpus.store import read_store
from harness.errors import SpecError
from harness.specfile import load_ablation
from harness.stream import Shelf
from tests.reports.attribution.made_stores import some_queries, some_rows, write_store


def made(folder: Path, scores: Any, **about: Any) -> ScoreStore:
    """Return a store of scores [N, Q]."""
    scores = np.asarray(scores, float)
    return write_store(
        folder, scores, some_rows(len(scores)), some_queries(scores.shape[1]), **about
    )


def of_run(folder: Path, opened: Any, **about: Any) -> ScoreStore:
    """Return a store that scores the shared run's rows by their number: the last is the best."""
    from harness.attribution.store import Row

    pool = opened.pool()
    rows = [
        Row(domain, row, "", pool.shown(i).text, 1) for i, (domain, row) in enumerate(pool.picks)
    ]
    return write_store(folder, np.arange(len(rows))[:, None], rows, some_queries(1), **about)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_value_weighs_queries_alike_and_turns_unwanted_ones_round(tmp_path: Path) -> None:
    scores = np.array([[3.0, 100.0, 1.0], [1.0, 300.0, 1.0], [-4.0, 200.0, 5.0]])
    store = made(tmp_path / "s", scores, masked_queries=[])

    found = values([store], unwanted=["^q1$"])

    scaled = scores / scores.std(0)
    np.testing.assert_allclose(found, scaled[:, [0, 2]].mean(1) - scaled[:, 1], rtol=1e-5)
    np.testing.assert_allclose(values([store], ["q0"]), scaled[:, 0], rtol=1e-5)
    both = values([store, made(tmp_path / "t", -scores)])
    np.testing.assert_allclose(both, 0, atol=1e-6)


def test_masked_rows_have_no_value_and_faint_scores_none_either(tmp_path: Path) -> None:
    masked = [{"place": 2, "domain": "qa", "why": "NaN"}]
    scores = [[1.0], [-1.0], [0.0], [0.1]]
    store = made(tmp_path / "s", scores, masked_rows=masked, threshold=0.5)

    found = values([store])

    assert np.isnan(found[2])
    assert found[3] == 0
    assert found[0] > 1 > -1 > found[1]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep": 0.3}, [7, 8, 9]),
        ({"drop": 0.2}, [2, 3, 4, 5, 6, 7, 8, 9]),
        ({"drop": 4}, [4, 5, 6, 7, 8, 9]),
        ({"drop": 3, "unwanted": ("q0",), "queries": ()}, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_most_helpful_stay_and_the_most_harmful_go(
    options: dict[str, Any], kept: list[int], tmp_path: Path
) -> None:
    """With an unwanted query, what lowers its loss is what goes."""
    store = made(tmp_path / "s", np.arange(10)[:, None])
    to = tmp_path / "deep/kept.jsonl"

    counts = select([store.folder], Selecting(**options), to)

    assert [line["row"] for line in lines(to)] == kept
    assert (counts["kept"], counts["left_out"]) == (len(kept), 10 - len(kept))
    told = json.loads(to.with_suffix(".provenance.json").read_text())
    assert told["stores"][0]["identity"] == store.about["identity"]
    assert told["files"]["qa"]["rows"] == len(kept)
    assert told["unwanted"] == (["q0"] if "unwanted" in options else [])


def test_softmax_weights_become_tiers(tmp_path: Path) -> None:
    store = made(tmp_path / "s", np.arange(8)[:, None])
    to = tmp_path / "w.jsonl"

    select([store.folder], Selecting(weights=0.5, tiers=2), to)

    high, low = (lines(tmp_path / f"w-qa-tier{n}.jsonl") for n in (1, 2))
    assert [line["row"] for line in high] == [7, 6, 5, 4]
    z = (np.arange(8) - 3.5) / np.arange(8).std() / 0.5
    wanted = np.exp(z) / np.exp(z).mean()
    np.testing.assert_allclose([line["weight"] for line in high], wanted[:3:-1], rtol=1e-4)
    assert "settings.weights = { qa-tier1 = 0.9704" in to.with_suffix(".toml").read_text()
    assert len(low) == 4


def spec_of(to: Path, opened: Any, rest: str) -> Path:
    """Return a spec with the written domains and the run's own tokenizer."""
    path = to.with_name("next.toml")
    tokenizer = json.dumps(str(opened.store.folder / "tokenizer.json"))
    head = f'name = "next"\ntokenizer = {{ kind = "pretrained", source = {tokenizer} }}\n{rest}\n'
    path.write_text(head + to.with_suffix(".toml").read_text())
    return path


def texts(store: Any, split: str) -> set[bytes]:
    """Return the documents of a split, as tokens."""
    starts, stream = store.documents("qa", split), store.stream("qa", split)
    return {part.tobytes() for part in np.split(stream, starts[1:])}


def test_the_next_run_reads_what_was_kept_and_the_same_held_back_text(
    opened: Any, tmp_path: Path
) -> None:
    """Through the building of the corpus, to the token."""
    store, to = of_run(tmp_path / "s", opened), tmp_path / "kept.jsonl"
    counts = select([store.folder], Selecting(keep=0.5), to, opened)
    first = lines(to)[0]
    assert first["prompt"].startswith("Q: What is")
    assert first["answer"].startswith(" ")

    spec = load_attribution(spec_of(to, opened, ""), [], "p")
    found = open_corpus(spec.corpus, tmp_path / "corpora")

    assert len(texts(found, "train")) == counts["kept"] == round(0.5 * counts["scored"])
    assert texts(found, "train") < texts(opened.store, "train")
    for split in ("probe", "tuning", "heldout"):
        assert texts(found, split) == texts(opened.store, split)
    assert read_store(found.folder).manifest["domains"]["qa"]["loss"] == "answer"


def test_tiers_are_domains_of_an_ablation(opened: Any, tmp_path: Path) -> None:
    from harness.cli import find_method

    store, to = of_run(tmp_path / "s", opened), tmp_path / "w.jsonl"
    select([store.folder], Selecting(weights=1.0, tiers=2), to, opened)
    rest = (
        'target = "qa"\nbaseline = "natural"\nseeds = [0]\n'
        'model = { size = "nano" }\nbudget = { steps = 4 }\n'
        "batch = { rows = 8, tokens = 24, pack = false }\n"
    )
    path = spec_of(to, opened, rest)
    path.write_text(
        path.read_text() + '[arms.natural]\nmethod = "static"\nsettings = { weights = "natural" }\n'
    )

    spec = load_ablation(path, (), find_method)
    found = open_corpus(spec.corpus, tmp_path / "corpora")

    assert found.trained == ("qa-tier1", "qa-tier2")
    assert "qa" in found.domains
    weights = spec.arms["weighted"].settings.weights
    assert weights["qa-tier1"] > 0.6
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-5)


def test_rows_that_were_not_scored_stay_where_something_is_dropped(
    opened: Any, tmp_path: Path
) -> None:
    pool = opened.pool()
    from harness.attribution.store import Row

    rows = [Row(*pool.picks[i], "", "x", 1) for i in range(10)]
    store = write_store(tmp_path / "s", np.arange(10)[:, None], rows, some_queries(1))

    dropped = select([store.folder], Selecting(drop=4), tmp_path / "a.jsonl", opened)
    kept = select([store.folder], Selecting(keep=0.5), tmp_path / "b.jsonl", opened)

    assert (dropped["rows"], dropped["scored"]) == (len(pool), 10)
    assert dropped["kept"] == len(pool) - 4
    assert kept["kept"] == 5
    assert lines(tmp_path / "a.jsonl")[-1]["value"] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "set one of keep, drop and weights; none is set"),
        ({"keep": 0.5, "drop": 3}, "keep and drop is set"),
        ({"drop": 2.5}, "from 1 on it is a number of rows, a whole one"),
        ({"keep": 1.5}, "less than or equal to 1"),
    ],
)
def test_options_that_exclude_each_other(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Selecting(**given)


@pytest.mark.parametrize(
    ("options", "to", "said"),
    [
        ({"drop": 11}, "a.jsonl", "drop: 11 rows, but 10 have a score; drop fewer"),
        ({"drop": 10}, "a.jsonl", "no row is left of 10"),
        ({"keep": 0.5}, "a.json", r"is JSON lines; name it .*a\.jsonl"),
        ({"keep": 0.5, "unwanted": ("z",)}, "a.jsonl", "unwanted: 'z' matches no query"),
        ({"keep": 0.5, "queries": ("(",)}, "a.jsonl", r"queries: '\(' is no regular expression"),
        ({"keep": 0.5, "queries": ("q",), "unwanted": ("q0",)}, "a.jsonl", "wanted and unwanted"),
    ],
)
def test_what_cannot_be_selected_is_one_line(
    options: dict[str, Any], to: str, said: str, tmp_path: Path
) -> None:
    store = made(tmp_path / "s", np.arange(10)[:, None])

    with pytest.raises(SpecError, match=said) as refused:
        select([store.folder], Selecting(**options), tmp_path / to)

    assert "\n" not in str(refused.value)
    assert not (tmp_path / to).exists()


def test_stores_of_other_rows_are_refused(tmp_path: Path) -> None:
    one, other = made(tmp_path / "a", np.ones((3, 1))), tmp_path / "b"
    made(other, np.ones((3, 1)), label="x", identity={"rows": "else", "queries": "q"})

    with pytest.raises(SpecError, match="scores of 'ekfac' and 'x' are of other rows"):
        select([one.folder, other], Selecting(keep=0.5), tmp_path / "k.jsonl")
    with pytest.raises(SpecError, match="no scores; run attribute score first"):
        select([], Selecting(keep=0.5), tmp_path / "k.jsonl")


class Masked:
    """The corpus of the shared run, with other targets counted."""

    def __init__(self, store: Any, mask: Any) -> None:
        """Keep what is there."""
        self._store, self._mask = store, mask

    def __getattr__(self, name: str) -> Any:
        """Return what the corpus has."""
        return getattr(self._store, name)

    def mask(self, domain: str, split: Any) -> Any:
        """Return which tokens are counted."""
        return self._mask


def test_a_prompt_ends_at_the_first_counted_token(opened: Any) -> None:
    """What is not counted behind it belongs to the answer: nothing is cut in the wrong place."""
    plain = select_spec.document(opened, "train", "qa", 0)
    mask = np.array(opened.store.mask("qa", "train"))
    first = int(np.flatnonzero(mask)[0])
    mask[first + 1 : first + 3] = False

    found = select_spec.document(
        replace(opened, store=Masked(opened.store, mask)), "train", "qa", 0
    )

    assert plain.prompt.startswith("Q: What is")
    assert found == plain


def test_packed_rows_with_prompts_are_refused(opened: Any, tmp_path: Path) -> None:
    streams, masks = ({"qa": f("qa", "train")} for f in (opened.store.stream, opened.store.mask))
    shelf = Shelf(streams, 24, masks)
    stream = replace(opened.view.stream, train=shelf)
    packed = replace(opened, view=replace(opened.view, stream=stream))
    store, to = of_run(tmp_path / "s", opened), tmp_path / "k.jsonl"

    with pytest.raises(SpecError, match=r"domain 'qa' has prompts, .*batch.pack = false"):
        select([store.folder], Selecting(keep=0.5), to, packed)

    assert not to.exists()
