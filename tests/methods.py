"""Every registered method, with settings that make it act in a dozen steps where it needs some."""

from __future__ import annotations

from baselines import METHODS
from baselines.ado import ADO
from baselines.aioli import Aioli
from baselines.chameleon import Chameleon
from baselines.doge import DoGE
from baselines.doremi import DoReMi
from baselines.influence import Influence
from baselines.mixing_laws import MixingLaws
from baselines.odm import ODM
from baselines.regmix import RegMix
from baselines.replay import RandomWalk, Replay, ShuffledSchedule
from baselines.shearing import Shearing
from baselines.skill_it import SkillIt
from baselines.static_tuned import StaticTuned
from harness.api import Mixer
from harness.influence.directional_estimator import Directional

REPLAYED = {"dynamic": ODM(warmup=0.0)}
SETTINGS: dict[str, Mixer] = {
    "influence": Influence(
        every=3, rows=2, probe_rows=2, fidelity_rows=2, estimator=Directional(check_rows=2)
    ),
    "doremi": DoReMi(proxy_steps=6),
    "doge": DoGE(probe_rows=2, proxy_steps=6),
    "skill_it": SkillIt(rounds=4, probe_rows=2, proxy_steps=3),
    "aioli": Aioli(every=12, lp_rounds=1, lp_steps=2, one_hot=0.75, eta=1.0, probe_rows=2),
    "odm": ODM(warmup=0.1),
    "ado": ADO(start=4, every=3, ignore=0, stride=1, starts=4),
    "shearing": Shearing(every=3, probe_rows=2, proxy_steps=6),
    "regmix": RegMix(mixtures=4, simulated=500, top=10, regressor="linear", proxy_steps=2),
    "mixing_laws": MixingLaws(mixtures=4, starts=3, proxy_steps=2),
    "chameleon": Chameleon(rows=4, regularization=1e-3, proxy_steps=2),
    "static_tuned": StaticTuned(trials=6, proxy_steps=2),
    "replay": Replay(of="dynamic"),
    "shuffled_schedule": ShuffledSchedule(of="dynamic"),
    "random_walk": RandomWalk(of="dynamic"),
}
TINY: dict[str, Mixer] = {name: SETTINGS.get(name) or cls() for name, cls in METHODS.items()}
