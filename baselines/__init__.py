"""Mixing methods: one file each, all of one form; the method under test has no privileges."""

from baselines.ado import ADO
from baselines.aioli import Aioli
from baselines.chameleon import Chameleon
from baselines.doge import DoGE
from baselines.doremi import DoReMi
from baselines.influence import Influence
from baselines.mixing_laws import MixingLaws
from baselines.odm import ODM
from baselines.presets import HalfOnTarget, TargetOnly
from baselines.regmix import RegMix
from baselines.replay import RandomWalk, Replay, ShuffledSchedule
from baselines.shearing import Shearing
from baselines.skill_it import SkillIt
from baselines.static import Static
from baselines.static_tuned import StaticTuned
from baselines.temperature import Temperature
from baselines.unimax import UniMax

METHODS = {
    "static": Static,
    "temperature": Temperature,
    "unimax": UniMax,
    "influence": Influence,
    "doremi": DoReMi,
    "doge": DoGE,
    "skill_it": SkillIt,
    "aioli": Aioli,
    "odm": ODM,
    "ado": ADO,
    "shearing": Shearing,
    "regmix": RegMix,
    "mixing_laws": MixingLaws,
    "chameleon": Chameleon,
    "static_tuned": StaticTuned,
    "target_only": TargetOnly,
    "half_on_target": HalfOnTarget,
    "replay": Replay,
    "shuffled_schedule": ShuffledSchedule,
    "random_walk": RandomWalk,
}
