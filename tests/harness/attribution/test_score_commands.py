"""`attribute score`, `top` and `select` on a finished run, as the command line calls them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from harness.attribution.commands import carry_out
from harness.attribution.store import ScoreStore
from harness.attribution_forms import (
    AttributeFit,
    AttributeScore,
    AttributeSelect,
    AttributeTop,
    AttributeTrain,
)
from harness.errors import SpecError


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


def test_what_one_label_cannot_follow_is_refused_before_another_is_scored(
    tiny_run: Any, tmp_path: Path
) -> None:
    """By every stage, the first of which trains; a cosine that is asked for a cosine is one."""
    spec, out = tmp_path / "a.toml", tmp_path / "out"
    spec.write_text(
        f"name = 'x'\nrun = {json.dumps(str(tiny_run.folder))}\n"
        "[queries]\nkind = 'split'\nrows = 3\n[scores]\n"
        "rows = 20\n[scores.estimators]\n"
        "grad_dot = { kind = 'grad_dot', preconditioner = 'none' }\n"
        "grad_cos = { kind = 'grad_cos', preconditioner = 'none' }\n"
    )
    said = io.StringIO()

    def do(command: Any, normalize: str) -> int:
        console = Console(file=said, width=200)
        return carry_out(command, ("--scores.normalize", normalize), "p", console)

    assert do(AttributeTrain(spec=spec, out=out), "cosine") == 0
    for form in (AttributeTrain, AttributeFit, AttributeScore):
        with pytest.raises(SpecError, match=r"self_influence needs .* grad_cos"):
            do(form(spec=spec, out=out), "self_influence")
    scores = out / "attribution/x/scores"
    assert not scores.exists()

    assert do(AttributeScore(spec=spec, out=out), "cosine") == 0

    assert "grad_cos: normalize is left out; grad_cos is a cosine as it is" in said.getvalue()
    stores = [ScoreStore.open(path.parent) for path in scores.glob("*/about.json")]
    found = {(s.about["label"], s.about["normalize"]): s.total for s in stores}
    np.testing.assert_allclose(
        found["grad_dot", "cosine"], found["grad_cos", "none"], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{ kind = 'grad_dot', modules = ['nope'] }", r"x\.modules: 'nope' matches nothing"),
        ("{ kind = 'grad_dot', modules = [] }", r"x\.modules: is empty"),
        ("{ kind = 'grad_cos', last_blocks = 99 }", r"x: last_blocks is 99; the model has"),
        ("{ kind = 'directional', modules = ['nope'] }", r"x\.modules: 'nope' matches nothing"),
        ("{ kind = 'hidden_landmark', layers = 99 }", r"x: layers is 99;"),
        ("{ kind = 'hidden_landmark', landmarks = 999 }", r"x\.landmarks: 999, of \d+ rows"),
        ("{ kind = 'influcoder', modules = ['wte'] }", r"x\.modules: takes in an embedding"),
        ("{ kind = 'grad_dot', detail = ['tokens'] }", r"x\.detail: .* set scores\.modules or"),
        ("{ kind = 'ekfac', detail = ['modules'] }", r"x\.detail: .* set scores\.modules or"),
        ("'influcoder'", r'x: influcoder needs peft; pip install "steelyard\[influcoder\]"'),
        ("'bm25'", r'x: bm25 needs bm25s; pip install "steelyard\[evaluation\]"'),
        ("{ kind = 'identity', route = 'kronfluence' }", "x: kronfluence is not installed"),
        ("'diagonal'", "no factors; run `steelyard attribute fit`"),
    ],
)
def test_every_label_is_checked_before_one_is_scored(
    wrong: str, said: str, tiny_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, out = tmp_path / "a.toml", tmp_path / "out"
    spec.write_text(
        f"name = 'x'\nrun = {json.dumps(str(tiny_run.folder))}\n"
        "[queries]\nkind = 'split'\nrows = 3\n[factors]\nfitter = 'hooks'\n"
        f"[scores]\nrows = 20\n[scores.estimators]\nfirst = 'grad_dot'\nx = {wrong}\n"
    )
    plain = spec.read_text().partition("x = ")[0]
    (tmp_path / "plain.toml").write_text(plain)
    console = Console(file=io.StringIO(), width=200)
    assert carry_out(AttributeTrain(spec=tmp_path / "plain.toml", out=out), (), "p", console) == 0
    for name in ("peft", "bm25s", "kronfluence"):
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(SpecError, match=said) as refused:
        carry_out(AttributeScore(spec=spec, out=out), (), "p", console)

    assert "\n" not in str(refused.value)
    assert not (out / "attribution/x/scores").exists()
