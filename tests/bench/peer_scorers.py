"""The same scores by other libraries: <gradient of row i, gradient of query q>, exact.

Everyone scores the same linear layers of the blocks, as many rows at a time, and may set itself up
before it is timed. What is timed is the whole job: gradients of the queries, then every row. A
row's loss, and a query's, is the sum over its targets. A row's last target never counts, since
bergson takes targets from the row's own tokens and has no token after the last.

What each library needs, found by measuring: dattri-llm and bergson are fastest on a frozen model
that has one trainable parameter at its input, as both recommend.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.api import Batch, View
from harness.influence.gradients import GradDot
from harness.influence.row_gradients import Precision
from harness.influence.selection import Use, choose
from harness.model import token_losses

STEP_ROWS = 32  # of the yardstick, 16 in a pass
LOOP_ROWS = 16  # of the job's rows; one costs as much as the next

Scorer = Callable[[], Tensor]  # does the whole job and returns scores [N, Q]


class Job(NamedTuple):
    """N rows to score against Q queries."""

    view: View
    rows: Batch
    queries: Batch
    folder: Path
    precision: Precision = "float32"
    chunk: int = 16  # rows of a pass, for everyone

    @property
    def uses(self) -> list[Use]:
        """Return the modules whose gradients are meant."""
        return choose(self.view.model, ("linear",))

    def twin(self) -> nn.Module:
        """Return a copy of the model, for a library that changes what it is given."""
        twin = copy.deepcopy(self.view.model).eval()
        twin.zero_grad(set_to_none=True)
        return twin

    def frozen_twin(self) -> Any:
        """Return a copy whose input embedding alone is trainable, so that a backward pass runs."""
        twin: Any = self.twin().requires_grad_(False)
        twin.get_input_embeddings().requires_grad_(True)
        return twin


def job_of(view: View, num_rows: int, num_queries: int, folder: Path, chunk: int = 16) -> Job:
    """Return a job on candidate and probe rows of the run."""
    each = -(-num_rows // len(view.domains))
    rows = view.candidates(each).select(slice(0, num_rows))
    each = -(-num_queries // len(view.probe_domains))
    queries = view.probes(each).select(slice(0, num_queries))
    return Job(view, _without_last_target(rows), _without_last_target(queries), folder, chunk=chunk)


def _without_last_target(batch: Batch) -> Batch:
    mask = batch.mask.clone()
    mask[:, -1] = False
    return replace(batch, mask=mask)


def chunks(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield the rows, `size` at a time."""
    for start in range(0, len(batch.rows), size):
        yield batch.select(slice(start, start + size))


def samples(batch: Batch) -> list[dict[str, Tensor]]:
    """Return the rows as the dataset that a library reads, where -100 is no target."""
    targets = batch.targets.where(batch.mask, -100)
    pairs = zip(batch.inputs, targets, strict=True)
    return [{"input_ids": inputs, "targets": wanted} for inputs, wanted in pairs]


def summed_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the summed loss of such rows, as a user of PyTorch writes it."""
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits.float()
    return F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum")


def training_step(job: Job) -> Callable[[], None]:
    """Return the yardstick: forward and backward over 32 rows, every parameter's gradient."""
    parameters = list(job.view.model.parameters())
    parts = list(chunks(job.rows.select(slice(0, STEP_ROWS)), 16))

    def run() -> None:
        for rows in parts:
            torch.autograd.grad(token_losses(job.view.model, rows).mean(), parameters)

    return run


def steelyard(job: Job, biases: bool) -> Scorer:
    """Score by the harness's own exact estimator."""
    estimator = GradDot(
        preconditioner="none",
        biases=biases,
        reduction="sum",
        chunk_rows=job.chunk,
        precision=job.precision,
    )
    counts = job.queries.mask.sum(1)  # its queries' losses are means

    def run() -> Tensor:
        state = estimator.prepare(job.view, {}, job.queries)
        return estimator.score(job.view, state, job.rows).total * counts

    return run


