"""Mixing methods: one file each, all of one form; the method under test has no privileges."""

from baselines.doremi import DoReMi
from baselines.influence import Influence
from baselines.static import Static

METHODS = {
    "static": Static,
    "influence": Influence,
    "doremi": DoReMi,
}
