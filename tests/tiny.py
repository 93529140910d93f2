"""The tiny run of harness.testing, with Static as its method, and the types of its fixtures.

Three synthetic domains a, b, c, and a fourth, d, that is never trained on and is the target.
tests/conftest.py offers it as fixtures; a test that needs it in another process imports this module
there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from baselines.static import Static
from harness.corpus import TokenStore
from harness.loop import Loop, Watch
from harness.model import build_model
from harness.spec import Checkpoint, Model, RunSpec
from harness.testing import world
from harness.testing.world import (
    ONLY_AT_THE_END,
    SHAPE,
    Onlooker,
    OpenModel,
    assemble_loop,
    corpus_spec,
    no_other_run,
    stepped,
)
from harness.view import RunView

__all__ = [
    "ONLY_AT_THE_END",
    "SHAPE",
    "MakeLoop",
    "MakeSpec",
    "MakeView",
    "Onlooker",
    "OpenModel",
    "assemble_loop",
    "corpus_spec",
    "no_other_run",
    "of_llama",
    "run_spec",
    "stepped",
]

LLAMA: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}


class MakeSpec(Protocol):
    """Return the tiny RunSpec with `changes`."""

    def __call__(self, **changes: Any) -> RunSpec: ...


class MakeLoop(Protocol):
    """Return the assembled loop of a spec, in a folder of its own unless one is given."""

    def __call__(
        self,
        spec: RunSpec,
        folder: Path | None = None,
        watch: Watch | None = None,
        open_model: OpenModel | None = None,
        every: Checkpoint = ONLY_AT_THE_END,
    ) -> Loop: ...


class MakeView(Protocol):
    """Return the view of a spec's loop before its first step."""

    def __call__(self, spec: RunSpec | None = None) -> RunView: ...


def run_spec(store: TokenStore, **changes: Any) -> RunSpec:
    """Return the tiny run on an opened corpus, with `changes` to its fields."""
    return world.run_spec(store, **{"mixer": Static(), **changes})


def of_llama(view: RunView) -> RunView:
    """Return the same view of a random LLaMA, which has no moments."""
    vocab_size = view.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    spec = Model(architecture="llama", config=LLAMA)
    return replace(view, model=build_model(spec, vocab_size, 32, seed=3))
