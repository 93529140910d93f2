"""Scores taken apart by module and by position: parts add up, and each is what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.api import Batch, Scores
from harness.influence.ekfac import Ekfac
from harness.influence.gradients import GradCos, GradDot
from harness.influence.row_gradients import row_gradients
from harness.view import RunView

BOTH: Any = ("modules", "tokens")
PLAIN: dict[str, Any] = {"preconditioner": "none"}
ESTIMATORS = [
    GradDot(detail=BOTH),
    GradDot(modules=("all",), detail=BOTH, **PLAIN),
    GradCos(modules=("all",), detail=BOTH),
    GradCos(modules=("mlp",), detail=BOTH, **PLAIN),
    Ekfac(fitter="hooks", damping=0.3, detail=BOTH),
]


def some(view: RunView) -> tuple[Batch, Batch]:
    """Return nine rows, one with few counted targets and one with none, and four queries."""
    rows, query = view.candidates(3), view.probes(1)
    mask = rows.mask.clone()
    mask[1, 9:], mask[4] = False, False
    return replace(rows, mask=mask), query


def scored(estimator: Any, view: RunView, rows: Batch, query: Batch) -> Scores:
    """Return the scores of an estimator that was fitted on the rows."""
    prepared = estimator.prepare(view, estimator.fit(view, rows), query)
    found: Scores = estimator.score(view, prepared, rows)
    return found


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: f"{e.kind} {' '.join(e.modules)}")
def test_parts_add_up_to_the_score_and_leave_it_as_it_is(estimator: Any, view: RunView) -> None:
    rows, query = some(view)

    found, plain = (
        scored(e, view, rows, query) for e in (estimator, replace(estimator, detail=()))
    )

    assert torch.equal(found.total, plain.total)
    assert plain.modules is None
    assert plain.tokens is None
    assert found.modules is not None
    assert found.tokens is not None
    names = str(found.about["module_names"]).split()
    assert found.modules.shape == (*found.total.shape, len(names))
    assert found.tokens.shape == (*found.total.shape, rows.targets.shape[1])
    size = float(found.total.abs().max())
    for parts in (found.modules, found.tokens):
        torch.testing.assert_close(parts.sum(-1), found.total, rtol=0, atol=1e-5 * size)


def test_a_modules_part_is_the_score_of_that_module_alone(view: RunView) -> None:
    rows, query = some(view)
    whole = scored(GradDot(detail=("modules",)), view, rows, query)
    assert whole.modules is not None

    for place, name in enumerate(str(whole.about["module_names"]).split()):
        alone = scored(GradDot(modules=(f"^{name}$",)), view, rows, query).total
        torch.testing.assert_close(whole.modules[..., place], alone, rtol=1e-6, atol=0)


def test_a_positions_part_is_its_outer_product_with_the_query(view: RunView) -> None:
    """Of one linear layer with a bias, taken by hand from autograd."""
    rows, query = some(view)
    estimator = GradDot(modules=(r"h\.1\.mlp\.c_fc$",), detail=("tokens",), **PLAIN)
    found = scored(estimator, view, rows, query).tokens
    assert found is not None
    module: Any = view.model.get_submodule("transformer.h.1.mlp.c_fc")
    kept: dict[str, torch.Tensor] = {}

    def keep(_: Any, args: Any, out: torch.Tensor) -> None:
        out.retain_grad()
        kept["given"], kept["out"] = args[0].detach(), out

    gradients = row_gradients(view.model, query, estimator._uses(view))
    weight, bias = (gradients[f"transformer.h.1.mlp.c_fc.{n}"] for n in ("weight", "bias"))
    handle = module.register_forward_hook(keep)
    logits = view.model(input_ids=rows.inputs, use_cache=False).logits
    handle.remove()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), rows.targets.flatten(), reduction="none"
    ).view_as(rows.targets)
    (losses * rows.mask / rows.mask.sum(1, keepdim=True).clamp(min=1)).sum().backward()
    view.model.zero_grad()
    slope = kept["out"].grad
    assert slope is not None
    wanted = torch.einsum("bti,qio,bto->bqt", kept["given"], weight, slope)  # Conv1D is [in, out]
    wanted += torch.einsum("qo,bto->bqt", bias.flatten(1), slope)

    torch.testing.assert_close(found, wanted.double(), rtol=1e-4, atol=1e-8)


def test_a_route_that_knows_no_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="detail needs route = \"hooks\", not 'directional'"):
        Ekfac(route="directional", queries="mean", detail=("tokens",))
