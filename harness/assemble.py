"""From a spec to a loop that is ready: torch's settings, model, optimizer, rows and the view."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness import allocator
from harness.corruption import Corruption
from harness.cost import Meter
from harness.edited import Chosen, edited
from harness.evaluate import Evaluator
from harness.keeping import Keeper
from harness.loop import Loop, Watch
from harness.model import build_model, compiled_losses, count_row_flops, token_losses
from harness.optim import build_optimizer
from harness.ranks import Ranks
from harness.recompute import Recomputing
from harness.spec import Evaluation
from harness.stream import DocumentShelf, Shelf, Stream
from harness.view import RunView

if TYPE_CHECKING:
    from torch import nn

    from harness.corpus import TokenStore
    from harness.model import RowFlops
    from harness.spec import Batching, Checkpoint, RunSpec

OpenModel = Callable[[str], "tuple[nn.Module, RowFlops]"]


def assemble(
    spec: RunSpec,
    store: TokenStore,
    folder: Path,
    open_model: OpenModel,
    watch: Watch,
    every: Checkpoint,
    ranks: Ranks | None = None,
) -> Loop:
    """Return the loop of a run, ready to start or to resume; on one rank, unless `ranks` says."""
    meter, ranks = Meter(spec.device), ranks or Ranks()
    view = build_view(spec, store, meter, open_model, ranks)
    network = Recomputing(view.model, spec.compile) if spec.batch.recompute else view.model
    network = ranks.network(network)
    return Loop(
        spec=spec,
        stream=view.stream,
        view=view,
        evaluator=_evaluator(spec, store, view, max(view.chunk_rows, 32)),
        meter=meter,
        watch=watch,
        folder=folder,
        every=every,
        losses_of=compiled_losses(network) if spec.compile else partial(token_losses, network),
        keeper=Keeper(store.trained, every.keep_best, every.keep_every),
        ranks=ranks,
    )


def build_view(
    spec: RunSpec,
    store: TokenStore,
    meter: Meter,
    open_model: OpenModel,
    ranks: Ranks | None = None,
) -> RunView:
    """Return the view of a run before its first step, with the untrained model."""
    ranks = ranks or Ranks()
    prepare_torch(spec, ranks.threads(spec.threads))
    tokens = spec.batch.tokens
    model = build_model(spec.model, store.vocab_size, tokens, spec.seed)
    model = ranks.placed(model, spec.device)
    row_flops = count_row_flops(spec.model, store.vocab_size, tokens)
    train, probe = (
        open_train(store, spec),
        open_shelf(store, "probe", store.domains, spec.batch),
    )
    hide = corruption(spec, store)
    stream = Stream(train, probe, store.trained, store.domains, spec.data_seed, spec.device, hide)
    sizes = torch.tensor([train.num_tokens(d) for d in store.trained], dtype=torch.float64)
    chunk_rows = spec.batch.micro_rows or spec.batch.rows
    return RunView(
        stream=stream,
        model=model,
        optimizer=build_optimizer(model, spec.optimizer),
        meter=meter,
        row_flops=row_flops,
        targets=torch.tensor(
            [spec.targets.get(d, 0.0) for d in store.domains], dtype=torch.float64
        ),
        prior=sizes / sizes.sum(),
        seen=torch.zeros(len(store.trained), dtype=torch.int64),
        num_steps=spec.num_steps,
        chunk_rows=chunk_rows,
        precision=spec.precision,
        open_model=open_model,
        ranks=ranks,
    )


def corruption(spec: RunSpec, store: TokenStore) -> Corruption | None:
    """Return what hides tokens from a masked model; None for a causal one."""
    if spec.model.objective == "causal":
        return None
    # a model from scratch has one embedding more than the tokenizer has tokens
    own = store.mask_token is None or spec.model.source is None
    mask_token = store.vocab_size if own else store.mask_token
    assert mask_token is not None
    return Corruption(spec.model.mask_rate, mask_token, store.vocab_size)


def prepare_torch(spec: RunSpec, threads: int | None = None) -> None:
    """Make torch compute the same bits whenever it is given the same spec."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only so
    torch.set_num_threads(threads or spec.threads)
    allocator.keep_memory()
    allocator.give_back()  # of a run before this one in the same process
    torch.use_deterministic_algorithms(True)
    # deterministic mode would also fill every new tensor with NaN, which costs time and no bit
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def train_rows(store: TokenStore, spec: RunSpec) -> dict[str, int]:
    """Return how many rows each trained domain has to train on."""
    shelf = open_train(store, spec)
    return {domain: shelf.num_rows(domain) for domain in store.trained}


def open_train(store: TokenStore, spec: RunSpec) -> Shelf | Chosen:
    """Return the rows that a run trains on: the corpus's, but for what the spec changes."""
    shelf = open_shelf(store, "train", store.trained, spec.batch)
    return shelf if spec.edit is None else edited(shelf, spec.edit, store)


def measure(loop: Loop, store: TokenStore) -> dict[str, dict[str, float] | None]:
    """Return what the spec wants measured for a plan after the last step, billed to the method."""
    spec, tuning = loop.spec, None
    if spec.measure_tuning:
        plan = Evaluation(rows=spec.measure_rows, splits=("tuning",))
        evaluator = _evaluator(replace(spec, evaluation=plan), store, loop.view, 32)
        assert evaluator is not None
        with loop.meter.section("mixer", synchronize=True):
            found = evaluator.evaluate(loop.view.model, loop.meter, account="mixer")
        tuning = {one["domain"]: one["nats_per_token"] for one in found}
    probes = loop.measure_probes() if spec.measure_probes else None
    return {"probe_losses": probes, "tuning_losses": tuning}


def open_shelf(store: TokenStore, split: str, domains: Iterable[str], batch: Batching) -> Shelf:
    """Return the rows of a split, packed or one for each document."""
    names = tuple(domains)
    masks = {d: mask for d in names if (mask := store.mask(d, split)) is not None}
    streams = {d: store.stream(d, split) for d in names}
    if batch.pack:
        return Shelf(streams, batch.tokens, masks)
    starts = {d: store.documents(d, split) for d in names}
    return DocumentShelf(streams, batch.tokens, masks, starts)


def _evaluator(
    spec: RunSpec, store: TokenStore, view: RunView, chunk_rows: int
) -> Evaluator | None:
    if spec.evaluation is None:
        return None
    splits = spec.evaluation.splits
    # what a method has made of the probe set is asked only where results are compared
    is_compared = "heldout" in splits
    return Evaluator(
        shelves={s: open_shelf(store, s, store.domains, spec.batch) for s in splits},
        domains=store.domains,
        rows=spec.evaluation.rows,
        chunk_rows=chunk_rows,
        num_bytes={s: {d: store.num_bytes(d, s) for d in store.domains} for s in splits},
        row_flops=view.row_flops,
        device=spec.device,
        precision=spec.precision,
        corruption=corruption(spec, store),
        starts={s: {d: store.documents(d, s) for d in store.domains} for s in splits},
        probe=open_shelf(store, "probe", store.domains, spec.batch) if is_compared else None,
        ranks=view.ranks,
    )
