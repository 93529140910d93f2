"""Wrong answers stand out by their loss where right ones follow a rule that is learned first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.api import Mixer
from harness.attribution.evaluation import mislabelled, planted
from harness.attribution.opened import Opened, open_run
from harness.corpus import open_corpus
from harness.runner import Runner
from harness.spec import Batching, Corpus, FilesDomain, Optimizer, Splits, Tokenizer
from tests import tiny
from tests.harness.attribution.evaluation.conftest import Judge

RULE = {"hot": "summer", "cold": "winter"}


def ruled(out: Path) -> Opened:
    """Return a run on answers that follow from a prompt's last word."""
    said = list(RULE) * 60
    lines = [
        json.dumps({"q": f"{fact.name} {fact.place} {word}", "a": RULE[word]})
        for fact, word in zip(planted.invent(len(said), seed=0), said, strict=True)
    ]
    (out / "rule.jsonl").write_text("\n".join(lines) + "\n")
    domain = FilesDomain(paths=(str(out / "rule.jsonl"),), prompt="{q}", answer=" {a}")
    splits = Splits(probe=0.1, tuning=0.1, heldout=0.1)
    corpus = Corpus(domains={"rule": domain}, splits=splits, tokenizer=Tokenizer(vocab_size=320))
    store = open_corpus(corpus, out / "corpora")
    spec = tiny.run_spec(
        store,
        corpus=corpus,
        targets={"rule": 1.0},
        batch=Batching(rows=16, tokens=24, pack=False),
        num_steps=30,
        optimizer=Optimizer(learning_rate=1e-2),
        mixer=Mixer(),
    )
    Runner(out, store, tiny.ONLY_AT_THE_END, lambda _: tiny.Onlooker()).ensure(spec)
    return open_run(out / "runs" / spec.run_id)


def test_wrong_answers_are_where_loss_is_high(judge: Judge, tmp_path: Path) -> None:
    opened = ruled(tmp_path)
    judged = judge(mislabelled=0.15, estimators=("backwards",))

    found = mislabelled.measure(replace(judged, opened=opened, pool=opened.pool(), _scores={}))

    loss, wrong = np.array(found["values"]["loss"]), np.zeros(found["rows"], dtype=bool)
    wrong[found["wrong"]] = True
    auc = (loss[wrong][:, None] > loss[~wrong][None, :]).mean()
    assert auc > 0.9  # the rule is learned before its exceptions
