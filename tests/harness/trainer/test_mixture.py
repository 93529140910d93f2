"""What a mixture refuses before anything is trained: one line each, with where and the fix."""

from __future__ import annotations

from typing import Any

import pytest

from baselines.doremi import DoReMi
from baselines.influence import Influence
from baselines.static import Static
from harness.errors import SpecError
from harness.trainer import Mixture

ROWS = [{"input_ids": [1, 2, 3]}] * 4
OTHERS = [{"input_ids": [3, 2, 1, 0]}] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixer": "static"}, "mixer: 'static' is no Mixer"),
        ({"mixer": DoReMi()}, "mixer: DoReMi plans other runs, which a Trainer cannot do; use"),
        ({"mixer": Static(weights={"z": 1.0})}, "mixer: Static: weights: 'z' is no trained domain"),
        (
            {"mixer": Influence(floor=0.6)},
            "mixer: Influence: floor 0.6 and cap 1.0 leave no mixture",
        ),
        ({"train": {}}, "train: no domain"),
        ({"train": {"a": []}}, "train['a']: the data set is empty"),
        ({"train": {"a": iter(ROWS)}}, "train['a']: a list_iterator has no len() and [i]"),
        ({"probe": {"a": ROWS}}, "probe['a']: is trained on as well; split it first"),
        ({"targets": {"z": 1.0}}, "targets: 'z' is no domain; choose from a, b"),
        ({"targets": {"a": -1.0}}, "targets: the weight of 'a' is -1.0"),
        ({"targets": {"a": 0.0}}, "targets: no weight is positive"),
        ({"probe": {"b": ROWS[1:]}, "targets": {"a": 1.0}}, "targets: 'a' has no probe set"),
        ({"tokens": {"a": 5}}, "tokens: {'a': 5} is not a positive number for each of train's"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    fitting = {"mixer": Static(), "train": {"a": ROWS, "b": OTHERS}}

    with pytest.raises(SpecError) as caught:
        Mixture(**{**fitting, **settings})

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_targets_default_to_the_domains_with_a_probe_set_and_sum_to_one() -> None:
    data: dict[str, Any] = {"mixer": Static(), "train": {"a": ROWS, "b": ROWS}}

    assert Mixture(**data).target_weights() == {"a": 0.5, "b": 0.5}
    assert Mixture(**data, probe={"c": OTHERS}).target_weights() == {"c": 1.0}
    named = Mixture(**data, targets={"a": 3.0, "b": 1.0})
    assert named.target_weights() == {"a": 0.75, "b": 0.25}


def test_sizes_are_counted_unless_given() -> None:
    data: dict[str, Any] = {"mixer": Static(), "train": {"a": ROWS, "b": OTHERS}}

    assert Mixture(**data).count_tokens() == {"a": 12, "b": 8}
    assert Mixture(**data, tokens={"a": 7, "b": 9}).count_tokens() == {"a": 7, "b": 9}
    with pytest.raises(SpecError, match="nothing has been trained yet"):
        Mixture(**data).summary()
