"""The models whose answers are compared: before training, after it, and other finished runs.

Each is opened when its turn comes and let go after it, so that beside the attributed model one is
in memory at a time: who takes one lets go of it before the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.attribution.opened import open_run
from harness.errors import SpecError
from harness.files import read_json
from harness.model import build_model
from harness.opening import spec_of
from harness.records import HEADER

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

    from harness.attribution.evaluation.judged import Judged

BASE, TUNED = "base", "fine-tuned"


class Speaking(NamedTuple):
    """A model and what it reads text with."""

    name: str
    """base, fine-tuned, or a run's id."""
    model: nn.Module
    tokenizer: Tokenizer
    end_of_text: int


def names(judged: Judged) -> list[str]:
    """Return what the models are called; SpecError where a run is none, or is named twice."""
    found = [BASE, TUNED]
    for folder in judged.options.runs:
        header = read_json(Path(folder) / HEADER)
        if header is None or header["status"] != "finished":
            raise SpecError(f"evaluate.runs: {folder} holds no finished run; give OUT/runs/RUN_ID")
        if header["run_id"] in (*found, judged.opened.run_id):
            raise SpecError(f"evaluate.runs: {folder} is judged already; leave it out")
        found.append(header["run_id"])
    return found


def each(judged: Judged) -> Iterator[Speaking]:
    """Yield the models in the order of `names`."""
    opened = judged.opened
    end = int(opened.store.manifest["tokenizer"]["end_of_text"])
    spec = spec_of(read_json(opened.folder / HEADER))
    tokens, device = spec.batch.tokens, opened.view.stream.device
    base = build_model(spec.model, opened.store.vocab_size, tokens, spec.seed).to(device)
    yield Speaking(BASE, base, opened.tokenizer, end)
    del base
    yield Speaking(TUNED, opened.view.model, opened.tokenizer, end)
    for folder in judged.options.runs:
        run = open_run(Path(folder))
        last = int(run.store.manifest["tokenizer"]["end_of_text"])
        yield Speaking(run.run_id, run.view.model, run.tokenizer, last)
        del run