def one_backward_per_row(job: Job) -> Scorer:
    """Score the first rows as LESS and its like do, with biases."""
    model = job.view.model
    named = dict(model.named_parameters())
    parameters = [named[name] for use in job.uses for name in (use.weight, use.bias) if name]
    rows = job.rows.select(slice(0, LOOP_ROWS))

    def gradient(row: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bfloat16"):
            loss = token_losses(model, row).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    def run() -> Tensor:
        queries = torch.stack([gradient(query) for query in chunks(job.queries, 1)])  # [Q, P]
        return torch.stack([queries @ gradient(row) for row in chunks(rows, 1)])

    return run


def dattri_llm(job: Job) -> Scorer:
    """Score by dattri-llm's TracIn: frozen, gradients kept as factors. It counts biases."""
    from dattri_llm import (
        AttributionArguments,
        AttributionTask,
        HookManagerConfig,
        TracInAttributor,
    )

    arguments = AttributionArguments(
        output_dir=str(job.folder / "dattri_llm"),
        per_device_train_batch_size=job.chunk,
        per_device_eval_batch_size=job.chunk,
        use_cpu=True,
        bf16=job.precision == "bfloat16",
    )
    # named, since by default it takes the positions too, which have no rows, and stops
    names = [f"^{re.escape(use.name)}$" for use in job.uses]
    hooks = HookManagerConfig(linear_io=names, include_frozen=True)
    task = AttributionTask(summed_loss, job.frozen_twin())
    rows, queries = samples(job.rows), samples(job.queries)

    def run() -> Tensor:
        attributor = TracInAttributor(arguments, task=task)
        scores: Tensor = attributor.attribute(rows, queries, hook_config=hooks).scores
        return scores

    return run


def bergson(job: Job) -> Scorer:
    """Score by bergson's hooks and streaming Scorer, queries in memory. No biases, its default."""
    from bergson import CollectorComputer, IndexConfig, InMemoryCollector, Scorer
    from bergson.score.score_writer import InMemorySequenceScoreWriter

    config = IndexConfig(run_path=str(job.folder / "bergson"), loss_reduction="sum")
    config.partial_run_path.mkdir(parents=True, exist_ok=True)
    model = job.frozen_twin()
    model.config.use_cache = False
    if job.precision == "bfloat16":
        model.to(torch.bfloat16)
    names = [use.name for use in job.uses]
    rows, queries = _tokens_and_labels(job.rows), _tokens_and_labels(job.queries)

    def collect(data: Any, scorer: Any = None) -> Any:
        collector = InMemoryCollector(
            model=model, data=data, cfg=config, scorer=scorer, target_modules=set(names)
        )
        batches = [
            list(range(len(data)))[i : i + job.chunk] for i in range(0, len(data), job.chunk)
        ]
        computer = CollectorComputer(model, data, collector=collector, batches=batches, cfg=config)
        computer.run_with_collector_hooks()
        return collector

    def run() -> Tensor:
        gradients = collect(queries).gradients
        writer = InMemorySequenceScoreWriter(len(rows), len(queries))
        scorer = Scorer(gradients, names, writer, torch.device("cpu"), torch.float32)
        scores: Tensor = collect(rows, scorer).scores
        return scores

    return run


def _tokens_and_labels(batch: Batch) -> Any:
    """Return rows as bergson reads them: the label of a token is the target of the one before."""
    from datasets import Dataset

    assert not batch.mask[:, -1].any()
    targets = batch.targets.where(batch.mask, -100)[:, :-1]
    labels = torch.cat([targets.new_full((len(targets), 1), -100), targets], 1)
    return Dataset.from_dict({"input_ids": batch.inputs.tolist(), "labels": labels.tolist()})


without_biases = partial(steelyard, biases=False)
with_biases = partial(steelyard, biases=True)
