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
With several rounds, that mean becomes the reference weights of the next (section 3.1).

The clip and the step size of copies that circulate are named variants, so that you can see what
they change: `domain_clip` takes the mean of the excess before it is clipped (a domain whose proxy
is ahead of its reference on average then counts for nothing), `eta_0.1` and `eta_0.01` are the step
sizes of the DoGE and Aioli repositories, whose DoReMi has both (`domain_clip_eta_0.1`,
`domain_clip_eta_0.01`). The copies' other differences are not reproduced: DoGE's does not smooth,
the averages of both leave the uniform start out, and both clip gradients once per domain.

Needs: a reference run and a proxy run per round. Cost: both, and a forward of the reference on
every proxy row: 2.33 runs of the proxy's size on top of the main one (3.33 in all where the proxy
is as large). Defaults: eta 1, c 1e-3 (Algorithm 1; the official script's `reweight_eps`), one
round. Deviations: the proxy has the main model's size unless `proxy_size` says otherwise (the
paper's is smaller); a proxy size is a preset and takes over nothing of the main model's `config`.
Reference and proxy train for the main run's steps unless `proxy_steps` says otherwise. The proxy's
loss is divided by the sum of weights over all tokens of the batch, as in the official code; the
paper's objective averages within each domain first. With micro-batches, alpha sees the whole batch
at once, as in the paper; the official code uses the value of the previous step there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from baselines.proxies import CONFIG, Count, Positive, Proxied, static_at
from baselines.static import Static
from harness.api import Mixer
from harness.domains import domain_mean, exponentiated, uniform

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch, State, View

Clip = Literal["token", "domain"]
VARIANTS: dict[str, tuple[Clip, float]] = {
    "paper": ("token", 1.0),
    "domain_clip": ("domain", 1.0),
    "eta_0.1": ("token", 0.1),
    "eta_0.01": ("token", 0.01),
    "domain_clip_eta_0.1": ("domain", 0.1),
    "domain_clip_eta_0.01": ("domain", 0.01),
}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class DoReMi(Proxied):
    """Reference run, proxy run, then a static main run at the proxy's average weights."""

    variant: Literal[
        "paper", "domain_clip", "eta_0.1", "eta_0.01", "domain_clip_eta_0.1", "domain_clip_eta_0.01"
    ] = "paper"
    """The paper's, or a copy that circulates."""
    eta: Positive | None = None
    """Step size of the exponentiated-gradient update on alpha; unset for the variant's."""
    rounds: Count = 1
    """Times that reference and proxy are trained, each from the weights of the one before."""
    c: Annotated[float, Field(strict=True, ge=0, lt=1)] = 1e-3
    """Smoothing of alpha towards uniform."""
    reference: Literal["natural", "uniform"] = "natural"
    """Weights that the reference model trains on."""

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Train reference and proxy, as often as asked; then the main run on the mean alpha."""
        small, weights = self.small(spec), Static(weights=self.reference)
        clip, eta = VARIANTS[self.variant]
        for i in range(self.rounds):
            number = f" {i + 1}" if self.rounds > 1 else ""
            reference = run(small.auxiliary(f"reference{number}", mixer=weights))
            settings = {"eta": self.eta or eta, "c": self.c, "clip": clip}
            mixer = DoReMiProxy(reference=reference.run_id, **settings)
            proxy = run(small.auxiliary(f"proxy{number}", mixer=mixer))
            mean = proxy.state["alpha_sum"] / proxy.state["alpha_sum"].sum()
            weights = static_at(mean, proxy.domains)
        return run(replace(spec, mixer=weights))


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class DoReMiProxy(Mixer):
    """The proxy run: uniform sampling, rows weighted by the current alpha of their domain."""

    eta: float
    c: float
    clip: Clip = "token"
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
        excess = losses - reference
        if self.clip == "token":  # before any mean
            excess = excess.clamp(min=0)
        means = domain_mean(excess, batch.domains, num_domains, state["excess"], batch.mask)
        state["excess"] = means.clamp(min=0)  # changes nothing where tokens are clipped
        alpha = exponentiated(state["alpha"], self.eta * state["excess"])
        state["alpha"] = (1 - self.c) * alpha + self.c / num_domains
        state["alpha_sum"] = state["alpha_sum"] + state["alpha"]
        row_weight = state["alpha"] * num_domains  # over the uniform sampling weight
        return row_weight.to(losses)[batch.domains]
