"""What `steelyard plan` prints: every run, then arms, then totals, the last thing to scroll by."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from harness.commands.plan import Forecast, Planned, cost_key

_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def print_plan(plan: Forecast, prospects: Any, console: Console) -> None:
    """Print the runs, a line for each arm and role, and what all of it takes and can show."""
    console.print(_run_table(plan))
    console.print(_arm_table(plan))
    for line in [*_totals(plan), *_corpus(plan), *_showing(prospects)]:
        console.print(line, markup=False, highlight=False)
    for problem in plan.problems:
        console.print(f"warning: {problem}", style="yellow", markup=False, highlight=False)


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left")
    for column in left:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _run_table(plan: Forecast) -> Table:
    table = _table(f"runs of {plan.name}", ("arm", "seed", "run", "id", "state"))
    first: dict[str, str] = {}
    for cell in plan.cells:
        shared = cell.run_id is not None and cell.run_id in first
        state = f"as {first[cell.run_id]}" if shared and cell.run_id else cell.status
        if cell.run_id is not None:
            first.setdefault(cell.run_id, cell.label)
        table.add_row(cell.label, str(cell.seed), cell.role, cell.run_id or "later", state)
    return table


def _arm_table(plan: Forecast) -> Table:
    table = _table("arms", ("arm", "run"), ("done", "to do", "tokens each", "FLOPs each"))
    groups: dict[tuple[str, str], list[Planned]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.label, cell.role), []).append(cell)
    for (label, role), cells in groups.items():
        done = sum(cell.status == "finished" for cell in cells)
        spec = cells[0].spec
        table.add_row(
            label,
            role,
            str(done),
            str(len(cells) - done),
            _scaled(_tokens(cells[0])),
            _scaled(plan.flops[cost_key(spec)]),
        )
    return table


def _totals(plan: Forecast) -> list[str]:
    missing, everything = plan.missing, plan.distinct
    main = sum(cell.spec.evaluation is not None for cell in missing)
    tokens = sum(_tokens(cell) for cell in missing)
    flops = plan.flops_of(missing)
    lines = [
        f"to do: {len(missing)} of {len(everything)} distinct runs ({main} main, "
        f"{len(missing) - main} auxiliary), {_scaled(tokens)} tokens, {_scaled(flops)} FLOPs of "
        "training; evaluation and a method's own work come on top",
        f"time: {_minutes(plan, flops)}",
        f"disk: {decimal(plan.checkpoint_bytes(missing))} of checkpoints "
        f"({_scaled(plan.num_parameters)} parameters; the last one of each run is kept); beside "
        "them records, a report of about 5 MB, and the corpus where it is not built",
    ]
    if any(cell.run_id is None for cell in missing):
        lines.append("later: an id, and any run after it, that depends on results still to come")
    return lines


def _minutes(plan: Forecast, flops: float) -> str:
    if not plan.missing:
        return "nothing left to train"
    if plan.rate is None or math.isnan(flops):
        return "unknown until a first run; --measure times three steps"
    minutes = flops * plan.rate.seconds_per_flop / plan.jobs / 60
    at_once = f"{plan.jobs} at a time" if plan.jobs > 1 else "one at a time"
    shown = "under a minute" if minutes < 1 else f"about {minutes:.0f} min"
    return f"{shown}, {at_once}, from {plan.rate.source}"


def _corpus(plan: Forecast) -> list[str]:
    if plan.corpus is None:
        guess = f"; FLOPs assume a vocabulary of {plan.vocab_size:,}"
        return [f"corpus: not built yet, so tokens per domain are unknown{guess}"]
    sizes = {
        name: facts["splits"]["train"]["tokens"]
        for name, facts in plan.corpus["domains"].items()
        if facts["train"]
    }
    listed = ", ".join(f"{name} {_scaled(size)}" for name, size in sizes.items())
    return [f"corpus: built, {decimal(plan.corpus_bytes)}; train tokens: {listed}"]


def _showing(prospects: Any) -> list[str]:
    """Return what the seeds can show, and what they cannot."""
    if not prospects.family:
        return ["proof: no arm is tested against the baseline, so no verdict will be given"]
    tested = f"{prospects.family} tested method{'s' * (prospects.family > 1)}"
    seeds = f"{prospects.num_seeds} paired seed{'s' * (prospects.num_seeds > 1)}, {tested}"
    lines = [f"proof: {seeds}: smallest p after Holm {prospects.smallest_p:.3g}"]
    if prospects.warning:
        lines.append("smallest effect: none; no effect of any size can reach a verdict")
    elif not math.isnan(prospects.effect):
        effect = f"{prospects.effect:.2f} standard deviations of the paired differences"
        if not math.isnan(prospects.spread):
            bits = prospects.effect * prospects.spread
            effect += f" = {bits:.2g} bits per byte (noise from finished runs)"
        lines.append(f"smallest effect: {effect}, at 80 % power (sign-flip test)")
    lines += _margin(prospects)
    return [*lines, *([f"warning: {prospects.warning}"] if prospects.warning else [])]


def _margin(prospects: Any) -> list[str]:
    """Return how many seeds find a difference that is just worth having."""
    if prospects.margin is None:
        return []
    size = f"margin: {prospects.margin:g} bits per byte"
    if math.isnan(prospects.spread):
        return [f"{size}; how many seeds find such a difference is known once runs have finished"]
    if prospects.margin_seeds is None:
        return [f"{size}; more than 100,000 seeds would find such a difference"]
    told = f"{prospects.margin_seeds} seeds find such a difference, at 80 % power"
    return [f"{size}; {told} (noise from finished runs)"]


def _tokens(cell: Planned) -> int:
    return cell.spec.num_steps * cell.spec.batch.rows * cell.spec.batch.tokens


def _scaled(number: float) -> str:
    """Return a number with three digits and a unit: 123k, 4.5G."""
    if math.isnan(number):
        return "unknown"
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
