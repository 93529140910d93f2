"""What every implementation of the contract must pass: ours, and yours in five lines.

    from harness.testing import MixerContract
    from my_package.my_module import LossProportional

    class TestLossProportional(MixerContract):
        mixer = LossProportional()

`pytest` then runs the whole suite on it. Estimators have `EstimatorContract`. Both need pytest and
nothing else that a run does not need; the worlds that they train in are synthetic and tiny.
"""

from harness.testing.estimators import EstimatorContract
from harness.testing.mixers import MixerContract

__all__ = ["EstimatorContract", "MixerContract"]
