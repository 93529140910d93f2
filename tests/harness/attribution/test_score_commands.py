"""`attribute score`, `top` and `select` on a finished run, as the command line calls them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from harness.attribution.commands import carry_out
from harness.attribution_forms import (
    AttributeScore,
    AttributeSelect,
    AttributeTop,
    AttributeTrain,
)


def test_scores_are_made_shown_and_selected_by(tiny_run: Any, tmp_path: Path) -> None:
    spec, out = tmp_path / "a.toml", tmp_path / "out"
    spec.write_text(
        f"name = 'x'\nrun = {json.dumps(str(tiny_run.folder))}\n"
        "[queries]\nkind = 'split'\nrows = 3\n[scores]\n"
        "estimators = ['grad_dot', 'grad_cos']\nrows = 20\n"
    )
    said = io.StringIO()

    def do(command: Any, overrides: tuple[str, ...] = ()) -> str:
        assert carry_out(command, overrides, "p", Console(file=said, width=200)) == 0
        told = said.getvalue()
        said.seek(0)
        said.truncate()
        return told

    do(AttributeTrain(spec=spec, out=out))
    told = do(AttributeScore(spec=spec, out=out, npz=True, on_nonfinite="mask"))
    assert told.count("scores of grad_") == 2
    (path,) = (out / "attribution/x/pages").glob("grad_cos-*.npz")
    with np.load(path) as found:
        assert found["scores"].shape == (3, 20)
    told = do(AttributeTop(spec=spec, out=out, k=2, estimator=("grad_cos",)))
    assert "grad_cos: score; positive" in told
    assert (out / "attribution/x/pages/top.html").exists()
    assert "replaces" not in told
    assert "replaces" not in do(AttributeTop(spec=spec, out=out, k=1, estimator=("grad_cos",)))
    fewer = ("--scores.rows", "10")
    do(AttributeScore(spec=spec, out=out, npz=True), fewer)
    shapes = []
    for path in (out / "attribution/x/pages").glob("grad_cos-*.npz"):
        with np.load(path) as found:
            shapes.append(found["scores"].shape)
    assert sorted(shapes) == [(3, 10), (3, 20)]  # neither takes the other's name
    told = do(AttributeTop(spec=spec, out=out, k=2, estimator=("grad_cos",)), fewer)
    assert "note: the page replaces one of other scores" in told
    to = tmp_path / "kept.jsonl"
    told = do(AttributeSelect(spec=spec, out=out, to=to, keep=0.5))
    assert "10 of " in told
    assert "rows kept, 20 had a score" in told
    assert len(to.read_text().splitlines()) == 10
