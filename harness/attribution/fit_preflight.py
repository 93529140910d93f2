"""A look at the rows before anything is fitted: targets of all, losses and logits of some.

A row without a target and a loss that is NaN are the usual causes of what is later taken for an
ill-conditioned matrix. They cost seconds to find here and hours there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.attribution.fit_work import Work, guarded
from harness.attribution.nonfinite import UnsoundError
from harness.cross_entropy import cross_entropy
from harness.errors import SpecError
from harness.files import read_json, write_json
from harness.influence.finite import refuse_non_finite
from harness.influence.fisher import countable

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch

PREFLIGHT = "preflight.json"
BATCHES = 4


def preflight(work: Work) -> None:
    """Check every row's targets and the losses of a few batches; write what was seen."""
    path, kept = work.folder / PREFLIGHT, work.kept()
    identity = work.identity("preflight", kept.tolist())
    if (read_json(path) or {}).get("made_from") == identity:
        return
    size = work.factors.batch_rows
    looked = kept[
        np.unique(np.linspace(0, len(kept) - 1, min(len(kept), BATCHES * size), dtype=int))
    ]
    if not len(kept):
        first = work.decisions.log[0]["because"] if work.decisions.log else "no row has a target"
        fix = "mend the model, delete the folder and fit again"
        raise SpecError(f"{work.folder}: no row is left; first blame: {first}; {fix}")
    with work.progress.track(len(kept) + len(looked), "preflight") as advance:
        targets = 0
        for low in range(0, len(kept), 1024):
            part = kept[low : low + 1024]
            targets += _count_targets(work, part)
            advance(len(part))
        seen = []
        for low in range(0, len(looked), size):
            rows = work.pool.batch(looked[low : low + size])
            with guarded(work, "preflight", f"batch {low // size}"):
                seen.append(_look(work, rows))
            advance(len(rows.rows))
    losses = torch.cat([loss for loss, _ in seen])
    padding = countable(work.view, work.pool.batch(looked), work.factors.labels).live
    facts: dict[str, Any] = {
        "rows": len(kept),
        "targets_per_row": targets / len(kept),
        "looked_at": len(looked),
        "loss_min": float(losses.min()),
        "loss_mean": float(losses.mean()),
        "loss_max": float(losses.max()),
        "logits_max": max(largest for _, largest in seen),
        "padding": 0.0 if padding is None else float((~padding).double().mean()),
        "made_from": identity,
    }
    write_json(path, facts)


def _count_targets(work: Work, part: np.ndarray) -> int:
    mask = work.pool.batch(part).mask.cpu()
    silent = part[~mask.any(1).numpy()]
    if len(silent):
        domain, row = work.pool.picks[int(silent[0])]
        more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
        what = f"row {row} of domain {domain!r}{more} has no target that counts"
        raise UnsoundError(f"stage preflight: {what}, so no loss; mend its mask", "preflight")
    return int(mask.sum())


def _look(work: Work, rows: Batch) -> tuple[Tensor, float]:
    """Return the rows' mean losses [B] float64 and the largest logit, absolute."""
    low = work.options("preflight").precision == "bfloat16"
    kind = rows.inputs.device.type
    with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=low):
        logits = work.view.model(input_ids=rows.inputs, use_cache=False).logits
        targets = rows.targets.where(rows.mask, 0)
        losses = cross_entropy(logits.flatten(0, 1), targets.flatten()).view_as(targets)
    work.view.bill(work.view.row_flops.forward * len(rows.rows), rows.targets.numel())
    means = losses.double().where(rows.mask, 0.0).sum(1) / rows.mask.sum(1)
    largest = logits.abs().amax((1, 2))
    for what, values in (("the logits", largest), ("the loss", means)):
        refuse_non_finite(work.view, rows, what, values)
    return means.cpu(), float(largest.max())
