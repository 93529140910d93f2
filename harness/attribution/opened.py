"""A finished run as attribution sees it: its View, its train rows in order, and what it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.assemble import open_shelf
from harness.attribution.rows import Pool
from harness.corpus.store import TOKENIZER
from harness.corpus.tokenizer import from_text
from harness.errors import SpecError
from harness.files import read_json
from harness.identity import digest
from harness.opening import open_view, spec_of
from harness.records import CHECKPOINT, HEADER

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

    from harness.corpus import TokenStore
    from harness.spec import RunSpec
    from harness.stream import Shelf
    from harness.view import RunView


@dataclass(frozen=True, eq=False)
class Opened:
    """A run at one of its checkpoints."""

    folder: Path
    """OUT/runs/RUN_ID."""
    run_id: str
    checkpoint: str
    """File name of the checkpoint in `folder`."""
    model_id: str
    """16 hex digits of the weights: other weights, other factors."""
    view: RunView
    store: TokenStore

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The corpus's own tokenizer."""
        return from_text((self.store.folder / TOKENIZER).read_text())

    @cached_property
    def spec(self) -> RunSpec:
        """What the run was asked for, with a mixer that does nothing."""
        return spec_of(read_json(self.folder / HEADER))

    def shelf(self, split: str) -> Shelf:
        """Return the rows of a split, cut as the run's own."""
        return open_shelf(self.store, split, self.store.domains, self.spec.batch)

    def pool(self) -> Pool:
        """Return every train row with a counted target, domain after domain."""
        shelf, names = self.view.stream.train, self.view.domains
        picks = tuple((name, int(row)) for name in names for row in shelf.telling_rows(name))
        device = self.view.stream.device
        edit = read_json(self.folder / HEADER)["spec"].get("edit")  # other rows, another pool
        text = self.store.id if edit is None else digest([self.store.id, edit])
        return Pool(shelf, names, picks, self.tokenizer, device, text)


def open_run(folder: Path, checkpoint: str = CHECKPOINT, source: str | None = None) -> Opened:
    """Open the finished run in `folder`; SpecError where it cannot be, or its model is masked."""
    header = read_json(folder / HEADER)
    if header is not None and header["spec"]["model"].get("objective") == "masked":
        why = "a masked model predicts hidden tokens, and rows here have a next one"
        raise SpecError(f"{folder}: {why}; attribute a causal model")
    view, store = open_view(folder, checkpoint, source)
    return Opened(folder, header["run_id"], checkpoint, weights_id(view.model), view, store)


def weights_id(model: nn.Module) -> str:
    """Return 16 hex digits of a model's parameters and buffers, names and bytes."""
    whole = blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()
