"""A checkpoint is whole or absent, gives back every bit, and runs no code."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import checkpoint

CONTENT: dict[str, Any] = {
    "step": 7,
    "model": {"w": torch.tensor([1.0, float("nan"), -0.0])},
    "mixer": {"alpha": torch.tensor([0.1, 0.2]).double(), "count": torch.tensor(3)},
    "cost": {"train": {"seconds": 0.1, "tokens": 5}},
}


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """dtype, shape, NaN and minus zero included."""
    checkpoint.save(tmp_path / "c.pt", CONTENT)

    found = checkpoint.load(tmp_path / "c.pt")

    assert found is not None
    assert (found["step"], found["cost"]) == (7, CONTENT["cost"])
    bits, wanted = (c["model"]["w"].view(torch.int32) for c in (found, CONTENT))
    assert torch.equal(bits, wanted)
    assert found["mixer"]["alpha"].dtype == torch.float64
    assert torch.equal(found["mixer"]["alpha"], CONTENT["mixer"]["alpha"])
    assert found["mixer"]["count"].shape == ()
    assert os.listdir(tmp_path) == ["c.pt"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    """A run without one starts from the beginning; a half-written one has another name."""
    (tmp_path / "c.pt.part-123").write_bytes(b"half")

    assert checkpoint.load(tmp_path / "c.pt") is None


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails, and can be resumed from where it was saved before."""
    checkpoint.save(tmp_path / "c.pt", CONTENT)
    with monkeypatch.context() as patched:

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(tmp_path / "c.pt", {**CONTENT, "step": 8})

    found = checkpoint.load(tmp_path / "c.pt")
    assert found is not None
    assert found["step"] == 7
    assert os.listdir(tmp_path) == ["c.pt"]


def test_an_error_while_saving_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """A state that cannot be saved damages nothing."""
    checkpoint.save(tmp_path / "c.pt", CONTENT)

    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save(tmp_path / "c.pt", {**CONTENT, "mixer": {"hook": lambda: None}})

    found = checkpoint.load(tmp_path / "c.pt")
    assert found is not None
    assert found["step"] == 7
    assert os.listdir(tmp_path) == ["c.pt"]


def test_a_truncated_checkpoint_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    """Damage is told; silently training again would hide it."""
    checkpoint.save(tmp_path / "c.pt", CONTENT)
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(RuntimeError):
        checkpoint.load(tmp_path / "c.pt")


class Malicious:
    """Runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    """A checkpoint from elsewhere may be opened without trusting it."""
    torch.save({"step": Malicious(tmp_path / "ran")}, tmp_path / "c.pt")

    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load(tmp_path / "c.pt")

    assert not (tmp_path / "ran").exists()
