"""Runs that nobody disturbed, and the comparison of others with them, bit for bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.doremi import DoReMi
from baselines.static import Static
from harness.cli import find_method
from harness.corpus import corpus_id, open_corpus
from harness.records import read_records
from harness.resolve import resolve
from harness.spec import RunSpec
from harness.specfile import load_ablation

from . import single
from .conftest import ARMS, Fork, finish, timeless, write_spec

STEPS = 40
KINDS = ("static", "influence", "proxy")


@dataclass(frozen=True)
class Reference:
    """Uninterrupted runs of each kind, in one folder."""

    out: Path
    specs: dict[str, RunSpec]

    def folder(self, kind: str, out: Path | None = None) -> Path:
        """Return where a run lies, or would lie in another output folder."""
        return (out or self.out) / "runs" / self.specs[kind].run_id

    def start_over(self, kind: str, out: Path) -> Path:
        """Copy everything but the run of `kind` to `out`; return where that run will be."""
        ignored = shutil.ignore_patterns(*(self.specs[k].run_id for k in KINDS))
        shutil.copytree(self.out, out, ignore=ignored)
        return self.folder(kind, out)


def train(fork: Fork, folder: Path) -> Reference:
    """Train runs of each kind in a folder: static, influence, and DoReMi's proxy."""
    path = write_spec(folder / "tiny.toml", ARMS)
    overrides = [f"--budget.steps={STEPS}", "--arms.influence.settings.every=6"]
    ablation = load_ablation(path, overrides, find_method)
    resolved = resolve(ablation, corpus_id(ablation.corpus))
    open_corpus(ablation.corpus, folder / "out/corpora")
    asked = replace(resolved["doremi", 0], label="")
    first = asked.auxiliary("reference", mixer=Static(weights="natural"), measure_probes=True)
    finish(fork(single.ensure, folder / "out", first))
    specs = {
        "static": replace(resolved["uniform", 0], measure_probes=True),
        "influence": resolved["influence", 0],
        "proxy": asked.auxiliary("proxy", mixer=proxy_of(first)),
    }
    for spec in specs.values():
        finish(fork(single.ensure, folder / "out", spec))
    return Reference(folder / "out", specs)


def proxy_of(first: RunSpec) -> Any:
    """Return the mixer that DoReMi's own plan gives its proxy run."""

    class AskedForProxyError(Exception):
        pass

    def run(wanted: RunSpec) -> Any:
        if wanted.label == "proxy":
            raise AskedForProxyError(wanted.mixer)
        return first

    with pytest.raises(AskedForProxyError) as asked:
        DoReMi().plan(first, run)
    return asked.value.args[0]


def assert_same_run(folder: Path, expected: Path) -> None:
    """Check that two finished runs are equal in everything but the time that they took."""
    records = [list(read_records(f / "records.jsonl")) for f in (folder, expected)]
    assert timeless(records[0]) == timeless(records[1])
    headers = [json.loads((f / "run.json").read_text()) for f in (folder, expected)]
    for header in headers:
        del header["started"], header["finished"]
        header["costs"] = work(header["costs"])
    assert headers[0] == headers[1]
    states = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (folder, expected)]
    for state in states:
        assert state.keys() == {
            "step", "model", "optimizer", "mixer", "seen", "cost", "records_bytes"
        }  # fmt: skip
        del state["records_bytes"]  # the digits of `seconds` take more or less room
        state["cost"] = work(state["cost"])
    assert_equal(*states, "checkpoint")
    assert not list(folder.glob("*.part-*"))


def work(costs: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return the part of the accounts that no clock and no allocator decides."""
    return {account: (cost["flops"], cost["tokens"]) for account, cost in costs.items()}


def assert_equal(ours: Any, expected: Any, where: str) -> None:
    """Compare nested containers of tensors and plain values, bit for bit."""
    assert type(ours) is type(expected), where
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == expected.dtype, where
        assert torch.equal(ours, expected), where
    elif isinstance(ours, dict):
        assert ours.keys() == expected.keys(), where
        for key in ours:
            assert_equal(ours[key], expected[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(expected), where
        for i, pair in enumerate(zip(ours, expected, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    else:
        assert ours == expected, where
