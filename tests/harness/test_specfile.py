"""A mistake in a spec is one clear line, before torch is imported and before any work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from harness.ablate import run_ablation
from harness.cli import find_method
from harness.errors import SpecError
from harness.identity import to_json
from harness.labor import Display, Staff
from harness.spec import Ablation
from harness.specfile import load_ablation

ROOT = Path(__file__).parents[2]
GOOD = """
name = "t"
target = "a"
baseline = "uniform"
seeds = [0, 1]
[domains.a]
kind = "synthetic"
[domains.b]
kind = "synthetic"
seed = 1
[domains.d]
kind = "synthetic"
train = false
[budget]
steps = 10
[arms.uniform]
method = "static"
[arms.influence]
method = "influence"
settings = { every = 4 }
"""


def edit(old: str, new: str) -> str:
    """Return GOOD with one piece replaced."""
    assert GOOD.count(old) >= 1, old
    return GOOD.replace(old, new, 1)


# name: (text, where the line must point, what it must say)
BAD: dict[str, tuple[str | bytes, str, str]] = {
    "unknown key at the top": ("seds = [0]\n" + GOOD, "seds", "did you mean 'seeds'?"),
    "unknown key in a table": (GOOD + '[model]\nsise = "nano"', "model.sise", "mean 'size'?"),
    "unknown key in a domain": (edit("seed = 1", "sead = 1"), "domains.b.sead", "mean 'seed'?"),
    "unknown key far from any": (
        GOOD + "[batch]\nqqqq = 1",
        "batch.qqqq",
        "known keys: rows, tokens, micro_rows",
    ),
    "unknown key in an arm": (
        edit('method = "static"', 'method = "static"\ncontrl = true'),
        "arms.uniform.contrl",
        "did you mean 'control'?",
    ),
    "unknown key in settings": (
        edit("every = 4", "evry = 4"),
        "arms.influence.settings.evry",
        "did you mean 'every'?",
    ),
    "text for a number": (edit("= 10", '= "ten"'), "budget.steps", "valid integer"),
    "fraction for a count": (edit("= 10", "= 10.5"), "budget.steps", "got 10.5"),
    "number for a text": (edit('= "static"', "= 3"), "arms.uniform.method", "got 3"),
    "number for a table": (edit("[domains.b]", "[domains]\nb = 3\n[domains.x]"), "domains.b", "3"),
    "text in a list of numbers": (edit("[0, 1]", '[0, "x"]'), "seeds.1", "got 'x'"),
    "number for a list": (edit("[0, 1]", "3"), "seeds", "got 3"),
    "wrong in all of two types": (
        edit('target = "a"', "target = 3"),
        "target",
        "valid string, or input should be a valid dictionary, got 3",
    ),
    "wrong in one of two types": (
        edit('target = "a"', "target = { a = -1.0 }"),
        "target.a",
        "greater than 0, got -1.0",
    ),
    "wrong type in settings": (
        edit("every = 4", 'every = "x"'),
        "arms.influence.settings.every",
        "got 'x'",
    ),
    "zero steps": (edit("= 10", "= 0"), "budget.steps", "greater than 0, got 0"),
    "zero threads": ("threads = 0\n" + GOOD, "threads", "greater than 0, or"),
    "too small a vocabulary": (
        GOOD + "[tokenizer]\nvocab_size = 10",
        "tokenizer.vocab_size",
        "300, got 10",
    ),
    "not a number": (
        GOOD + "[optimizer]\nlearning_rate = nan",
        "optimizer.learning_rate",
        "finite",
    ),
    "out of range in settings": (
        edit("every = 4", "temperature = 0"),
        "arms.influence.settings.temperature",
        "greater than 0, got 0",
    ),
    "unknown choice": ('precision = "fp8"\n' + GOOD, "precision", "got 'fp8'"),
    "unknown choice in settings": (
        edit('method = "static"', 'method = "static"\nsettings = { weights = "unifrom" }'),
        "arms.uniform.settings.weights",
        "got 'unifrom'",
    ),
    "unknown kind of domain": (
        edit('kind = "synthetic"', 'kind = "synthetik"'),
        "domains.a",
        "'synthetik'",
    ),
    "unknown package": (
        edit('kind = "synthetic"', 'kind = "package"\npackage = "nope"'),
        "domains.a.package",
        "got 'nope'",
    ),
    "train split as evaluation": (
        GOOD + '[evaluation]\nsplits = ["train"]',
        "evaluation.splits.0",
        "got 'train'",
    ),
    "settings that are no table": (
        edit("{ every = 4 }", "3"),
        "arms.influence.settings",
        "must be a table of settings, got 3",
    ),
    "settings that are a text": (
        edit("{ every = 4 }", '"every"'),
        "arms.influence.settings",
        "must be a table of settings, got 'every'",
    ),
    "arm that is no table": (
        edit("[arms.influence]", "[arms]\nx = 3\n[arms.influence]"),
        "arms.x",
        "got 3",
    ),
    "a boolean for a count": (edit("= 10", "= true"), "budget.steps", "got True"),
    "a text for a count": (edit("= 10", '= "10"'), "budget.steps", "got '10'"),
    "a seed beyond 64 bits": (
        edit("seeds = [0", "seeds = [99999999999999999999"),
        "seeds",
        "less than",
    ),
    "two arms with one label": (
        GOOD + '[arms.uniform]\nmethod = "static"',
        "not valid TOML",
        "two arms or domains may share a name",
    ),
    "label that is a path": (edit("[arms.influence]", '[arms."../x"]'), "arms.../x", "got '../x'"),
    "name that is a path": (edit('name = "t"', 'name = "a/b"'), "name", "got 'a/b'"),
    "target that is no domain": (
        edit('target = "a"', 'target = "z"'),
        "target",
        "'z' is no domain; choose one of a, b, d",
    ),
    "one target of two no domain": (
        edit('target = "a"', "target = { a = 1, z = 1 }"),
        "target",
        "'z' is no domain; choose one of a, b, d",
    ),
    "target of no domain": (edit('target = "a"', "target = {}"), "target", "names no domain"),
    "baseline that is no arm": (
        edit('baseline = "uniform"', 'baseline = "unifrm"'),
        "baseline",
        "'unifrm' is no arm; choose one of uniform, influence",
    ),
    "two budgets": (
        edit("= 10", "= 10\ntokens = 100"),
        "budget",
        "exactly one of steps and tokens",
    ),
    "no budget": (edit("steps = 10", ""), "budget", "exactly one of steps and tokens"),
    "no budget table": (edit("[budget]\nsteps = 10", ""), "budget", "is missing; add it"),
    "a seed twice": (edit("[0, 1]", "[0, 0]"), "seeds", "names a seed twice"),
    "no seed": (edit("[0, 1]", "[]"), "seeds", "at least 1 item"),
    "nothing to train on": (
        GOOD.replace("train = false\n", "")
        .replace("[domains.", "[domains.x")
        .replace('kind = "synthetic"', 'kind = "synthetic"\ntrain = false')
        .replace('target = "a"', 'target = "xa"'),
        "domains",
        "at least one must have train = true",
    ),
    "nothing left to train on": (
        GOOD + "[splits]\nprobe = 0.4\ntuning = 0.4\nheldout = 0.4",
        "splits",
        "must stay below 0.9",
    ),
    "uneven micro-batches": (
        GOOD + "[batch]\nrows = 8\nmicro_rows = 3",
        "batch",
        "micro_rows must divide rows (8)",
    ),
    "unknown method": (
        edit('"static"', '"statik"'),
        "arms.uniform.method",
        "unknown method 'statik'; choose from static, temperature, unimax",
    ),
    "module that is not there": (
        edit('"static"', '"nope.mod:Class"'),
        "arms.uniform.method",
        "No module named 'nope'",
    ),
    "class that is not there": (
        edit('"static"', '"baselines.static:Nope"'),
        "arms.uniform.method",
        "has no attribute 'Nope'",
    ),
    "class that is no method": (
        edit('"static"', '"harness.spec:Splits"'),
        "arms.uniform.method",
        "'harness.spec:Splits' is no mixing method",
    ),
    "function for a method": (
        edit('"static"', '"os:getcwd"'),
        "arms.uniform.method",
        "'os:getcwd' is no mixing method",
    ),
    "arm without a method": (
        edit('method = "static"', "control = true"),
        "arms.uniform.method",
        "is missing; add it",
    ),
    "weights of no domain": (
        edit('method = "static"', 'method = "static"\nsettings = { weights = { z = 1.0 } }'),
        "arms.uniform.settings.weights",
        "'z' is no trained domain; choose from a, b",
    ),
    "weights of a domain not trained on": (
        edit('method = "static"', 'method = "static"\nsettings = { weights = { d = 1.0 } }'),
        "arms.uniform.settings.weights",
        "'d' is no trained domain; choose from a, b",
    ),
    "floor without a mixture": (
        edit("every = 4", "floor = 0.6"),
        "arms.influence.settings",
        "floor 0.6 and cap 1.0 leave no mixture of 2 domains",
    ),
    "no TOML": ("name = \n", "not valid TOML", "line 1"),
    "binary file": (b"\x00\x01\xff\xfe\x80", "cannot be read", "utf-8"),
}
# overrides: (arguments, where the line must point, what it must say)
BAD_OVERRIDES: dict[str, tuple[list[str], str, str]] = {
    "unknown": (["--budgt.steps=3"], "--budgt.steps", "did you mean --budget.steps?"),
    "unknown in settings": (
        ["--arms.influence.settings.evry=3"],
        "--arms.influence.settings.evry",
        "did you mean --arms.influence.settings.every?",
    ),
    "without dashes": (["budget.steps=3"], "budget.steps=3", "unknown option"),
    "wrong type": (["--budget.steps=x"], "--budget.steps", "'x'"),
    "wrong type in a domain": (["--domains.b.seed=x"], "--domains.b.seed", "'x'"),
    "unknown choice": (["--model.size=huge"], "--model.size", "choice 'huge'"),
    "out of range": (["--budget.steps=0"], "--budget.steps", "greater than 0, got 0"),
    "out of range in settings": (
        ["--arms.influence.settings.every=0"],
        "--arms.influence.settings.every",
        "greater than 0, got 0",
    ),
    "bounds without a mixture": (
        ["--arms.influence.settings.floor=0.6"],
        "arms.influence.settings",
        "floor 0.6 and cap 1.0 leave no mixture",
    ),
    "no domain": (["--target=z"], "target", "'z' is no domain; choose one of a, b, d"),
    "no arm": (["--baseline=z"], "baseline", "'z' is no arm; choose one of uniform, influence"),
    "a second budget": (["--budget.tokens=9"], "budget", "exactly one of steps and tokens"),
    "a seed twice": (["--seeds", "2", "2"], "seeds", "names a seed twice"),
    "a method": (
        ["--arms.uniform.method=doremi"],
        "--arms.uniform.method",
        "a method cannot be overridden",
    ),
}


def load(folder: Path, text: str | bytes, overrides: Sequence[str] = ()) -> Ablation:
    """Write a spec to a file, and load it."""
    path = folder / "spec.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_ablation(path, overrides, find_method)


def complaint(folder: Path, text: str | bytes, overrides: Sequence[str] = ()) -> list[str]:
    """Return the lines of the SpecError that a spec leads to."""
    with pytest.raises(SpecError) as caught:
        load(folder, text, overrides)
    return str(caught.value).splitlines()


def test_the_spec_that_all_mistakes_are_made_in_is_right(tmp_path: Path) -> None:
    """Each case below is wrong for the one reason that it names."""
    ablation = load(tmp_path, GOOD)

    assert list(ablation.arms) == ["uniform", "influence"]
    assert ablation.arms["influence"].settings.every == 4


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_with_its_place_and_its_fix(tmp_path: Path, case: str) -> None:
    """The line starts with the file, names the key, and says the value or what to do."""
    text, where, what = BAD[case]

    lines = complaint(tmp_path, text)

    assert len(lines) == 1
    assert lines[0].startswith(f"{tmp_path / 'spec.toml'}: {where}")
    assert what in lines[0].removeprefix(f"{tmp_path / 'spec.toml'}: {where}")


@pytest.mark.parametrize("case", BAD_OVERRIDES)
def test_a_mistake_in_an_override_is_one_line(tmp_path: Path, case: str) -> None:
    """No box, no traceback, no help text: the argument, and what is wrong with it."""
    overrides, where, what = BAD_OVERRIDES[case]

    lines = complaint(tmp_path, GOOD, overrides)

    assert len(lines) == 1
    assert where in lines[0]
    assert what in lines[0]
    assert "\u2500" not in lines[0]


def test_every_mistake_has_a_line_of_its_own(tmp_path: Path) -> None:
    """Three mistakes are told at once, in three lines."""
    lines = complaint(tmp_path, edit("= 10", "= 0") + "[batch]\nrows = 0\ntokens = 1")

    assert [line.split(": ")[1] for line in lines] == ["batch.rows", "batch.tokens", "budget.steps"]


@pytest.mark.parametrize(
    ("name", "says"), [("missing.toml", "no such file"), (".", "Is a directory")]
)
def test_a_path_that_is_no_file_is_one_line(tmp_path: Path, name: str, says: str) -> None:
    """A missing file and a directory are told apart, with the path."""
    with pytest.raises(SpecError) as caught:
        load_ablation(tmp_path / name, [], find_method)

    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_module_with_a_syntax_error_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own method that does not parse is a mistake in the spec, not a traceback."""
    (tmp_path / "broken_method.py").write_text("class Mine(:\n")
    monkeypatch.syspath_prepend(tmp_path)

    (line,) = complaint(tmp_path, edit('"static"', '"broken_method:Mine"'))

    assert "arms.uniform.method: 'broken_method:Mine' cannot be imported" in line


