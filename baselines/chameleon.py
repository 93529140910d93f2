"""Chameleon: weights from how much each domain's embedding stands out among the others.

Xie, Tonin, Cevher, "Chameleon: A Flexible Data-mixing Framework for Language Model Pretraining and
Finetuning", ICML 2025, arXiv:2505.24844; details follow the official code, LIONS-EPFL/Chameleon
(compute_chameleon_weights.py, utils.py at 598a6c5). A proxy trains; x_k is the mean over domain k's
rows and tokens of the hidden states at its middle layer, and with K the linear kernel of the x_k,
centred over domains,

  S_k = [K (K + lambda n I)^-1]_kk / sum_j [...]_jj          n domains: ridge leverage scores
  pre-training:  p = softmax(1 / (temperature S))             common domains first
  fine-tuning:   p = softmax(S / temperature)                 unusual domains first

Needs: a proxy run; no probe rows, no target. Cost: the proxy run and a forward pass of `rows` rows
per domain. Defaults: lambda 10, temperature 5 (pre-training) or .2 (fine-tuning), 2,048 rows there,
128 here. Deviations: the proxy trains at uniform weights for the main run's steps (the official one
is an 82M-parameter model). Repeated embeddings are not removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic.dataclasses import dataclass

from baselines.proxies import CONFIG, Count, Positive, Proxied
from baselines.static import Static
from harness.api import Mixer
from harness.influence.flops import billed

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, State, View

TEMPERATURES = {"pretraining": 5.0, "finetuning": 0.2}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Chameleon(Proxied):
    """A proxy run for embeddings, then a static main run at their leverage scores."""

    form: Literal["pretraining", "finetuning"] = "pretraining"
    """More of what is common, or more of what is unusual."""
    regularization: Positive = 10.0
    """lambda; smaller tells domains apart more sharply."""
    temperature: Positive | None = None
    """Unset for the paper's: 5 in pre-training, .2 in fine-tuning."""
    rows: Count = 128
    """Train rows per domain that are embedded."""

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Train the proxy, then the main run."""
        proxy = run(self.small(spec).auxiliary("proxy", mixer=Static()))
        mixer = ChameleonMain(
            proxy=proxy.run_id,
            form=self.form,
            regularization=self.regularization,
            temperature=self.temperature or TEMPERATURES[self.form],
            rows=self.rows,
        )
        return run(replace(spec, mixer=mixer))


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ChameleonMain(Mixer):
    """The main run: weights from the proxy's embeddings, fixed before the first step."""

    proxy: str
    """Run id of the model whose hidden states are read."""
    form: Literal["pretraining", "finetuning"]
    regularization: float
    temperature: float
    rows: int

    def init(self, view: View) -> State:
        """Embed candidate rows; set the weights."""
        model, candidates = view.finished(self.proxy), view.candidates(self.rows)

        def embedded(rows: Batch) -> Tensor:
            with torch.no_grad():
                # the base model stops before the vocabulary
                found = model.base_model(input_ids=rows.inputs, output_hidden_states=True)
            states = found.hidden_states
            return states[len(states) // 2].double().mean(1).cpu()  # [n, width]

        rows = billed(view, candidates, 32, embedded)
        domains = candidates.domains.cpu()
        means = torch.stack([rows[domains == k].mean(0) for k in range(len(view.domains))])
        scores = leverage_scores(means, self.regularization)
        view.note("leverage", {"scores": scores.tolist()})
        logits = 1 / (scores + 1e-12) if self.form == "pretraining" else scores
        return {"weights": torch.softmax(logits / self.temperature, 0)}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the same weights [K] as ever."""
        return state["weights"]


def leverage_scores(embeddings: Tensor, regularization: float) -> Tensor:
    """Return ridge leverage scores [K] of domain embeddings [K, width], sum 1; equal where 0."""
    num_domains = len(embeddings)
    centred = embeddings - embeddings.mean(0)
    kernel = centred @ centred.T
    ridge = regularization * num_domains * torch.eye(num_domains, dtype=kernel.dtype)
    scores = torch.linalg.solve(kernel + ridge, kernel).diagonal()
    if scores.sum() <= 0:
        return torch.full_like(scores, 1 / num_domains)
    return scores / scores.sum()
