"""What `auto` in a spec stands for: on this machine, or on the workers that are launched from it.

It is part of a run's id. Machines that differ choose differently, so workers at one ablation agree
on one of them: a launcher settles it for all, and a worker that would differ is told. Nothing here
imports torch unless a CUDA device may be present.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from harness.choices import ASKED, choose
from harness.errors import SpecError
from harness.spec import Ablation

TOLD = "as the workers were told"
_COMPILED, _PLAIN = "compiled", "plain"


class Settled(NamedTuple):
    """A value for everything that may be `auto`."""

    device: Literal["cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    threads: int
    compile: bool

    def __str__(self) -> str:
        """Return the form that `read` takes: cpu/float32/1/plain."""
        how = _COMPILED if self.compile else _PLAIN
        return f"{self.device}/{self.precision}/{self.threads}/{how}"

    @classmethod
    def read(cls, text: str) -> Settled:
        """Return what `str` has written; SpecError where it has not."""
        parts = text.split("/")
        known = [("cpu", "cuda"), ("float32", "bfloat16"), (), (_COMPILED, _PLAIN)]
        is_sound = len(parts) == len(known) and all(
            part in words if words else part.isdecimal() and int(part)
            for part, words in zip(parts, known, strict=True)
        )
        if not is_sound:
            raise SpecError(f"--settled: must be like cpu/float32/1/plain, got {text!r}")
        device, precision, threads, how = parts
        return cls(device, precision, int(threads), how == _COMPILED)  # type: ignore[arg-type]


def settle(ablation: Ablation) -> Settled:
    """Return what `auto` stands for on this machine."""
    device = _device(ablation)
    return Settled(device, *choose(ablation, device)[:3])


def settle_for(ablation: Ablation, cores: int, gpus: int, flag: str) -> Settled:
    """Return what `auto` stands for on workers that have so many cores and GPUs.

    `flag` is the option of the number of GPUs. Of the rest they are taken to be like this machine.
    """
    device: Literal["cpu", "cuda"] = "cuda" if gpus else "cpu"
    if ablation.device not in ("auto", device):
        needed = "at least 1" if ablation.device == "cuda" else "0"
        raise SpecError(f'{flag}: the spec has device = "{ablation.device}"; give {needed}')
    return Settled(device, *choose(ablation, device, cores)[:3])


def _device(ablation: Ablation) -> Literal["cpu", "cuda"]:
    possible = Path("/proc/driver/nvidia/version").exists()
    if ablation.device == "cpu" or (ablation.device == "auto" and not possible):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if ablation.device == "cuda":
        raise SpecError('device: "cuda" was asked for and torch finds no GPU; use "cpu" or "auto"')
    return "cpu"


def reasons(ablation: Ablation, told: Settled | None = None) -> dict[str, str]:
    """Return why each thing that may be `auto` is what it is, by name; `told` is of a launcher."""
    if told is not None:
        why = {k: TOLD if getattr(ablation, k) == "auto" else ASKED for k in told._fields}
        return {k: f"{_plainly(getattr(told, k))}: {why[k]}" for k in told._fields}
    device = _device(ablation)
    found = choose(ablation, device)
    asked = ablation.device != "auto"
    there = ASKED if asked else f"{'a' if device == 'cuda' else 'no'} GPU is there"
    values = {"device": device, **{k: getattr(found, k) for k in found.reasons}}
    all_reasons = {"device": there, **found.reasons}
    return {name: f"{_plainly(values[name])}: {reason}" for name, reason in all_reasons.items()}


def _plainly(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
