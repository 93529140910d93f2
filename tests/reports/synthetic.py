"""Write the folder of an ablation that never ran: made-up losses with known, planted effects.

Everything is a function of the arguments, so that two calls write the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

TRAINED = ["code", "docs", "licences", "narrative", "security"]
UNTRAINED = "poetry"
TARGET = "security"
EFFECTS = {"uniform": 0.0, "influence": -0.065, "doremi": 0.004, "half": -0.09}
METHODS = {"uniform": "static", "influence": "influence", "doremi": "doremi", "half": "static"}
METHODS |= {"again": "static"}  # uniform with another order of data: an A/A arm
CONTROLS = ("half", "again")
TOKENS_PER_STEP = 2048


def write_out(
    out: Path,
    *,
    name: str = "demo",
    num_seeds: int = 6,
    num_steps: int = 60,
    effects: Mapping[str, float] = EFFECTS,
    broken: Mapping[tuple[str, int], tuple[str, str | None]] | None = None,
    updated: str = "2026-11-02T10:05:00Z",
    noise: float = 0.012,
    margin: float | None = None,
    optimizer: Mapping[str, Any] | None = None,
    longer: float | None = None,
) -> Path:
    """Write OUT for arms x seeds; `broken` maps (arm, seed) to a status and a reason.

    `longer` is what the baseline gains, in bits per byte, by the steps that a method's overhead
    would have bought; None where the spec has not asked for such runs.
    """
    broken = broken or {}
    arms: dict[str, Any] = {}
    for arm, effect in effects.items():
        runs = []
        for seed in range(num_seeds):
            status, reason = broken.get((arm, seed), ("finished", None))
            if status == "pending":
                runs.append(_entry(seed, status, None, None, []))
                continue
            run_id = run_id_of(name, arm, seed)
            auxiliary = []
            for role in ("reference", "proxy") if METHODS[arm] == "doremi" else ():
                other = run_id_of(name, f"{arm}-{role}", seed)
                _write_run(out, other, seed, num_steps // 2, arm, None, noise, "finished", None)
                auxiliary.append({"run_id": other, "role": role})
            _write_run(out, run_id, seed, num_steps, arm, effect, noise, status, reason)
            entry = _entry(seed, status, run_id, reason, auxiliary)
            if longer is not None and (steps := bought_steps(arm, num_steps)):
                other = run_id_of(name, f"longer-{steps}", seed)
                more = num_steps + steps
                _write_run(out, other, seed, more, "uniform", longer, noise, "finished", None)
                told = {"run_id": other, "num_steps": more, "status": "finished", "reason": None}
                entry["equal_compute"] = told
            runs.append(entry)
        settings = {
            "influence": {"every": 20, "temperature": 1.0},
            "half": {"weights": {TARGET: 0.5}},
        }
        arms[arm] = {
            "method": METHODS[arm],
            "settings": settings.get(arm, {}),
            "control": arm in CONTROLS,
            "data_seed": 1000 if arm == "again" else None,
            "runs": runs,
        }
    header = {
        "schema": 1,
        "name": name,
        "title": None,
        "baseline": "uniform",
        "primary": "target",
        "targets": {TARGET: 1.0},
        "domains": TRAINED,
        "probe_domains": [*TRAINED, UNTRAINED],
        "seeds": list(range(num_seeds)),
        "corpus_id": "c0ffee",
        "command": f"steelyard run sweeps/{name}.toml",
        "spec": {
            "margin": margin,
            "optimizer": dict(optimizer or {"schedule": "cosine", "warmup": 0.05, "decay": 0.2}),
            "equal_compute": longer is not None,
        },
        "created": "2026-11-02T10:00:00Z",
        "updated": updated,
        "arms": arms,
    }
    _write_json(out / "ablations" / f"{name}.json", header)
    _write_json(out / "corpora" / "c0ffee" / "manifest.json", {"domains": _manifest()})
    return out


def bought_steps(arm: str, num_steps: int) -> int:
    """Return the steps that an arm's overhead would have bought: auxiliary runs and mixer."""
    return round({"doremi": 1.0, "influence": 0.06}.get(METHODS[arm], 0.0) * num_steps)


def run_id_of(name: str, arm: str, seed: int) -> str:
    """Return the 16 hex digits of a made-up run."""
    return f"{sum(f'{name}/{arm}'.encode()) * 104729 + seed:016x}"


def edit(path: Path, **changes: Any) -> None:
    """Change top-level keys of a JSON file."""
    _write_json(path, json.loads(path.read_text()) | changes)