def test_an_unknown_tracker_is_refused_before_any_work(tmp_path: Path) -> None:
    """Trackers are opened first: nothing is written to the output folder."""
    ablation = load(tmp_path, 'trackers = ["wandb", "nope"]\n' + GOOD)

    with pytest.raises(SpecError, match="'nope'") as caught:
        run_ablation(ablation, tmp_path / "out", Staff(1), Display(), ["steelyard"])

    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    """The order is defaults, file, arguments; what is not named stays."""
    ablation = load(
        tmp_path,
        GOOD + "[batch]\nrows = 4",
        ["--budget.steps=7", "--arms.influence.settings.floor=0.1", "--seeds", "5", "6"],
    )

    assert (ablation.budget.steps, ablation.batch.rows, ablation.batch.tokens) == (7, 4, 128)
    assert ablation.arms["influence"].settings.floor == 0.1
    assert ablation.arms["influence"].settings.every == 4
    assert ablation.seeds == (5, 6)


def test_no_clipping_can_be_written_in_a_file(tmp_path: Path) -> None:
    """TOML has no null; the run is the one that `--optimizer.clip=None` asks for."""
    written = load(tmp_path, GOOD + '[optimizer]\nclip = "none"')
    asked = load(tmp_path, GOOD, ["--optimizer.clip=None"])

    assert written.optimizer.clip is None
    assert to_json(written.optimizer) == to_json(asked.optimizer)
    assert to_json(written.optimizer)["clip"] is None


