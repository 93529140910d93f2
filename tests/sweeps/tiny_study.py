"""A tiny study: two arms of a spec on three synthetic domains, twelve steps, seconds a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.cli import find_method
from sweeps.studyfile import Study, load_study

SPEC = """
name = "tiny"
seeds = [0, 1]
target = "c"
baseline = "uniform"
device = "cpu"
precision = "float32"
threads = 1
tokenizer = { vocab_size = 320 }
model = { size = "nano" }
batch = { rows = 8, tokens = 16 }
budget = { steps = 12 }
evaluation = { every = 4, rows = 8 }

[domains]
a = { kind = "synthetic", seed = 1, num_documents = 60, words_per_document = 60 }
b = { kind = "synthetic", seed = 2, num_documents = 60, words_per_document = 60 }
c = { kind = "synthetic", seed = 3, num_documents = 60, words_per_document = 60 }

[arms.uniform]
method = "static"

[arms.influence]      # a comment that has to stay
method = "influence"
settings = { every = 4, rows = 2, probe_rows = 4, estimator = { check_rows = 2 } }
"""
SPACES = {
    "influence": """
method = "influence"
[parameters]
"settings.every" = { type = "int", low = 2, high = 8 }
"settings.temperature" = { type = "float", low = 0.1, high = 10.0, log = true }
"settings.estimator.difference" = { type = "choice", values = ["one_sided", "central"] }
""",
    "static": """
method = "static"
[parameters]
"settings.weights" = { type = "mixture", low = 0.05 }
""",
}
STUDY = """
name = "small"
spec = "tiny.toml"
trials = 3
seeds = [100, 101]
"""
ARMS = """
[arms.influence]
space = "influence.toml"
[arms.uniform]
space = "static.toml"
promoted = "static_tuned"
"""


def write_study(folder: Path, head: str = STUDY, arms: str = ARMS, **spaces: str) -> Path:
    """Write spec, spaces and study; return the study's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.toml").write_text(SPEC)
    for name, text in {**SPACES, **spaces}.items():
        (folder / f"{name}.toml").write_text(text)
    path = folder / "study.toml"
    path.write_text(head + arms)
    return path


def tiny_study(folder: Path, **written: Any) -> Study:
    """Return the study, read."""
    return load_study(write_study(folder, **written), find_method)
