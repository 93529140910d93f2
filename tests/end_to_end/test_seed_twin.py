"""sweeps/seed_gpt2.toml on local files of the hub data sets' form: a twin that needs no network.

What differs is where the text lies, the model's size, and the length; arms, columns, template,
splits and settings are the file's own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.harness.corpus.test_bad_inputs import prose

from .conftest import ROOT, Out, steelyard

pytestmark = pytest.mark.slow

SETS = {
    "HuggingFaceFW/fineweb-edu": ("fineweb", {"train": 90}, ("text",)),
    "openai/gsm8k": ("gsm8k", {"train": 80, "test": 20}, ("question", "answer")),
    "Salesforce/wikitext": ("wiki", {"train": 80, "validation": 20, "test": 20}, ("text",)),
}
SMALLER = {
    r"tokens = 512": "tokens = 32",
    r"rows = 16\n": "rows = 8\n",
    r"rows = 256": "rows = 8",
    r"every = 30\n": "every = 6\n",
    r"every = 30([, ])": r"every = 6, rows = 6, probe_rows = 4\1",
    r"steps = 300": "steps = 12",
    r"max_rows = 20_000": "max_rows = 90",
    r'config = "[^"]*"\n': "",
    r'trackers = \["wandb"\]': "trackers = []",
    r"seeds = \[[^]]*\]": "seeds = [0, 1]",
}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the twin has run."""
    from harness.corpus.tokenizer import train_bpe
    from harness.model import build_model
    from harness.spec import Model

    folder = tmp_path_factory.mktemp("seed")
    text = (ROOT / "sweeps/seed_gpt2.toml").read_text()
    for start, (hub, (name, splits, columns)) in enumerate(SETS.items()):
        assert hub in text
        text = text.replace(hub, name)
        (folder / name).mkdir()
        for part, (split, count) in enumerate(splits.items()):
            first = 10_000 * start + 1000 * part
            rows = ({c: prose(first + 500 * k + i) for k, c in enumerate(columns)}
                    for i in range(count))  # fmt: skip
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / name / f"{split}.jsonl").write_text(lines)
    model = build_model(
        Model(architecture="gpt2", config={"n_embd": 32, "n_layer": 2, "n_head": 2}), 400, 64, 0
    )
    model.save_pretrained(folder / "gpt2")  # type: ignore[operator]
    train_bpe([prose(i) for i in range(200)], 400).save(str(folder / "gpt2/tokenizer.json"))
    text = text.replace("openai-community/gpt2", "gpt2")
    for pattern, replacement in SMALLER.items():
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    (folder / "twin.toml").write_text(f'device = "cpu"\nthreads = 1\n{text}')
    run = steelyard("run", "twin.toml", "--out", "out", "--jobs", 2, cwd=folder)
    assert run.returncode == 0, run.stderr + run.stdout
    return folder


def test_every_arm_of_the_seeds_configuration_finishes(twin: Path) -> None:
    arms = Out(twin / "out").ablation("seed-gpt2")["arms"]

    assert set(arms) >= {"uniform", "influence", "influence_landmark", "influence_seed000"}
    assert {cell["status"] for arm in arms.values() for cell in arm["runs"]} == {"finished"}
    landmark = arms["influence_landmark"]["settings"]["estimator"]
    assert (landmark["landmarks"], landmark["layers"]) == (16, 2)


def test_what_the_seed_lacked_is_there(twin: Path) -> None:
    """A held-out set apart from the probe set, paired seeds, DoReMi, a replay, an A/A arm."""
    out = Out(twin / "out")
    manifest = next((twin / "out/corpora").glob("*/manifest.json"))
    splits = json.loads(manifest.read_text())["domains"]["fineweb"]["splits"]
    assert all(splits[name]["documents"] > 0 for name in ("train", "probe", "tuning", "heldout"))
    arms = out.ablation("seed-gpt2")["arms"]
    assert {"doremi", "half_on_target", "influence_replayed", "again"} <= set(arms)
    for seed in (0, 1):
        run_id = out.cell("seed-gpt2", "influence", seed)["run_id"]
        assert {r["split"] for r in out.records(run_id, "eval")} >= {"heldout"}
        rebalanced = [r for r in out.records(run_id, "note") if r["name"] == "rebalance"]
        assert rebalanced


def test_ready_splits_of_the_hub_are_kept(twin: Path) -> None:
    """gsm8k's test is held out; wikitext's validation is tuning."""
    manifest = next((twin / "out/corpora").glob("*/manifest.json"))
    domains = json.loads(manifest.read_text())["domains"]

    assert domains["math"]["splits"]["heldout"]["documents"] == 20
    assert domains["wiki"]["splits"]["tuning"]["documents"] == 20
    assert domains["wiki"]["splits"]["heldout"]["documents"] == 20