def test_a_spec_is_read_without_torch() -> None:
    """Importing torch takes seconds, and a wrong key is answered within one."""
    program = (
        "import sys; from pathlib import Path; from harness.specfile import load_ablation;"
        "from harness.cli import find_method;"
        "load_ablation(Path('sweeps/demo.toml'), ['--budget.steps=30'], find_method);"
        "assert 'torch._C' not in sys.modules; assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}

    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)


names = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True)
synthetic = st.fixed_dictionaries(
    {"kind": st.just("synthetic")},
    optional={"seed": st.integers(0, 99), "num_words": st.integers(2, 5000)},
)
package = st.fixed_dictionaries(
    {"kind": st.just("package"), "package": st.sampled_from(["sympy", "cwe2"])},
    optional={"train": st.booleans(), "max_bytes": st.integers(1, 10**9)},
)
static = st.fixed_dictionaries(
    {"method": st.just("static")},
    optional={
        "settings": st.fixed_dictionaries({"weights": st.sampled_from(["uniform", "natural"])}),
        "control": st.booleans(),
        "data_seed": st.none() | st.integers(0, 9),
    },
)
optimizer = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.floats(1e-9, 10),
        "betas": st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)).map(list),
        "schedule": st.sampled_from(["cosine", "constant", "wsd"]),
    },
)


