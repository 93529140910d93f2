"""Search spaces: what a file may say, and that every one of ours fits its method."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import SpecError
from harness.specfile import build_ablation, read_spec
from sweeps.space import FloatRange, IntRange, load_space, nested

from .tiny_study import SPEC

ROOT = Path(__file__).parents[2]
SPACES = sorted((ROOT / "sweeps/spaces").glob("*.toml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "space.toml"
    path.write_text(text)
    return path


def test_a_mixture_is_a_weight_for_each_trained_domain(tmp_path: Path) -> None:
    space = load_space(
        written(tmp_path, 'method = "static"\n[parameters]\n"settings.w" = { type = "mixture" }')
    )

    found = space.over(("a", "b"))

    assert found == {
        "settings.w.a": FloatRange(low=0.01, high=1.0, log=True),
        "settings.w.b": FloatRange(low=0.01, high=1.0, log=True),
    }


def test_dotted_keys_become_tables() -> None:
    assert nested({"settings.a": 1, "settings.b.c": "x", "settings.b.d": 2.0}) == {
        "settings": {"a": 1, "b": {"c": "x", "d": 2.0}}
    }


def test_a_range_holds_its_ends_and_no_other_kind_of_value() -> None:
    whole, real = IntRange(low=1, high=4), FloatRange(low=0.5, high=2.0)

    assert 1 in whole
    assert 4 in whole
    assert 5 not in whole
    assert 2.0 not in whole
    assert True not in whole
    assert 0.5 in real
    assert 1 in real
    assert "1" not in real
    assert None not in real


def test_a_range_with_steps_holds_what_lies_on_them() -> None:
    whole, real = IntRange(low=2, high=8, step=3), FloatRange(low=0.1, high=0.7, step=0.1)

    assert [value for value in range(10) if value in whole] == [2, 5, 8]
    assert 0.7 in real
    assert 0.35 not in real


WRONG = {
    'type = "int", low = 4, high = 4': "low must be below high, got 4 and 4",
    'type = "int", low = 0, high = 4, log = true': "a log scale needs low above 0, got 0",
    'type = "int", low = 1, high = 4, log = true, step = 2': "log and step exclude each other",
    'type = "int", low = 1.5, high = 4': "low: input should be a valid integer, got 1.5",
    'type = "int", low = 1': "high: is missing; add it",
    'type = "float", low = 1.0, high = nan': "high: input should be a finite number",
    'type = "choice", values = ["a"]': "values: tuple should have at least 2 items",
    'type = "whole", low = 1, high = 4': "settings.x: ",
    'type = "int", low = 1, high = 4, scale = "log"': "scale: unknown key; remove it",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_is_one_line_with_its_place(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, f'method = "odm"\n[parameters]\n"settings.x" = {{ {text} }}')

    with pytest.raises(SpecError) as refused:
        load_space(path)

    line = str(refused.value)
    assert line.startswith(f"{path}: parameters.settings.x")
    assert WRONG[text] in line
    assert "\n" not in line


def test_a_key_is_a_setting(tmp_path: Path) -> None:
    text = 'method = "odm"\n[parameters]\n"budget.steps" = { type = "int", low = 1, high = 2 }'

    with pytest.raises(SpecError, match=r"budget\.steps"):
        load_space(written(tmp_path, text))


def test_a_file_that_is_not_there_or_no_toml_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_space(tmp_path / "nowhere.toml")
    with pytest.raises(SpecError, match="cannot be read"):
        load_space(written(tmp_path, "method = "))


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_of_ours_is_one_that_its_method_takes(path: Path, tmp_path: Path) -> None:
    """Each parameter alone at either end, on a spec whose arm is at its defaults."""
    from harness.cli import find_method
    from sweeps.studyfile import _extremes, _setting

    space = load_space(path)
    needs = {  # what the arm has to say before its space makes sense
        "influence_landmark": 'settings = { estimator = { kind = "jvp_landmark" }, '
        "pool_rows = 64 }",
        "influence_landmark_seed": "settings = { estimator = { "
        'kind = "jvp_landmark", landmarks = 4 } }',
        "influence_qp": 'settings = { rule = "qp" }',
        "ado": "settings = { start = 30, every = 30, ignore = 10 }",
        "aioli": "settings = { lp_rounds = 1, lp_steps = 5 }",
    }
    arm = f'[arms.tuned]\nmethod = "{space.method}"\n{needs.get(path.stem, "")}\n'
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC.replace("steps = 12", "steps = 300") + arm)

    for key, parameter in space.over(("a", "b", "c")).items():
        for value in _extremes(parameter):
            change = {"tuned": nested({key: value})}
            tried = build_ablation(read_spec(spec), spec, (), find_method, change)
            assert _setting(tried.arms["tuned"].settings, key) == value


def test_the_published_methods_have_a_space_and_each_space_has_a_method() -> None:
    """A new method may do without: it is one file, one line and one test."""
    from harness.cli import registered

    tuned = {load_space(path).method for path in SPACES}

    published = {"influence", "doremi", "doge", "skill_it", "aioli", "odm", "ado", "shearing"}
    published |= {"regmix", "mixing_laws", "chameleon", "temperature", "unimax", "static"}
    assert published <= tuned <= set(registered())
