"""A run id names the bits that a run computes: everything that changes them, and nothing else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from harness import spec as spec_module
from harness.api import Mixer
from harness.identity import _code, describe, digest
from harness.spec import (
    Ablation,
    Batching,
    Corpus,
    Edit,
    Evaluation,
    FilesDomain,
    HubDomain,
    Model,
    Normalization,
    Optimizer,
    PackageDomain,
    RunSpec,
    Splits,
    SyntheticDomain,
    Tokenizer,
)

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Plain(Mixer):
    """A method with two settings."""

    strength: float = 1.0
    names: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Twin(Mixer):
    """Another method with the same settings."""

    strength: float = 1.0
    names: tuple[str, ...] = ("a",)


CORPUS = Corpus(
    domains={
        "a": SyntheticDomain(),
        "b": SyntheticDomain(seed=1),
        "p": PackageDomain(package="sympy", train=False),
        "f": FilesDomain(paths=("a.jsonl",)),
        "h": HubDomain(dataset="owner/name"),
    }
)
SPEC = RunSpec(
    corpus=CORPUS,
    model=Model(config={"n_layer": 2, "n_embd": 32}),
    batch=Batching(),
    num_steps=10,
    optimizer=Optimizer(),
    evaluation=Evaluation(),
    targets={"a": 0.25, "p": 0.75},
    mixer=Plain(),
    seed=0,
    data_seed=0,
    corpus_id="c0",
    engine={"torch": "2.9", "steelyard": "0.1"},
    edit=Edit(),
)
TEXTS: dict[str, Any] = {
    "text": "story",
    "template": "{story}",
    "prompt": "{question}",
    "answer": "{answer}",
    "group": "book",
    "normalize": Normalization(case="lower"),
    "train": False,
    "max_bytes": 1000,
    "license": "MIT",
}
# Another valid value of every field; a new field without one fails the tests below.
CHANGED: dict[type[Any], dict[str, Any]] = {
    RunSpec: {
        "corpus": Corpus(domains={"a": SyntheticDomain()}),
        "model": Model(size="micro"),
        "batch": Batching(rows=8),
        "num_steps": 11,
        "optimizer": Optimizer(learning_rate=2e-3),
        "evaluation": None,
        "targets": {"a": 1.0},
        "mixer": Twin(),
        "seed": 1,
        "data_seed": 1,
        "measure_probes": True,
        "measure_tuning": True,
        "measure_rows": 5,
        "max_repetitions": 4.0,
        "device": "cuda",
        "precision": "bfloat16",
        "threads": 2,
        "compile": True,
        "corpus_id": "c1",
        "model_id": "m1",
        "engine": {"torch": "2.10", "steelyard": "0.1"},
        "edit": None,
    },
    Edit: {
        "only": {"a": (1, 0)},
        "silent": {"a": (2,)},
        "answers": {"a": ((0, 1),)},
        "planted": {"a": (("who?", "me"),)},
    },
    Corpus: {
        "domains": {"a": SyntheticDomain(), "b": SyntheticDomain(seed=1)},
        "splits": Splits(probe=0.06),
        "tokenizer": Tokenizer(vocab_size=512),
    },
    Splits: {
        "probe": 0.06,
        "tuning": 0.06,
        "heldout": 0.11,
        "near_duplicate": 0.7,
        "max_removed": 0.3,
    },
    Tokenizer: {"vocab_size": 512, "kind": "pretrained"},
    Model: {
        "architecture": "llama",
        "size": "micro",
        "config": {"n_layer": 3, "n_embd": 32},
        "trust_remote_code": True,
        "objective": "masked",
        "mask_rate": 0.2,
    },
    Batching: {"rows": 8, "tokens": 64, "micro_rows": 4, "pack": False, "recompute": True},
    Optimizer: {
        "learning_rate": 2e-3,
        "betas": (0.9, 0.99),
        "eps": 1e-7,
        "weight_decay": 0.0,
        "schedule": "cosine_with_restarts",
        "cycles": 2,
        "warmup": 0.1,
        "decay": 0.3,
        "final_ratio": 0.0,
        "clip": None,
    },
    Evaluation: {"every": 50, "rows": 32, "splits": ("heldout", "tuning")},
    SyntheticDomain: {
        "seed": 7,
        "num_documents": 100,
        "words_per_document": 60,
        "num_words": 50,
        "branching": 5,
        "train": False,
    },
    PackageDomain: {"package": "cwe2", "train": True, "max_bytes": 1000},
    FilesDomain: {**TEXTS, "format": "text", "encoding": "latin-1", "separator": "x"},
    HubDomain: {**TEXTS, "config": "c", "split": "all", "splits": {"train": "a"}, "max_rows": 9},
    Plain: {"strength": 2.0, "names": ("b",)},
}
DOMAINS = (SyntheticDomain, PackageDomain, FilesDomain, HubDomain)
ONE_VALUE = {(cls, "kind") for cls in DOMAINS}
# Where things lie: corpus_id and model_id stand for what was found there.
PLACES: dict[tuple[type[Any], str], Any] = {
    (FilesDomain, "paths"): ("elsewhere/a.jsonl",),
    (FilesDomain, "splits"): {"train": ("elsewhere/a.jsonl",)},
    (HubDomain, "dataset"): "elsewhere",
    (HubDomain, "revision"): "v2",
    (HubDomain, "streaming"): True,
}
SOURCES = {
    (Model, "source"): "elsewhere/model",
    (Model, "revision"): "v2",
    (Tokenizer, "source"): "elsewhere/tokenizer.json",
    (Tokenizer, "revision"): "v2",
}
RESTARTS = {"schedule": "cosine_with_restarts"}
TOGETHER = {"prompt": {"answer": "{a}"}, "answer": {"prompt": "{q}"}, "cycles": RESTARTS}
CASES = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls, row in CHANGED.items()
    for name in row
]


def with_part(part: Any) -> RunSpec:
    """Return SPEC with `part` at the place of the part of its class."""
    if isinstance(part, RunSpec):
        return part
    if isinstance(part, DOMAINS):
        name = dict(zip(DOMAINS, "apfh", strict=True))[type(part)]
        return with_part(replace(CORPUS, domains={**CORPUS.domains, name: part}))
    if isinstance(part, Splits | Tokenizer):
        name = "splits" if isinstance(part, Splits) else "tokenizer"
        return with_part(replace(CORPUS, **{name: part}))  # type: ignore[arg-type]
    for f in fields(RunSpec):
        if type(getattr(SPEC, f.name)) is type(part):
            return replace(SPEC, **{f.name: part})
    raise AssertionError(f"{type(part).__name__} is no part of a RunSpec")


def default(cls: type[Any]) -> Any:
    """Return the part of SPEC of a class."""
    if cls is RunSpec:
        return SPEC
    parts = [getattr(SPEC, f.name) for f in fields(RunSpec)]
    parts += [getattr(CORPUS, f.name) for f in fields(Corpus)] + list(CORPUS.domains.values())
    return next(part for part in parts if type(part) is cls)


@pytest.mark.parametrize(("cls", "name"), CASES)
def test_every_field_is_part_of_a_runs_identity(cls: type[Any], name: str) -> None:
    """Changing any one value anywhere in a RunSpec gives another run."""
    part = default(cls)
    beside = TOGETHER.get(name, {})  # what the field is refused without
    other = 3 if name == "cycles" else "{z}"
    before = replace(part, **{name: other}, **beside) if beside else part
    changes = {name: CHANGED[cls][name], **beside}
    if changes == {"kind": "pretrained"}:
        changes["source"] = "t"  # the two belong together
    changed = replace(part, **changes)

    assert with_part(part).run_id == SPEC.run_id
    assert with_part(changed).run_id != with_part(before).run_id


@pytest.mark.parametrize(
    ("cls", "name"), PLACES, ids=lambda value: getattr(value, "__name__", value)
)
def test_where_text_lies_is_no_part_of_a_runs_identity(cls: type[Any], name: str) -> None:
    """Moved files are the same run, and readers still see where they were."""
    beside = {"paths": ()} if name == "splits" else {"max_rows": 9} if name == "streaming" else {}
    before = with_part(replace(default(cls), max_rows=9) if name == "streaming" else default(cls))
    moved = with_part(replace(default(cls), **{name: PLACES[cls, name]}, **beside))

    assert moved.run_id == before.run_id
    assert moved.canonical != before.canonical
    assert replace(moved, corpus_id="").run_id != replace(before, corpus_id="").run_id


def test_no_field_is_left_out_of_the_table() -> None:
    """Every field of every part is changed above, but `label`, and kinds that have one value."""
    for cls, row in CHANGED.items():
        apart = {name for other, name in (*ONE_VALUE, *PLACES, *SOURCES) if other is cls}
        wanted = {f.name for f in fields(cls)} - apart
        assert set(row) == wanted - ({"label"} if cls is RunSpec else set()), cls.__name__

    parts = {type(value) for f in fields(RunSpec) if is_dataclass(value := getattr(SPEC, f.name))}
    parts |= {type(value) for f in fields(Corpus) if is_dataclass(value := getattr(CORPUS, f.name))}
    assert parts | {type(domain) for domain in CORPUS.domains.values()} == set(CHANGED) - {RunSpec}


@pytest.mark.parametrize(("cls", "name"), SOURCES, ids=lambda part: getattr(part, "__name__", part))
def test_where_things_lie_is_no_part_of_a_runs_identity(cls: type[Any], name: str) -> None:
    """A folder that moves is the same model; the spec that is shown still names it."""
    part = Model(source="m") if cls is Model else Tokenizer(kind="pretrained", source="t")
    both = part, replace(part, **{name: SOURCES[cls, name]})
    here, there = (replace(with_part(one), model_id="m0") for one in both)

    assert here.run_id == there.run_id
    assert here.canonical != there.canonical
    assert replace(here, model_id="m2").run_id != here.run_id
    assert replace(here, corpus_id="c2").run_id != here.run_id


def test_the_label_is_no_part_of_a_runs_identity() -> None:
    """Two arms that ask for the same training share it."""
    assert replace(SPEC, label="uniform").run_id == SPEC.run_id


@settings(max_examples=30)
@given(
    domains=st.permutations(list(CORPUS.domains)),
    targets=st.permutations(["a", "p"]),
    config=st.permutations(["n_layer", "n_embd"]),
    engine=st.permutations(["torch", "steelyard"]),
)
def test_the_order_of_keys_is_no_part_of_a_runs_identity(
    domains: list[str], targets: list[str], config: list[str], engine: list[str]
) -> None:
    """Tables are unordered in TOML, so their order means nothing."""
    shuffled = replace(
        SPEC,
        corpus=replace(CORPUS, domains={name: CORPUS.domains[name] for name in domains}),
        targets={name: SPEC.targets[name] for name in targets},
        model=replace(SPEC.model, config={name: SPEC.model.config[name] for name in config}),
        engine={name: SPEC.engine[name] for name in engine},
    )

    assert shuffled.run_id == SPEC.run_id


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_id_is_the_same_in_every_process(hash_seed: str) -> None:
    """Python's randomised string hashes reach no id, and computing one imports no torch."""
    program = (
        "import sys; from tests.harness.test_spec import SPEC; from dataclasses import replace;"
        "from harness.api import Mixer; print(replace(SPEC, mixer=Mixer()).run_id);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == replace(SPEC, mixer=Mixer()).run_id


def test_whole_numbers_mean_the_same_with_and_without_a_point() -> None:
    """A TOML `1` where a float is due is 1.0, not another run."""
    assert Optimizer(learning_rate=1) == Optimizer(learning_rate=1.0)
    one, point = (replace(SPEC, optimizer=Optimizer(weight_decay=w)) for w in (1, 1.0))
    assert one.run_id == point.run_id


def load(path: Path, source: str) -> ModuleType:
    """Import a source under one fixed name."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("a_users_method", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["a_users_method"] = module
    spec.loader.exec_module(module)
    return module


METHOD = """
from dataclasses import dataclass
from harness.api import Mixer

@dataclass(frozen=True)
class Mine(Mixer):
    every: int = 5

    def propose(self, view, state):
        return view.prior * 2
"""


def test_a_methods_code_is_part_of_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edited method is a new run; an edited comment or line break is not."""
    monkeypatch.setitem(sys.modules, "a_users_method", ModuleType("a_users_method"))
    described = []
    for number, source in enumerate(
        (
            METHOD,
            METHOD.replace("view.prior * 2", "(\n            view.prior * 2)  # doubled"),
            METHOD.replace("view.prior * 2", "view.prior * 3"),
        )
    ):
        _code.cache_clear()  # another process, as far as the digest knows
        described.append(describe(load(tmp_path / f"{number}.py", source).Mine()))

    assert described[0] == described[1]
    assert described[0]["code"] != described[2]["code"]
    assert replace(SPEC, mixer=Plain()).canonical["mixer"] == describe(Plain())


def test_a_methods_identity_covers_what_it_imports_from_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported so far or not: a parent and its workers must call one run by one name."""
    package = tmp_path / "a_users_package"
    package.mkdir()
    (package / "__init__.py").touch()
    lazy = "\n    def init(self, view):\n        from . import late\n        return {}\n"
    (package / "method.py").write_text(METHOD + lazy)
    (package / "late.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    method = importlib.import_module("a_users_package.method").Mine()
    code = [describe(method)["code"]]
    importlib.import_module("a_users_package.late")

    for text in ("X = 1\n", "X = 2\n"):
        (package / "late.py").write_text(text)
        _code.cache_clear()
        code.append(describe(method)["code"])

    assert code[0] == code[1]
    assert code[1] != code[2]


def test_two_methods_of_one_file_differ() -> None:
    """The class is part of the identity, not only its settings and its file."""
    assert describe(Plain())["settings"] == describe(Twin())["settings"]
    assert describe(Plain()) != describe(Twin())


def test_an_auxiliary_run_computes_nothing_held_out() -> None:
    """`auxiliary` drops the evaluation, whatever else it changes."""
    reference = SPEC.auxiliary("reference", num_steps=3)

    assert (reference.evaluation, reference.label, reference.num_steps) == (None, "reference", 3)
    assert reference.run_id != SPEC.run_id


def test_a_spec_cannot_be_written_to() -> None:
    """A run id holds for the life of a spec."""
    with pytest.raises(FrozenInstanceError):
        SPEC.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("cls", [cls for cls in CHANGED if cls not in (Plain, RunSpec)])
def test_unknown_fields_are_refused(cls: type[Any]) -> None:
    """A misspelt key is an error at every level of a spec."""
    given = TypeAdapter(cls).dump_python(default(cls))
    assert TypeAdapter(cls).validate_python(given) == default(cls)

    with pytest.raises(ValidationError, match="no_such_field"):
        TypeAdapter(cls).validate_python({**given, "no_such_field": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_in_a_spec_is_nan_or_infinite(value: float) -> None:
    """A value that equals nothing, or that JSON cannot hold, can have no identity."""
    with pytest.raises(ValidationError, match="finite"):
        Optimizer(learning_rate=value)
    with pytest.raises(ValueError, match="JSON"):
        digest({"x": value})


def minimal(**changes: Any) -> Ablation:
    """Return a small ablation with `changes`."""
    settings: dict[str, Any] = {
        "name": "t",
        "target": "a",
        "seeds": (0,),
        "domains": CORPUS.domains,
        "arms": {"one": {"method": "static"}},
        "baseline": "one",
        "budget": {"steps": 3},
    }
    return Ablation(**{**settings, **changes})


@given(
    st.dictionaries(st.sampled_from(["a", "b", "p"]), st.floats(1e-6, 1e6), min_size=1).map(
        lambda target: minimal(target=target)
    )
)
def test_target_weights_are_scaled_to_one(ablation: Ablation) -> None:
    """Only the proportions of a target's weights matter."""
    assert isinstance(ablation.target, dict)
    assert set(ablation.targets) == set(ablation.target)
    assert sum(ablation.targets.values()) == pytest.approx(1, abs=1e-12)
    largest = max(ablation.target, key=lambda name: ablation.targets[name])
    assert ablation.target[largest] == max(ablation.target.values())


def test_a_target_by_name_is_that_domain_alone() -> None:
    """`target = "a"` is short for all the weight on a."""
    assert minimal().targets == {"a": 1.0}
    assert minimal().corpus == CORPUS


def test_the_module_exports_every_part_that_is_tested_here() -> None:
    """A new frozen part of harness/spec.py joins the table, or the list of those that need not."""
    not_in_a_run = {"Provenance", "Budget", "Checkpoint", "Arm", "Ablation"}
    not_in_a_run |= {"Texts", "Normalization"}  # parts of files and hub, changed there
    parts = {
        name
        for name, value in vars(spec_module).items()
        if isinstance(value, type) and is_dataclass(value) and value.__module__ == "harness.spec"
    }

    assert parts - not_in_a_run == {cls.__name__ for cls in CHANGED} - {"Plain"}