@st.composite
def written_specs(draw: st.DrawFn) -> dict[str, Any]:
    """Return what a user might write."""
    domains = draw(st.dictionaries(names, synthetic | package, min_size=1, max_size=3))
    domains["always-trained"] = {"kind": "synthetic"}
    arms = draw(st.dictionaries(names, static, min_size=1, max_size=3))
    budget = draw(st.sampled_from(["steps", "tokens"]))
    return {
        "name": draw(names),
        "target": draw(
            st.sampled_from(list(domains))
            | st.dictionaries(st.sampled_from(list(domains)), st.floats(0.1, 9), min_size=1)
        ),
        "seeds": draw(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True)),
        "baseline": draw(st.sampled_from(list(arms))),
        "domains": domains,
        "arms": arms,
        "budget": {budget: draw(st.integers(1, 10**12))},
        "optimizer": draw(optimizer),
        "threads": draw(st.just("auto") | st.integers(1, 64)),
    }


def to_toml(value: Any) -> str:
    """Return a value as inline TOML."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(k)} = {to_toml(v)}" for k, v in value.items() if v is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(to_toml(v) for v in value)}]"
    return json.dumps(value) if not isinstance(value, float) else repr(value)


def written(spec: dict[str, Any]) -> str:
    """Return a spec as a TOML file."""
    return "\n".join(
        f"{key} = {to_toml(value)}" for key, value in spec.items() if value is not None
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spec=written_specs())
def test_a_spec_survives_the_round_trip_through_toml(tmp_path: Path, spec: dict[str, Any]) -> None:
    """What a loaded ablation says of itself, written as TOML, loads as an equal ablation."""
    first = load(tmp_path, written(spec))
    plain = TypeAdapter(Ablation).dump_python(first, mode="json")

    again = load(tmp_path, written(plain))

    assert again == first
    for label, arm in spec["arms"].items():
        wanted = arm.get("settings", {}).get("weights", "uniform")
        assert again.arms[label].settings.weights == wanted
    assert again.seeds == tuple(spec["seeds"])
    assert again.optimizer.learning_rate == spec["optimizer"].get("learning_rate", 1e-3)


def test_the_best_checkpoint_is_kept_only_where_the_tuning_set_is_evaluated(tmp_path: Path) -> None:
    keep = "[checkpoint]\nkeep_best = true\n"

    (line,) = complaint(tmp_path, GOOD + keep)

    assert "checkpoint.keep_best: the best is by the tuning set; set evaluation.splits" in line
    assert load(tmp_path, GOOD + keep + '[evaluation]\nsplits = ["heldout", "tuning"]\n')
