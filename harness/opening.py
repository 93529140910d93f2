"""A finished run, opened again: the View that its mixer had, with model and optimizer as they were.

What follows training looks through the same window as what steers it: estimators fit and score on
it, billed as in a run, and nothing held out is behind it. The corpus is the one that the run names.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from harness import checkpoint
from harness.api import Mixer
from harness.assemble import build_view
from harness.corpus.store import read_store
from harness.cost import Meter
from harness.errors import SpecError
from harness.files import read_json
from harness.records import CHECKPOINT, HEADER
from harness.runner import open_finished
from harness.spec import RunSpec

if TYPE_CHECKING:
    from harness.corpus import TokenStore
    from harness.view import RunView


def open_view(
    folder: Path, name: str = CHECKPOINT, source: str | None = None
) -> tuple[RunView, TokenStore]:
    """Return the view of the run in `folder` at its checkpoint `name`, and its corpus.

    `source` is where the run's model came from, where it has moved. SpecError where the run has not
    finished, or its corpus or checkpoint is not there.
    """
    header = read_json(folder / HEADER)
    if header is None:
        raise SpecError(f"{folder}: holds no run; give OUT/runs/RUN_ID")
    if header["status"] != "finished":
        raise SpecError(f"{folder}: the run is {header['status']}; finish it first")
    saved = checkpoint.load(folder / name)
    if saved is None:
        raise SpecError(f"{folder / name}: is not there; train the run again")
    corpus = folder.parents[1] / "corpora" / header["corpus_id"]
    if not corpus.exists():
        raise SpecError(f"{corpus}: the run's corpus is not there; run its spec again")
    store, spec = read_store(corpus), spec_of(header)
    if source is not None:
        spec = replace(spec, model=replace(spec.model, source=source))
    view = build_view(spec, store, Meter(spec.device), partial(open_finished, folder.parent))
    view.model.load_state_dict(saved["model"])
    view.optimizer.load_state_dict(saved["optimizer"])
    view.seen.copy_(saved["seen"])
    view.step = saved["step"]
    return view, store


def spec_of(header: dict[str, Any]) -> RunSpec:
    """Return a run's spec from its header, with a mixer that does nothing."""
    plain = {key: value for key, value in header["spec"].items() if key != "mixer"}
    return TypeAdapter(RunSpec).validate_python({**plain, "mixer": Mixer()})
