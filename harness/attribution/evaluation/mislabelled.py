"""Wrong labels on purpose: are they among the rows that influence themselves most?

A share of the rows is given the answer of another row, with another text, and the model is trained
on that. A row that only its own gradient explains has a high self-influence (Koh and Liang,
arXiv:1703.04730, sec. 5.4). Beside it stands the loss of each row, which costs nothing: what an
estimator does not find beyond that, it has not found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.attribution.evaluation.retraining import query_losses
from harness.errors import SpecError
from harness.rng import generator
from harness.spec import Edit

if TYPE_CHECKING:
    from harness.attribution.evaluation.judged import Found, Judged
    from harness.attribution.rows import Pool

LOSS = "loss"


def measure(judged: Judged) -> Found:
    """Return which rows of the pool are wrong, and each ranking's value of every row [N].

    None where a row was masked.
    """
    options, pool = judged.options, judged.pool
    edit = wrong_answers(pool, options.mislabelled, options.seed)
    retraining = judged.retraining()
    spec = retraining.edited(edit)
    retraining.train([spec], "mislabelled")
    opened = retraining.open(spec)
    own = opened.pool()
    assert own.picks == pool.picks, "an answer that was cut off has come back, or one has gone"
    wrong = {(name, row) for name, pairs in edit.answers.items() for row, _ in pairs}
    found: dict[str, list[float | None]] = {
        LOSS: query_losses(opened.view.model, own.batch(slice(None)), spec).tolist()
    }
    for label in judged.estimators:
        values = judged.self_influence(label, opened, own)
        if values is not None:
            found[label] = [None if np.isnan(value) else float(value) for value in values]
    return {
        "rows": len(pool),
        "share": options.mislabelled,
        "run_id": spec.run_id,
        "wrong": [i for i, pick in enumerate(own.picks) if pick in wrong],
        "values": found,
    }


def wrong_answers(pool: Pool, share: float, seed: int) -> Edit:
    """Return the edit that gives a share of the pool's rows the answers of others of their domain.

    SpecError where rows have no prompts, or a domain has one answer alone.
    """
    shown = pool.texts()
    if not all(one.prompt for one in shown):
        fix = "set prompt and answer of every domain, or leave mislabelled out of evaluate.parts"
        raise SpecError(f"evaluate.mislabelled: rows of plain text have no labels; {fix}")
    keyed = generator(seed, "mislabelled")
    order = torch.randperm(len(pool), generator=keyed).tolist()
    chosen = sorted(order[: max(1, round(share * len(pool)))])
    rows: dict[str, list[int]] = {}
    alike: dict[tuple[str, str], list[int]] = {}  # places in `rows`, ascending
    for (name, row), one in zip(pool.picks, shown, strict=True):
        own = rows.setdefault(name, [])
        alike.setdefault((name, one.answer), []).append(len(own))
        own.append(row)
    answers: dict[str, list[tuple[int, int]]] = {}
    for i in chosen:
        name, row = pool.picks[i]
        same = alike[name, shown[i].answer]
        if len(same) == len(rows[name]):
            raise SpecError(f"evaluate.mislabelled: all rows of {name!r} have the same answer")
        giver = int(torch.randint(len(rows[name]) - len(same), (1,), generator=keyed))
        for place in same:  # the giver counts the others alone
            giver += place <= giver
        answers.setdefault(name, []).append((row, rows[name][giver]))
    return Edit(answers={name: tuple(pairs) for name, pairs in answers.items()})
