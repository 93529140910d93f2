"""Exact influence scores beside a training step: what they cost, and how exact they are."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from scipy import stats
from torch import Tensor

from baselines.static import Static
from harness.api import Batch
from harness.influence.directional import (
    adam_scale,
    checked_step,
    preconditioned,
    score_rows,
)
from harness.influence.directional_estimator import Directional
from harness.influence.directional_forms import FORMS
from harness.influence.flops import chunks
from harness.influence.gradients import GradDot
from harness.model import token_losses
from harness.view import RunView
from tests.bench.timing import Row, interval, ratios
from tests.bench.worlds import loop_of, measured

CPU = Path("/proc/cpuinfo")
BFLOAT16 = CPU.exists() and bool({"avx512_bf16", "amx_bf16"} & set(CPU.read_text().split()))
NO_UNITS = "no bf16 units on this CPU"
FEW = 96  # rows
Call = Callable[[], Any]


def fidelity(out: Path, threads: int) -> list[tuple[str, ...]]:
    """Rank rows by the directional score and by one backward per row, along the same direction."""
    loop = loop_of(out, Static(), "nano", 64, 1000, threads)
    correlations = []
    for _ in range(5):
        for _ in range(20):
            loop.step()
        view = loop.view
        probes = view.probes(32)
        gradient = view.gradient(probes.select(probes.domains == 4))
        along = preconditioned(gradient, adam_scale(view))
        rows = view.candidates(16)
        step = checked_step(view, rows.select(slice(0, len(rows.rows), 10)), along)
        names, parameters = zip(*view.model.named_parameters(), strict=True)
        exact = []
        for i in range(len(rows.rows)):
            loss = token_losses(view.model, rows.select(slice(i, i + 1))).mean()
            pairs = zip(names, torch.autograd.grad(loss, parameters), strict=True)
            exact.append(sum(float((along[n] * g).sum()) for n, g in pairs))
        correlations.append(
            float(stats.spearmanr(score_rows(view, rows, along, step.eps), exact)[0])
        )
    spread = f"{min(correlations):.4f} to {max(correlations):.4f}"
    mean = sum(correlations) / len(correlations)
    what = "Spearman of influence scores with one backward per row (80 rows, 5 refreshes)"
    return [(what, f"{mean:.4f}", spread, "min >= 0.99")]


def row_gradients(
    out: Path,
    pairs: int,
    threads: int,
    architecture: Literal["gpt2", "llama"] = "gpt2",
    count: int = FEW,
) -> list[Row]:
    """Compare grad_dot with a training step's passes on the same rows, per row, for 64 queries.

    The cost per row does not depend on their number, which `count` = 1024 shows. The loop is one
    backward pass per row, as most code has it; it has few rows.
    """
    loop = measured(out, architecture, threads=threads)
    view = loop.view
    rows = view.candidates(-(-count // 3)).select(slice(0, count))
    queries = view.probes(22).select(slice(0, 64))
    step = partial(_steps, view, rows)
    times = max(3, pairs // 20)
    table: list[Row] = []
    estimators = {
        "float32": GradDot(preconditioner="none", biases=False),
        "float32, with biases, as the peers have it": GradDot(preconditioner="none"),
        "float32, Adam": GradDot(biases=False),
    }
    if BFLOAT16:
        estimators["bfloat16"] = GradDot(preconditioner="none", biases=False, precision="bfloat16")
    if count > FEW:  # what rows do to the cost, they do to all of them
        estimators = {n: e for n, e in estimators.items() if n in ("float32", "bfloat16")}
    kept: Any = None
    for name, estimator in estimators.items():
        state = estimator.prepare(view, {}, queries)
        score: Call = partial(estimator.score, view, state, rows)
        what = f"grad_dot, {architecture}, 64 queries x {count} / step, per row ({name})"
        asked = "<= 0.75" if name == "bfloat16" else "<= 1.2"
        table.append(_row(what, ratios(step, score, times, 1), asked))
        if name == "float32":
            reference = score().total
            few = rows.select(slice(0, FEW))
            single: Call = partial(_one_by_one, view, few, state)
            kept = partial(estimator.score, view, state, few)
            some = _one_by_one(view, rows.select(slice(0, 8)), state)
            error = float((reference[:8] - some).norm() / some.norm())
            table.append(
                ("its relative difference to one backward per row", f"{error:.1e}", "", "")
            )
        if name == "bfloat16":
            rank = stats.spearmanr(score().total.flatten(), reference.flatten())[0]
            table.append(("Spearman of bfloat16 with float32", f"{rank:.5f}", "", ">= 0.9999"))
    if not BFLOAT16:
        table.append(("grad_dot in bfloat16 / training step, per row", NO_UNITS, "", "<= 0.75"))
    what = "one backward per row / grad_dot, 64 queries, per row"
    table.append(_row(what, ratios(kept, single, times, 1), ">= 4"))
    none = {name: value[:0] for name, value in state.items() if name.startswith("query:")}
    bare: Call = partial(_one_by_one, view, few, none)
    what = "one backward per row without the products / training step"
    return [*table, _row(what, ratios(partial(_steps, view, few), bare, times, 1), "")]


def directional(
    out: Path,
    pairs: int,
    threads: int,
    architecture: Literal["gpt2", "llama"] = "gpt2",
    quick: bool = False,
) -> list[Row]:
    """Compare the directional score with a training step's passes, and with exact scores."""
    loop = measured(out, architecture, threads=threads)
    view, count = loop.view, 32 if quick else 96
    rows, query = view.candidates(count // 3), view.probes(8)
    estimator = Directional(queries="target")
    state = estimator.prepare(view, {}, query)
    base = token_losses_of(view, rows)
    step = partial(_steps, view, rows)
    times = max(3, pairs // 20)
    exact, half = (
        {**state, "form": torch.full_like(state["form"], FORMS.index(name))}
        for name in ("vector", "vector_bfloat16")
    )
    calls: dict[str, tuple[Call, str]] = {
        "base loss at hand": (partial(estimator.score, view, state, rows, base), "<= 0.45"),
        "without": (partial(estimator.score, view, state, rows), "<= 0.8"),
        "exact form by hooks": (partial(estimator.score, view, exact, rows), "about 1"),
    }
    if BFLOAT16:
        calls["the same in bfloat16"] = partial(estimator.score, view, half, rows), ""
    table: list[Row] = []
    for name, (score, asked) in calls.items():
        what = f"directional, {architecture} / training step, per row ({name})"
        table.append(_row(what, ratios(step, score, times, 1), asked))
    found, wanted = (calls[n][0]().total[:, 0] for n in ("without", "exact form by hooks"))
    about = estimator.score(view, state, rows.select(slice(0, 1))).about
    relative: Any = about["relative_step"]
    rank = float(stats.spearmanr(found, wanted)[0])
    what = f"Spearman of directional with exact, {architecture} ({count} rows)"
    table.append((what, f"{rank:.4f}", f"{about['form']}, {relative[0]:g}", ">= 0.995"))
    if BFLOAT16:
        rounded = calls["the same in bfloat16"][0]().total[:, 0]
        rank = float(stats.spearmanr(rounded, wanted)[0])
        table.append(
            (f"Spearman of the exact form in bfloat16, {architecture}", f"{rank:.5f}", "", "")
        )
    if not BFLOAT16:
        what = f"directional in bfloat16, central, {architecture} / training step"
        return [*table, (what, NO_UNITS, "", "<= 0.45")]
    rough = Directional(queries="target", difference="central", precision="bfloat16")
    state = rough.prepare(view, {}, query)
    rough_score: Call = partial(rough.score, view, state, rows)
    form = rough_score().about["form"]
    what = f"directional, {architecture} / training step, per row ({form})"
    return [*table, _row(what, ratios(step, rough_score, times, 1), "<= 0.45")]


def memory(out: Path, threads: int, quick: bool = False) -> list[Row]:
    """Measure the peak above what was held, scoring N rows and 4 N."""
    loop = measured(out, "gpt2", threads=threads)
    view = loop.view
    # no fewer than the run's own chunk, up to which a forward pass takes more memory
    count = 3 * max(8 if quick else 16, -(-view.chunk_rows // 3))
    estimators: dict[str, Any] = {
        "grad_dot, 64 queries": GradDot(preconditioner="none"),
        "directional": Directional(queries="target"),
    }
    table: list[Row] = []
    for name, estimator in estimators.items():
        state = estimator.prepare(view, {}, view.probes(22).select(slice(0, 64)))
        estimator.score(view, state, view.candidates(8))  # what the first call keeps for good
        peaks = [
            # the least of three: what the allocator happens to keep comes on top
            min(
                _peak(partial(estimator.score, view, state, view.candidates(n // 3))) for _ in "123"
            )
            for n in (count, 4 * count)
        ]
        what = f"peak memory of {name}, {4 * count} rows / {count} rows"
        spread = f"{peaks[0]:.0f} and {peaks[1]:.0f} MiB"
        table.append((what, f"{peaks[1] / max(peaks[0], 1.0):.2f}", spread, "flat"))
    return table


def token_losses_of(view: RunView, rows: Batch) -> Tensor:
    """Return each row's mean loss [N], as training on it has just given it."""
    return view.token_losses(rows).sum(1) / rows.mask.sum(1)


def _steps(view: RunView, rows: Batch) -> None:
    """Run a training step's forward and backward pass, all parameters, 16 rows at a time."""
    for chunk in chunks(rows, 16):
        loss = token_losses(view.model, chunk).mean()
        torch.autograd.grad(loss, list(view.model.parameters()))


def _one_by_one(view: RunView, rows: Batch, state: dict[str, Tensor]) -> Tensor:
    """Return <g_i, query> [N, Q] by a backward pass per row."""
    parameters = dict(view.model.named_parameters())
    names = [k.removeprefix("query:") for k in state if k.startswith("query:")]
    found = []
    for i in range(len(rows.rows)):
        loss = token_losses(view.model, rows.select(slice(i, i + 1))).mean()
        gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
        queries = (state[f"query:{name}"].flatten(1) for name in names)
        pairs = zip(queries, gradients, strict=True)
        # a weight [out, in] or [in, out] has its query in the same layout
        found.append(sum((q @ g.flatten() for q, g in pairs), torch.zeros(())))
    return torch.stack(found).double()


def _row(what: str, values: Iterable[float], asked: str) -> Row:
    mean, low, high = interval(list(values))
    return what, f"{mean:.3f}", f"{low:.3f} to {high:.3f}", asked


def _peak(call: Callable[[], object]) -> float:
    """Return MiB above the resident memory before the call; Linux with glibc."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed pages that stay resident would hide the call's own
    Path("/proc/self/clear_refs").write_text("5")  # forget the earlier peak
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