def borrow(out: Path, arm: str, other: str, made: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Let `arm` look at the runs of `other` and sample with what `made` makes of their weights.

    `made` gets the weights [S, K] and the seed, and returns [S, K].
    """
    path = out / "ablations" / "demo.json"
    header = json.loads(path.read_text())
    for cell in header["arms"][arm]["runs"]:
        shown = run_id_of("demo", other, cell["seed"])
        cell["shown"] = [shown]
        weights = np.array([r["weights"] for r in _read(out, shown) if r["kind"] == "step"])
        own = iter(made(weights, cell["seed"]).tolist())
        records = _read(out, cell["run_id"])
        records = [r | {"weights": next(own)} if r["kind"] == "step" else r for r in records]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (out / "runs" / cell["run_id"] / "records.jsonl").write_text(lines)
    header["arms"][arm] |= {"control": True, "data_seed": None}
    _write_json(path, header)


def averaged(weights: np.ndarray, seed: int) -> np.ndarray:
    """Return the mean over time, as often: what a replay samples with."""
    return np.broadcast_to(weights.mean(0), weights.shape)


def shuffled(weights: np.ndarray, seed: int) -> np.ndarray:
    """Return the weights in another order."""
    return np.random.default_rng(seed).permutation(weights)


def wandered(weights: np.ndarray, seed: int) -> np.ndarray:
    """Return weights that start where these do, move as far, and end elsewhere."""
    return weights[0] - np.roll(weights - weights[0], 1, axis=1)


def _read(out: Path, run_id: str) -> list[dict[str, Any]]:
    lines = (out / "runs" / run_id / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _entry(
    seed: int, status: str, run_id: str | None, reason: str | None, auxiliary: list[Any]
) -> dict[str, Any]:
    return {
        "seed": seed,
        "status": status,
        "run_id": run_id,
        "reason": reason,
        "auxiliary": auxiliary,
    }


def _write_run(
    out: Path,
    run_id: str,
    seed: int,
    num_steps: int,
    arm: str,
    effect: float | None,
    noise: float,
    status: str,
    reason: str | None,
) -> None:
    """Write run.json and records.jsonl; no effect means an auxiliary run, without held-out."""
    folder = out / "runs" / run_id
    done = num_steps if status == "finished" else num_steps // 2
    records = list(_records(seed, done, num_steps, arm, effect, noise))
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "records.jsonl").write_text(text)
    seconds = 0.05 * done
    flops = 6 * 312_000 * TOKENS_PER_STEP * done
    mixer = 0.06 if METHODS[arm] == "influence" else 0.0
    costs = {
        "train": _account(seconds, flops, TOKENS_PER_STEP * done),
        "mixer": _account(mixer * seconds, mixer * flops, int(mixer * TOKENS_PER_STEP * done)),
        "eval": _account(0.4, 2e10, 49_152),
        "save": _account(0.02, 0, 0),
    }
    share = _weights(arm, done, num_steps)
    header = {
        "schema": 1,
        "run_id": run_id,
        "spec": {"seed": seed},
        "status": status,
        "reason": reason,
        "domains": TRAINED,
        "probe_domains": [*TRAINED, UNTRAINED],
        "targets": {TARGET: 1.0},
        "num_steps": num_steps,
        "tokens_per_step": TOKENS_PER_STEP,
        "num_parameters": 312_000,
        "repetitions": {d: round(2.4 * float(w), 4) for d, w in zip(TRAINED, share, strict=True)},
        "costs": costs,
        "versions": {"python": "3.11.9", "torch": "2.13.0", "steelyard": "0.1.0"},
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False,
        "device": "cpu",
        "device_name": "Synthetic CPU",
        "threads": 1,
        "precision": "float32",
        "started": "2026-11-02T10:00:00Z",
        "finished": "2026-11-02T10:01:00Z" if status == "finished" else None,
        "corpus_id": "c0ffee",
    }
    _write_json(folder / "run.json", header)


def _records(
    seed: int, done: int, num_steps: int, arm: str, effect: float | None, noise: float
) -> Any:
    # The seed's own level is shared by all arms: that is what pairing removes.
    level = 0.05 * np.random.default_rng([1, seed]).standard_normal()
    own = np.random.default_rng([2, seed, sum(arm.encode())])
    jitter = noise * own.standard_normal(len(TRAINED) + 1)
    for step in range(done + 1):
        if step:
            weights = _weights(arm, step, num_steps)
            rows = own.multinomial(16, weights)
            loss = 8.3 - 3.0 * (1 - np.exp(-4 * step / num_steps)) + level
            yield {
                "kind": "step",
                "step": step,
                "tokens": step * TOKENS_PER_STEP,
                "loss": loss,
                "lr": 1e-3,
                "grad_norm": 1.5,
                "weights": weights.tolist(),
                "rows": rows.tolist(),
                "domain_losses": [loss + 0.1 * k if n else None for k, n in enumerate(rows)],
                "seconds": 0.05 * step,
            }
        if effect is not None and (step % (num_steps // 6) == 0 or step == num_steps):
            for k, domain in enumerate([*TRAINED, UNTRAINED]):
                grown = 1 - np.exp(-4 * step / num_steps)
                shift = effect if domain == TARGET else -0.3 * effect
                bits = 3.2 - (1.0 + 0.05 * k) * grown + grown * (level + shift + jitter[k])
                yield {
                    "kind": "eval",
                    "step": step,
                    "tokens": step * TOKENS_PER_STEP,
                    "split": "heldout",
                    "domain": domain,
                    "nats_per_token": float(bits * 2.6),
                    "bits_per_byte": float(bits),
                    "num_tokens": 8192,
                    "num_bytes": 30_000,
                    "seconds": 0.05 * step,
                }
                if step == num_steps:
                    # other text, a little harder, and so for every arm
                    draw = np.random.default_rng([4, seed, sum(arm.encode()), k])
                    other = 0.05 + 0.002 * draw.standard_normal()
                    yield {
                        "kind": "probe",
                        "step": step,
                        "tokens": step * TOKENS_PER_STEP,
                        "domain": domain,
                        "nats_per_token": float(bits * 2.6 + other),
                        "num_tokens": 8192,
                        "seconds": 0.05 * step,
                    }
                    yield {"kind": "documents", "step": step, "tokens": step * TOKENS_PER_STEP} | {
                        "split": "heldout",
                        "domain": domain,
                        **_by_document(float(bits), k),
                        "seconds": 0.05 * step,
                    }
        if METHODS[arm] == "influence" and step and step % 20 == 0:
            values = {"scores": jitter[: len(TRAINED)].tolist(), "relative_step": 1e-3}
            note = {"kind": "note", "step": step, "name": "rebalance"}
            yield note | {"values": values, "seconds": 0.05 * step}
            if step % 60 == 0:
                yield {
                    **note,
                    "name": "fidelity",
                    "values": _fidelity(step),
                    "seconds": 0.05 * step,
                }


def _by_document(bits: float, domain: int) -> dict[str, Any]:
    """Split a domain's loss into that of 40 documents, the same in every run but for its level."""
    generator = np.random.default_rng([3, domain])
    num_bytes = generator.integers(300, 1200, 40)
    share = num_bytes * generator.uniform(0.8, 1.2, 40)
    nats = bits * math.log(2) * num_bytes.sum() * share / share.sum()
    return {"documents": list(range(40)), "nats": nats.tolist(), "bytes": num_bytes.tolist()}


def _fidelity(step: int) -> dict[str, Any]:
    """Return what a comparison of an estimator with the exact one notes."""
    return {
        "estimator": "jvp_landmark",
        "exact": "grad_cos",
        "rows": 20,
        "spearman": 0.4 + step / 10_000,
        "domain_spearman": 0.7,
        "same_best": int(step % 120 == 0),
        "estimator_flops": 3e9,
        "scored_rows": 80,
        "exact_query_flops": 0.5e9,
        "exact_flops": 1.5e9,
        "stale": 0,
    }


def _weights(arm: str, step: int, num_steps: int) -> np.ndarray:
    """Return the weights that a batch was drawn with: [K], sum 1."""
    scores = np.zeros(len(TRAINED))
    if arm == "influence":
        ramp = 3 * (step // max(num_steps // 6, 1)) / 6
        scores = ramp * np.array([-0.2, 0.1, -0.4, -0.1, 0.7])
    elif arm == "doremi":
        scores = np.array([0.3, -0.1, 0.2, -0.5, 0.1])
    elif arm == "half":
        scores = np.log(np.array([0.125, 0.125, 0.125, 0.125, 0.5]))
    weights: np.ndarray = np.exp(scores) / np.exp(scores).sum()
    return weights


def _account(seconds: float, flops: float, tokens: int) -> dict[str, float]:
    return {"seconds": seconds, "flops": flops, "tokens": tokens, "peak_bytes": 310_000_000}


def _manifest() -> dict[str, Any]:
    splits = {"train": 900, "probe": 50, "tuning": 50, "heldout": 100}
    return {
        domain: {
            "license": "BSD-3-Clause",
            "package": f"example-{domain}",
            "version": "1.14.0",
            "splits": {
                split: {"documents": n + k, "tokens": 1000 * n, "bytes": 3600 * n}
                for split, n in splits.items()
            },
        }
        for k, domain in enumerate([*TRAINED, UNTRAINED])
    }


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
