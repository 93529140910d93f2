"""An attribution of the tiny run that is judged by estimators of the engine, without stores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from harness.attribution.evaluation.judged import Judged
    from harness.attribution.opened import Opened
    from harness.attribution.rows import Pool, Queries
    from tests.harness.attribution.conftest import TinyRun


class Direct:
    """Scores by plain gradients, every time anew."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def scores(self, label: str, opened: Opened, pool: Pool, queries: Queries) -> np.ndarray:
        from harness.influence.gradients import GradDot

        self.asked.append(label)
        estimator = GradDot(modules=("linear",))
        prepared = estimator.prepare(opened.view, {}, queries.batch)
        total = estimator.score(opened.view, prepared, pool.batch(slice(None))).total.numpy()
        return total if label == "grad_dot" else -total

    def own(self, label: str, opened: Opened, pool: Pool, queries: Queries) -> np.ndarray | None:
        if label != "grad_dot":
            return None
        batch = pool.batch(slice(None))
        return np.diag(self.scores(label, opened, pool, replace(queries, batch=batch)))

    def identity(self, label: str, *_: Any) -> dict[str, Any]:
        return {"label": label}

    def check(self, *_: Any) -> None:
        pass


class Judge(Protocol):
    """Return the tiny run as it is judged, with changes to [evaluate]."""

    def __call__(self, **changes: Any) -> Judged: ...


@pytest.fixture
def judge(opened: Opened, pool: Pool, queries: Queries, tiny_run: TinyRun, tmp_path: Path) -> Judge:
    from harness.attribution.evaluate_spec import Evaluating
    from harness.attribution.evaluation.judged import Judged
    from harness.attribution.places import Places
    from harness.attribution.progress import SILENT
    from harness.attribution.score_spec import Scoring
    from harness.attribution.spec import Attribution

    def make(**changes: Any) -> Judged:
        scores = Scoring(estimators={"grad_dot": "grad_dot", "backwards": "grad_cos"})
        options = Evaluating(**{"jobs": 1, **changes})
        spec = Attribution(name="judged", run=str(tiny_run.folder), evaluate=options, scores=scores)
        places = Places(tiny_run.out, f"judged-{tmp_path.name}")
        lines: list[str] = []
        return Judged(opened, pool, queries, spec, places, SILENT, lines.append, Direct())

    return make
