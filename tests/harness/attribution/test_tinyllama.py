"""sweeps/attribution/tinyllama.toml with one row in 50 and a tiny model: its comments hold."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from harness.attribution.desk import Desk, load_attribution
from harness.attribution.fit import fit
from harness.attribution.score import score
from harness.attribution.scorers import choose, needed_factors
from harness.attribution.spec import Attribution
from harness.attribution.store import ScoreStore
from harness.attribution.train import train
from harness.specfile import build

FILE = Path(__file__).parents[3] / "sweeps/attribution/tinyllama.toml"
ROWS, SHARE = 460, 16 / 23  # the seed's 16,000 of 23,000


def scaled_down(folder: Path) -> Attribution:
    """Return the file's attribution with a model from scratch, short rows and two steps."""
    draw = np.random.default_rng(0)
    words = [f"w{i}" for i in range(200)]
    rows = [
        {"Input": " ".join(draw.choice(words, 12)), "Output": str(draw.choice(["yes", "no"]))}
        for _ in range(ROWS)
    ]
    (folder / "patents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.json").write_text(json.dumps(["w1 w2", "w3 w4"]))
    raw: dict[str, Any] = tomllib.loads(FILE.read_text())
    raw["domains"]["patents"]["paths"] = [str(folder / "patents.jsonl")]
    raw["queries"] |= {"path": str(folder / "prompts.json"), "max_new_tokens": 4}
    raw["model"] = {"architecture": "llama", "size": "nano"}
    raw["tokenizer"] = {"vocab_size": 512}
    raw["batch"]["tokens"] = 64
    raw["training"] |= {"epochs": 0.04}
    return build(Attribution, raw, FILE.name)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_file_goes_from_training_to_scores(tmp_path: Path) -> None:
    desk = Desk(scaled_down(tmp_path), tmp_path / "out", Console(quiet=True))
    spec, what = desk.spec, (desk.places, desk.progress, desk.say)

    train(spec, *what)
    for factors in needed_factors(spec):
        fit(desk.opened, desk.pool, factors, *what)
    stores = {
        label: ScoreStore.open(score(desk.opened, desk.pool, desk.queries, spec, label, *what))
        for label in spec.scores.estimators
    }

    assert len(desk.pool) >= ROWS * SHARE
    assert stores["ekfac"].total.shape == (len(desk.pool), 2)
    assert np.isfinite(stores["ekfac"].total).all()


def test_the_file_asks_for_what_the_run_it_follows_had() -> None:
    """No clipping in bfloat16, factors in bfloat16, four train rows at once, the last weights."""
    spec = load_attribution(FILE, [], "")

    assert spec.optimizer.clip is None
    assert (spec.precision, spec.factors.precision) == ("bfloat16", "bfloat16")
    assert choose(spec, "ekfac").estimator.chunk_rows == 4
    assert (spec.training.epochs, spec.training.attribute) == (1.0, "last")
