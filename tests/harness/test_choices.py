"""Precision and compilation follow from what the machine and the run are, and say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baselines.static import Static
from harness import choices
from harness.choices import Chosen, choose, cpu_units
from harness.spec import Ablation, Arm, Batching, Budget, Model, SyntheticDomain

XEON = "processor : 0\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile\n"
OLDER = "processor : 0\nflags\t\t: fpu sse2 avx2\n"
ARM = "processor : 0\nFeatures\t: fp asimd bf16 i8mm\n"
PLAIN = "processor : 0\nflags\t\t: fpu sse2\n"
# 6 x 1.2e8 parameters x 1e6 steps x 2,048 tokens
LONG = {"model": Model(size="124m"), "budget": Budget(steps=1_000_000)}


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that puts another processor into the machine."""

    def put(text: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        monkeypatch.setattr(choices, "CPUINFO", path)
        monkeypatch.setattr(choices.shutil, "which", lambda name: f"/usr/bin/{name}")

    return put


def chosen(device: Any = "cpu", **changes: Any) -> Chosen:
    """Return what is chosen for a small ablation with `changes`."""
    fields: dict[str, Any] = {
        "name": "one",
        "target": "a",
        "seeds": (0,),
        "domains": {"a": SyntheticDomain(seed=0)},
        "arms": {"uniform": Arm(method="static", settings=Static())},
        "baseline": "uniform",
        "batch": Batching(rows=16, tokens=128),
        "budget": Budget(steps=100),
        **changes,
    }
    return choose(Ablation(**fields), device)


@pytest.mark.parametrize(
    ("text", "precision", "why"),
    [
        (XEON, "bfloat16", "the CPU has amx_bf16, avx512_bf16"),
        (ARM, "bfloat16", "the CPU has bf16"),
        (OLDER, "float32", "the CPU has no bfloat16 units"),
        ("", "float32", "the CPU has no bfloat16 units"),
    ],
)
def test_precision_is_what_the_processor_has_units_for(
    cpu: Any, text: str, precision: str, why: str
) -> None:
    """And the reason names them."""
    cpu(text)
    found = chosen()

    assert (found.precision, found.reasons["precision"]) == (precision, why)


def test_a_unit_is_a_whole_word_of_the_flags(cpu: Any) -> None:
    """avx512_bf16 is no bf16, and a model name is no flag."""
    cpu("model name : bf16 avx2 machine\nflags : avx512_bf16\n")

    assert cpu_units(("bf16", "avx2", "avx512_bf16")) == ["avx512_bf16"]


def test_a_processor_that_cannot_be_asked_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other systems have no such file."""
    monkeypatch.setattr(choices, "CPUINFO", tmp_path / "none")

    assert cpu_units(("avx2",)) == []


@pytest.mark.parametrize(
    ("text", "changes", "compiled", "why"),
    [
        (XEON, {}, False, "compiling pays from 2e+14"),
        (XEON, LONG, True, "compiling pays from 2e+14"),
        (PLAIN, LONG, False, "the CPU has none of avx512f, avx2, asimd"),
        (XEON, {**LONG, "compile": False}, False, "as the spec says"),
        (PLAIN, {"compile": True}, True, "as the spec says"),
    ],
)
def test_long_runs_are_compiled_where_the_machine_can(
    cpu: Any, text: str, changes: dict[str, Any], compiled: bool, why: str
) -> None:
    """What the spec says is kept, whatever the machine."""
    cpu(text)
    found = chosen(**changes)

    assert found.compile is compiled
    assert why in found.reasons["compile"]


def test_without_a_compiler_nothing_is_compiled(cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason says what was looked for."""
    cpu(XEON)
    monkeypatch.setattr(choices.shutil, "which", lambda name: None)
    found = chosen(**LONG)

    assert not found.compile
    assert "no C++ compiler (c++, g++, clang++) on PATH" in found.reasons["compile"]


def test_a_gpu_computes_in_bfloat16_and_compiles_later(cpu: Any) -> None:
    """It is faster, so a run must have more operations for the compiler to be worth its minute."""
    cpu(PLAIN)
    short = {"model": Model(size="124m"), "budget": Budget(steps=1000)}

    assert chosen("cuda").precision == "bfloat16"
    assert not chosen("cuda", **short).compile
    assert chosen("cuda", **LONG).compile
