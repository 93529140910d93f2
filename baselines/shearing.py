"""LLM-Shearing's dynamic batch loading: sample what lags behind a reference loss.

Xia, Gao, Zeng, Chen, "Sheared LLaMA: Accelerating Language Model Pre-training via Structured
Pruning", ICLR 2024, arXiv:2310.06694, Algorithm 1; details follow the official code,
princeton-nlp/LLM-Shearing (llmshearing/callbacks/dynamic_loading_callback.py at b87218b). Every
`every` steps, with L_k the probe loss of domain k and R_k its reference,

  D_k = max(L_k - R_k, 0),    alpha_k <- alpha_k exp(D_k), normalised

The official code does not clip (`clip = false`) and mixes in c = 1e-4 of the uniform mixture.

Needs: probe rows of the trained domains; a reference. Cost: the reference run, and a forward pass
of the probe set at each update. Defaults: every 50 steps (pruning; 400 when training goes on),
start at natural proportions, c 1e-4. Deviations: the paper predicts R by a scaling law over models
of the same family, and no such family is at hand: R is the probe loss at the end of a reference run
at natural proportions, of the main model's size and length unless `proxy_size` or `proxy_steps` say
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from baselines.proxies import CONFIG, Count, Proxied, probe_losses, trained_at, trained_domains
from baselines.static import Static
from harness.api import Mixer
from harness.domains import exponentiated

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import State, View

Switch = Annotated[bool, Field(strict=True)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Shearing(Proxied):
    """A reference run, then a main run that samples more where its loss is above the reference."""

    every: Count = 50
    """Steps between updates."""
    clip: Switch = True
    """Count no domain as ahead of its reference (the paper); the official code does."""
    c: Annotated[float, Field(strict=True, ge=0, lt=1)] = 1e-4
    """Share of the uniform mixture that is mixed in."""
    probe_rows: Count = 32
    """Probe rows of each domain."""

    def check_length(self, num_steps: int, domains: tuple[str, ...]) -> None:
        """Refuse a run that ends before the first update."""
        if self.every >= num_steps:
            raise ValueError(
                f"every: no update comes in {num_steps} steps, at {self.every}; lower it"
            )

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Train the reference, then the main run."""
        natural, small = Static(weights="natural"), self.small(spec)
        # the rows that the main run will look at: others would differ from them for good
        (found,) = trained_at(small, run, [natural], "reference", measure_rows=self.probe_rows)
        reference = {domain: found.probe_losses[domain] for domain in trained_domains(spec)}
        settings = {name: getattr(self, name) for name in ("every", "clip", "c", "probe_rows")}
        return run(replace(spec, mixer=ShearingMain(reference=reference, **settings)))


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ShearingMain(Mixer):
    """The main run: weights that follow probe losses."""

    reference: dict[str, float]
    """Loss of each trained domain that counts as done."""
    every: int
    clip: bool
    c: float
    probe_rows: int

    def init(self, view: View) -> State:
        """Start at natural proportions."""
        return {"weights": view.prior.clone()}

    def propose(self, view: View, state: State) -> Tensor:
        """Return the weights [K], updated when it is time."""
        if view.step > 0 and view.step % self.every == 0:
            num_domains = len(view.domains)
            trained = torch.arange(len(view.probe_domains)) < num_domains
            losses = probe_losses(view, self.probe_rows, trained)[:num_domains]
            goals = torch.tensor([self.reference[d] for d in view.domains], dtype=torch.float64)
            lag = losses - goals
            weights = exponentiated(state["weights"], lag.clamp(min=0) if self.clip else lag)
            state["weights"] = (1 - self.c) * weights + self.c / num_domains
        return state["weights"]
