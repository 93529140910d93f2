"""Sizes as plain numbers: what a preset means, and how many parameters it has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_type_hints

import pytest
import torch

from harness.model import build_model
from harness.shapes import SIZES, configure, estimate_parameters
from harness.spec import Model

Architecture = Literal["gpt2", "llama", "mistral", "gpt_neo", "opt", "bert", "roberta"]
MASKED = ("bert", "roberta")


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize("size", SIZES)
def test_the_estimate_is_within_a_tenth_of_the_real_count(
    size: str, architecture: Architecture
) -> None:
    """Threads are chosen by it, before torch is imported."""
    spec = Model(
        architecture=architecture,
        size=size,  # type: ignore[arg-type]
        objective="masked" if architecture in MASKED else "causal",
    )
    with torch.device("meta"):
        model = build_model(spec, vocab_size=4096, tokens=128, seed=0)
    real = sum(parameter.numel() for parameter in model.parameters())

    assert estimate_parameters(spec, 4096) == pytest.approx(real, rel=0.1)


def test_every_size_has_a_shape_and_a_name() -> None:
    """The spec's choices and the table are the same, and heads divide the width."""
    assert get_args(get_type_hints(Model)["size"]) == tuple(SIZES)
    assert all(width % heads == 0 for _, width, heads in SIZES.values())
    counts = [estimate_parameters(Model(size=size), 4096) for size in SIZES]  # type: ignore[arg-type]
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("gpt2", {"n_layer": 3, "n_embd": 48}),
        ("llama", {"num_hidden_layers": 3, "hidden_size": 48}),
    ],
)
def test_a_config_overrides_its_preset(
    architecture: Architecture, config: dict[str, bool | int | float | str]
) -> None:
    """Also in the estimate."""
    spec = Model(architecture=architecture, size="mini", config=config)
    found = configure(spec, 300, 16)

    assert {key: found[key] for key in config} == config
    assert found["vocab_size"] == 300
    assert estimate_parameters(spec, 300) == 12 * 3 * 48**2 + 300 * 48


def test_planning_imports_neither_torch_nor_transformers() -> None:
    """A spec is resolved before anything slow is imported."""
    program = (
        "import sys; from harness import shapes, resolve, spec;"
        "shapes.estimate_parameters(spec.Model(), 4096); resolve.engine();"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], env=os.environ, check=True
    )
