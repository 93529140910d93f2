"""Chameleon's leverage scores against the formula, by hand."""

from __future__ import annotations

import pytest
import torch

from baselines.chameleon import Chameleon, ChameleonMain, leverage_scores
from tests.doubles import PlanRunner, PlanSpec


def test_scores_of_three_domains_by_hand() -> None:
    """x = (3, 0), (0, 0), (-3, 0), centred already: K = [[9, 0, -9], [0, 0, 0], [-9, 0, 9]].

    Its eigenvalue 18 belongs to (1, 0, -1) / sqrt 2, so with lambda n = 3 x 2 = 6 the diagonal of
    K (K + 6)^-1 is 18 / 24 (1/2, 0, 1/2), over its sum (1/2, 0, 1/2).
    """
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 0.0], [-3.0, 0.0]]).double()

    assert leverage_scores(embeddings, 2.0).tolist() == pytest.approx([0.5, 0.0, 0.5])


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
