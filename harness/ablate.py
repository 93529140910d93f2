"""One ablation from spec to records: corpus, grid, and the file of which run fills which cell."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from harness import equal_compute
from harness.cells import Cells, begin
from harness.corpus import TokenStore, corpus_id, open_corpus
from harness.data_warnings import log, warnings_of
from harness.errors import SpecError
from harness.labor import Display, Notices, Staff, Work
from harness.leases import open_leases
from harness.plans import last_failure
from harness.preflight import (
    check_buildable,
    check_name,
    check_ranks,
    check_rows,
    check_settled,
    localized,
    make_writable,
    open_mirror,
    settle_wandb,
)
from harness.resolve import resolve
from harness.settled import reasons, settle
from harness.spec import Ablation, RunSpec
from harness.trackers import UNREACHABLE
from harness.worker import Outcome, Site, Task


@dataclass(frozen=True)
class Summary:
    """How the ablation went."""

    finished: int
    num_failed: int
    interrupted: bool
    wandb_mode: str | None = None
    """W&B's, settled; None where it is no tracker of this ablation."""
    is_behind: bool = False
    """The ablation's file could not be written, and lacks what has ended."""


def run_ablation(
    ablation: Ablation,
    out: Path,
    staff: Staff,
    display: Display,
    command: list[str],
    warning: str | None = None,
    wandb_mode: str | None = None,
) -> Summary:
    """Run every (arm, seed) that is not finished yet; SpecError before any compute.

    `warning` is said before the work, and after what cannot be done at all is refused.
    """
    wandb_mode = settle_wandb(ablation.trackers, wandb_mode, display.say)
    mirror = open_mirror(ablation, out, wandb_mode, display.say)
    check_ranks(ablation, staff.jobs)
    make_writable(out)
    leases = open_leases(out, staff.leases, staff.grace)
    written, (ablation, model_id) = ablation, localized(ablation, out, display.say)
    text_id = corpus_id(ablation.corpus, out / "corpora")
    check_name(written, out, text_id, model_id)
    if warning is not None:
        display.say(f"warning: {warning}")
    settled = staff.settled or settle(ablation)
    if staff.joins:
        check_settled(ablation, out, str(settled))
    specs = resolve(ablation, text_id, model_id, settled)
    cells_of = {pair: Task(*pair, spec, last_failure(out, spec)) for pair, spec in specs.items()}
    tasks = list(cells_of.values())
    trackers = (ablation.trackers, ablation.name, wandb_mode)
    site = Site(out, ablation.checkpoint, *trackers, parallel=ablation.parallel)
    site = replace(site, leases=staff.leases, grace=staff.grace)
    work = Work(site, mirror, display, Notices(display), staff)
    found, missing = work.sorted(tasks)
    if missing:
        check_buildable(ablation)
    with work.grid(missing) as grid:
        store = _opened(ablation, out, text_id, display)
        warnings = warnings_of(ablation, store.manifest)
        log(warnings)
        display.warn(warnings)
        asked = begin(written, out, store, model_id, shlex.join(command))
        cells = Cells(asked, leases, lambda *pair: work.look_up(cells_of[pair]), work.notices.hear)
        cells.content["chosen"] = reasons(ablation, staff.settled)
        cells.content["warnings"] = [warning.to_json() for warning in warnings]
        cells.content["settled"] = str(settled)
        cells.save()
        display.open(len(tasks), len(found))
        completed = work.carry_out(grid, found, missing, cells.settle)
    if completed and ablation.equal_compute:
        completed = _equalize(ablation, specs, work, cells)
    if cells.is_behind:
        cells.save()
    if cells.is_behind:
        display.say(f"{asked.path} is not up to date; give the command again, which trains nothing")
    mode = "offline" if UNREACHABLE in work.notices.told else wandb_mode
    return Summary(
        work.ended["finished"], work.ended["failed"], not completed, mode, cells.is_behind
    )


def _opened(ablation: Ablation, out: Path, text_id: str, display: Display) -> TokenStore:
    """Return the corpus of the id that runs are settled with; SpecError where it is another now."""
    store = open_corpus(ablation.corpus, out / "corpora", display.say)
    if store.id != text_id:
        what = "their text has changed since this command began"
        raise SpecError(f"domains: {what}; give the command again")
    check_rows(ablation, store)
    return store


def _equalize(
    ablation: Ablation, specs: dict[tuple[str, int], RunSpec], work: Work, cells: Cells
) -> bool:
    """Train the baseline at the compute of every method; return False where it was stopped."""
    wanted = equal_compute.tasks(ablation, specs, cells.content, work.site.out / "runs")
    tasks = list(dict.fromkeys(wanted.values()))
    found, missing = work.sorted(tasks)

    def settle(task: Task, outcome: Outcome) -> None:
        pairs = [pair for pair, one in wanted.items() if one is task]
        cells.settle_longer(pairs, task.spec.num_steps, outcome)

    with work.grid(missing) as grid:
        work.display.open(len(tasks), len(found), f"{ablation.baseline} at the methods' compute")
        return work.carry_out(grid, found, missing, settle)
