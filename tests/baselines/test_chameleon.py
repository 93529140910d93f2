"""Chameleon's leverage scores against the formula, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines.chameleon import Chameleon, ChameleonMain, leverage_scores
from tests.doubles import FakeView, PlanRunner, PlanSpec, batch_of


def test_scores_of_three_domains_by_hand() -> None:
    """x = (2, 1), (-2, 1), (0, -2), centred: K = x x' has 8 on (1, -1, 0) and 6 on (1, 1, -2).

    With lambda n = 2 x 3 = 6 the eigenvalues of K (K + 6)^-1 are 8/14 and 6/12, its diagonal
    (2/7 + 1/12, 2/7 + 1/12, 1/3) = (31, 31, 28) / 84, and over its sum (31, 31, 28) / 90.
    """
    embeddings = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [0.0, -2.0]]).double()

    scores = leverage_scores(embeddings, 2.0).tolist()

    assert scores == pytest.approx([31 / 90, 31 / 90, 28 / 90])


def test_the_odd_one_out_scores_most() -> None:
    """Two domains alike and one apart: more in fine-tuning, less in pre-training."""
    embeddings = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-2.0, 0.0]]).double()
    scores = leverage_scores(embeddings, 1.0)

    assert scores[2] > scores[0]
    assert float(scores[0]) == pytest.approx(float(scores[1]))
    assert float(scores.sum()) == pytest.approx(1.0)
    # 1 / S falls where S rises
    assert (1 / scores).argmin() == 2


def test_domains_that_are_alike_score_alike() -> None:
    """Nothing stands out of equal embeddings, not even a division by zero."""
    assert leverage_scores(torch.ones(4, 3).double(), 10.0).tolist() == [0.25] * 4


def test_the_plan_reads_a_uniform_proxy_and_takes_the_forms_temperature() -> None:
    """5 in pre-training, .2 in fine-tuning, or what is given."""
    found = {}
    for form in ("pretraining", "finetuning"):
        run = PlanRunner()
        Chameleon(form=form).plan(PlanSpec(), run)  # type: ignore[arg-type]
        assert run.asked[0].label == "proxy"
        assert isinstance(run.main.mixer, ChameleonMain)
        assert run.main.mixer.proxy == "run1"
        found[form] = run.main.mixer.temperature

    assert found == {"pretraining": 5.0, "finetuning": 0.2}


STATES = torch.tensor([[1.0, 1.0], [3.0, 1.0], [-2.0, 1.0], [0.0, -2.0]])
"""Hidden states of four tokens; the first two have the mean (2, 1)."""


class Layered(nn.Module):
    """A model of two blocks: hidden states in the middle, and a hundred times those at the end."""

    def __init__(self) -> None:
        """Have a base model, as transformers' models do: itself."""
        super().__init__()
        self.base_model = self._states

    def _states(self, input_ids: Tensor, output_hidden_states: bool) -> SimpleNamespace:
        embedded = STATES[input_ids]
        return SimpleNamespace(hidden_states=(0 * embedded, embedded, 100 * embedded))


@pytest.mark.parametrize("form", ["pretraining", "finetuning"])
def test_weights_of_both_forms_by_hand(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over rows and tokens of the middle layer, as above: S = (31, 31, 28) / 90.

    Pre-training at temperature 2: softmax(1 / S / 2). Fine-tuning: softmax(S / 2).
    """
    view = FakeView()
    rows = batch_of([0, 0, 1, 2])
    inputs = torch.tensor([[0, 1], [1, 0], [2, 2], [3, 3]])
    monkeypatch.setattr(view, "candidates", lambda n: replace(rows, inputs=inputs), raising=False)
    monkeypatch.setattr(view, "finished", lambda run_id: Layered())
    mixer = ChameleonMain(proxy="p", form=form, regularization=2.0, temperature=2.0, rows=2)

    weights = mixer.init(view)["weights"].tolist()

    scores = [31 / 90, 31 / 90, 28 / 90]
    raw = [math.exp((1 / s if form == "pretraining" else s) / 2) for s in scores]
    assert weights == pytest.approx([r / sum(raw) for r in raw])
