"""Every registered method, and variants that take other paths, under the exported suite."""

from __future__ import annotations

from typing import Any

from baselines.aioli import Aioli
from baselines.chameleon import Chameleon
from baselines.doge import DoGE
from baselines.doremi import DoReMi
from baselines.influence import Influence
from baselines.odm import ODM
from baselines.regmix import RegMix
from harness.api import Mixer
from harness.influence.gradients import Group
from harness.testing import MixerContract
from tests.methods import REPLAYED, TINY

VARIANTS: dict[str, Mixer] = {
    **TINY,
    "regmix_lightgbm": RegMix(mixtures=4, simulated=500, top=10, proxy_steps=2),
    "chameleon_finetuning": Chameleon(form="finetuning", rows=4, proxy_steps=2),
    "odm_cumulative": ODM(variant="cumulative"),
    "odm_ema_exp": ODM(variant="ema_exp"),
    "doge_online": DoGE(form="online", objective="domains", probe_rows=2),
    "doremi_domain_clip_two_rounds": DoReMi(variant="domain_clip_eta_0.1", rounds=2, proxy_steps=3),
    "aioli_without_average": Aioli(
        every=12, lp_rounds=1, lp_steps=2, one_hot=0.75, ema=None, objective="target", probe_rows=2
    ),
    "influence_permuted_qp": Influence(
        every=3, rows=2, probe_rows=2, rule="qp", permute_domains=True, fidelity_every=0,
        estimator=Group(),
    ),
}  # fmt: skip


def contract(mixer: Mixer) -> type[MixerContract]:
    """Return the five lines that a user writes."""
    body: dict[str, Any] = {"mixer": mixer, "arms": REPLAYED}
    return type("Contract", (MixerContract,), body)


for _name, _mixer in VARIANTS.items():
    globals()[f"Test_{_name}"] = contract(_mixer)
