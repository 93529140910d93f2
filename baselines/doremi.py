"""DoReMi: weights from a small proxy trained by group distributionally robust optimisation.

Xie et al., "DoReMi: Optimizing Data Mixtures Speeds Up Language Model Pretraining", NeurIPS 2023,
arXiv:2305.10429, Algorithm 1; details that the paper leaves open follow the official code,
sangmichaelxie/doremi (doremi/trainer.py at 7cde52d).

1. A reference model trains on the reference weights (natural proportions by default).
2. A proxy of the same size draws domains uniformly. At each step, per token j of domain k,
   lambda_k = mean_j max(loss_j - reference_loss_j, 0), a domain that is not in the batch keeps its
   last value (log vocabulary at first), then log alpha' = log alpha + eta lambda, normalised, and
   alpha = (1 - c) alpha' + c / K. The proxy's loss weighs each row by the new alpha of its domain
   over its sampling weight.
3. The main model trains on the mean of alpha over all steps, the first (uniform) one included.

Defaults: eta 1, c 1e-3 (Algorithm 1; the official script's `reweight_eps`), one round.
Cost: the reference run, the proxy run, and a forward of the reference on every proxy row: 2.33
runs of the proxy's size on top of the main one (3.33 in all where the proxy is as large).
Deviations: the proxy has the main model's size unless `proxy_size` says otherwise (the paper's
is smaller); a proxy size is a preset and takes over nothing of the main model's `config`. Reference
and proxy train for the main run's steps. The proxy's loss is divided by the sum of weights over all
tokens of the batch, as in the official code; the paper's objective averages within each domain
first. With micro-batches, alpha sees the whole batch at once, as in the paper; the official code
uses the value of the previous step there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from baselines.static import Static
from harness.api import Mixer
from harness.domains import domain_mean, uniform

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, State, View

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class DoReMi(Mixer):
    """Reference run, proxy run, then a static main run at the proxy's average weights."""

    eta: Annotated[float, Field(strict=True, gt=0)] = 1.0
    """Step size of the exponentiated-gradient update on alpha."""
    c: Annotated[float, Field(strict=True, ge=0, lt=1)] = 1e-3
    """Smoothing of alpha towards uniform."""
    reference: Literal["natural", "uniform"] = "natural"
    """Weights that the reference model trains on."""
    proxy_size: Literal["nano", "micro", "mini", "small", "124m", "350m", "1b"] | None = None
    """Model size of reference and proxy; unset for the main model's own."""

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Train reference and proxy, then the main run on the proxy's mean alpha."""
        model = spec.model
        if self.proxy_size is not None:
            model = replace(model, size=self.proxy_size, config={})
        small = replace(spec, model=model)
        reference = run(small.auxiliary("reference", mixer=Static(weights=self.reference)))
        mixer = DoReMiProxy(eta=self.eta, c=self.c, reference=reference.run_id)
        proxy = run(small.auxiliary("proxy", mixer=mixer))
        mean = proxy.state["alpha_sum"] / proxy.state["alpha_sum"].sum()
        weights = dict(zip(proxy.domains, mean.tolist(), strict=True))
        return run(replace(spec, mixer=Static(weights=weights)))


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class DoReMiProxy(Mixer):
    """The proxy run: uniform sampling, rows weighted by the current alpha of their domain."""

    eta: float
    c: float
    reference: str
    """Run id of the reference model."""
    reweights: ClassVar[bool] = True

    def init(self, view: View) -> State:
        """Start from uniform alpha and, for domains not seen yet, an excess of log vocabulary."""
        start = uniform(len(view.domains))
        vocabulary = view.model.get_input_embeddings().weight.shape[0]
        excess = torch.full_like(start, math.log(vocabulary))
        return {"alpha": start, "alpha_sum": start.clone(), "excess": excess}

    def propose(self, view: View, state: State) -> Tensor:
        """Draw domains uniformly."""
        return uniform(len(view.domains))

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Update alpha by the batch's excess losses; return each row's new alpha_k * K."""
        num_domains = len(view.domains)
        reference = view.token_losses(batch, model=view.finished(self.reference))  # [B, T]
        excess = (losses - reference).clamp(min=0)  # per token, before any mean
        state["excess"] = domain_mean(
            excess, batch.domains, num_domains, state["excess"], batch.mask
        )
        alpha = torch.softmax(state["alpha"].log() + self.eta * state["excess"], 0)
        state["alpha"] = (1 - self.c) * alpha + self.c / num_domains
        state["alpha_sum"] = state["alpha_sum"] + state["alpha"]
        row_weight = state["alpha"] * num_domains  # over the uniform sampling weight
        return row_weight.to(losses)[batch.domains]
