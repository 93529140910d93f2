"""Settings as text: read by the search space, refused in one line where it has none."""

from __future__ import annotations

import json

import pytest

from harness.errors import SpecError
from sweeps.options import read_settings
from sweeps.space import Choice, FloatRange, IntRange, Parameter, Value

SPACE: dict[str, Parameter] = {
    "settings.every": IntRange(low=10, high=100, log=True),
    "settings.eta": FloatRange(low=0.01, high=10.0, log=True),
    "settings.reference": Choice(values=("natural", "uniform")),
    "settings.clip": Choice(values=(True, False)),
    "settings.rounds": Choice(values=(1, 2.5)),
}
GIVEN = {
    "settings.every": "20",
    "settings.eta": "0.5",
    "settings.reference": "natural",
    "settings.clip": "True",
    "settings.rounds": "1",
}


def options(**changes: str) -> list[str]:
    """Return all options, with changes by a parameter's last name."""
    given = {**GIVEN, **{f"settings.{name}": text for name, text in changes.items()}}
    return [f"--{name}={text}" for name, text in given.items()]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("every", "20", 20),
        ("every", "20.0", 20),  # a whole number on W&B's log scale
        ("every", "1e1", 10),
        ("eta", "1", 1.0),
        ("eta", "1e-02", 0.01),
        ("reference", "uniform", "uniform"),
        ("clip", "False", False),  # as W&B's agent writes it
        ("clip", "true", True),
        ("rounds", "1.0", 1),
        ("rounds", "2.50", 2.5),
    ],
)
def test_text_becomes_a_value_of_the_parameters_type(name: str, text: str, value: Value) -> None:
    found = read_settings(SPACE, None, options(**{name: text}))[f"settings.{name}"]

    assert found == value
    assert type(found) is type(value)


def test_json_says_the_same_as_options() -> None:
    typed = {
        "settings.every": 20,
        "settings.eta": 0.5,
        "settings.reference": "natural",
        "settings.clip": True,
        "settings.rounds": 1,
    }

    assert read_settings(SPACE, json.dumps(typed), []) == typed
    assert read_settings(SPACE, None, options()) == typed


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"every": "20.5"}, "--settings.every: must be a whole number from 10 to 100, got '20.5'"),
        ({"every": "101"}, "--settings.every: must be a whole number from 10 to 100, got '101'"),
        ({"eta": "nan"}, "--settings.eta: must be a number from 0.01 to 10, got 'nan'"),
        ({"eta": "big"}, "--settings.eta: must be a number from 0.01 to 10, got 'big'"),
        ({"clip": "1"}, "--settings.clip: must be one of True, False, got '1'"),
        ({"reference": "Natural"}, "--settings.reference: must be one of natural, uniform, got"),
        ({"rounds": "True"}, "--settings.rounds: must be one of 1, 2.5, got 'True'"),
        ({"rows": "4"}, "--settings.rows is not in the search space; choose from --settings.every"),
    ],
)
def test_what_the_space_has_no_place_for_is_refused(changes: dict[str, str], told: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_settings(SPACE, None, options(**changes))

    assert str(raised.value).startswith(told)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("params", "given", "told"),
    [
        (None, options()[1:], "--settings.every is missing; add --settings.every=10, or another"),
        ("{}", [], "--params: settings.every is missing; add settings.every: 10, or another"),
        (None, [*options(), "--settings.eta=1"], "--settings.eta: is given twice; give it once"),
        (None, ["--settings.eta"], "--settings.eta: has no value; write --settings.eta=VALUE"),
        ("{", [], "--params: is no JSON ("),
        ("[1]", [], "--params: must be one JSON object, got '[1]'"),
        ("{}", options(), "--params: settings are given as options too; give them once"),
    ],
)
def test_all_settings_are_given_and_once(params: str | None, given: list[str], told: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_settings(SPACE, params, given)

    assert str(raised.value).startswith(told)
