"""The names under which every tracker shows a record's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def scalars(record: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of one record under the names that every tracker shows.

    `tokens`, the axis of all of them, is always there but for records without numbers.
    """
    names = (header["domains"], header["probe_domains"])
    if record["kind"] == "eval":
        units = ("bits_per_byte", "nats_per_token")
        found = {f"{record['split']}/{unit}/{record['domain']}": record[unit] for unit in units}
    elif record["kind"] == "note":
        found = _numbers(f"notes/{record['name']}", record["values"], names)
    elif record["kind"] == "step":
        plain = {key: record[key] for key in ("loss", "lr", "grad_norm")}
        found = _numbers("train", plain, names)
        found |= _numbers("train/loss", record["domain_losses"], names)
        found |= _numbers("weights", record["weights"], names)
    else:
        return {}
    return {"tokens": record["step"] * header["tokens_per_step"], **found}


def cost_scalars(costs: Mapping[str, Any]) -> dict[str, float]:
    """Return every account's numbers, and the mixer's as overhead of this run.

    What a method spent in auxiliary runs is in those runs, not here.
    """
    found = _numbers("cost", costs, ())
    for unit in ("seconds", "flops"):
        train, mixer = found.get(f"cost/train/{unit}"), found.get(f"cost/mixer/{unit}")
        if mixer is not None:
            found[f"overhead/{unit}"] = mixer
            if train:
                found[f"overhead/share_of_train_{unit}"] = mixer / train
    return found


def is_auxiliary(header: Mapping[str, Any]) -> bool:
    """Return whether a run was made for another one, such as a proxy run."""
    return header["spec"].get("evaluation") is None


def run_name(header: Mapping[str, Any], label: str) -> str:
    """Return what a run is called: its arm and its seed."""
    seed = header["spec"].get("seed")
    return label if seed is None else f"{label}-seed{seed}"


def _numbers(prefix: str, value: Any, names: Sequence[Sequence[str]]) -> dict[str, float]:
    """Flatten numbers to path-like names; a list counts where it has one entry a domain."""
    if isinstance(value, int | float):
        return {prefix: value}
    if isinstance(value, list | tuple):
        domains = next((n for n in names if len(n) == len(value)), ())
        value = dict(zip(domains, value, strict=False))
    if not isinstance(value, Mapping):
        return {}
    nested = (_numbers(f"{prefix}/{key}", item, names) for key, item in value.items())
    return {name: number for found in nested for name, number in found.items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as dotted keys, the form of overrides and of sweep parameters."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
