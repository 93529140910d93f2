"""A made-up run as trackers see one: its header, its records, its folder; and a tracker that keeps
what it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.trackers import Mirror

RUN_ID = "0123456789abcdef"
DOMAINS = ["code", "law"]
HEADER: dict[str, Any] = {
    "schema": 1,
    "run_id": RUN_ID,
    "spec": {"seed": 3, "evaluation": {"every": 10}, "optimizer": {"learning_rate": 1e-3}},
    "status": "finished",
    "reason": None,
    "domains": DOMAINS,
    "probe_domains": [*DOMAINS, "bible"],
    "tokens_per_step": 64,
    "git_commit": "c0ffee",
    "costs": {"train": {"seconds": 10.0, "flops": 8.0}, "mixer": {"seconds": 0.5, "flops": 2.0}},
}


def evaluation(step: int, domain: str, split: str = "heldout") -> dict[str, Any]:
    losses = {"nats_per_token": 5.0 - step / 10, "bits_per_byte": 2.0 - step / 100}
    at = {"kind": "eval", "step": step, "tokens": 64 * step, "split": split, "domain": domain}
    return {**at, **losses, "num_tokens": 9, "num_bytes": 30, "seconds": 0.0}


def training(step: int) -> dict[str, Any]:
    numbers = {"loss": 5.0 - step / 10, "lr": 1e-3, "grad_norm": 1.0, "seconds": 0.1}
    lists = {"weights": [0.25, 0.75], "rows": [1, 3], "domain_losses": [4.0, None]}
    return {"kind": "step", "step": step, "tokens": 64 * step, **numbers, **lists}


def note(step: int) -> dict[str, Any]:
    values = {"scores": [1.0, 2.0], "relative_step": 1e-3, "why": "text", "odd": [1.0]}
    return {"kind": "note", "step": step, "name": "rebalance", "values": values, "seconds": 0.1}


def records(num_steps: int = 20) -> Iterator[dict[str, Any]]:
    for step in range(num_steps + 1):
        if step:
            yield training(step)
        if step % 10 == 0:
            yield note(step)
            yield from (evaluation(step, domain) for domain in HEADER["probe_domains"])


def write_run(out: Path, status: str = "finished") -> Path:
    run_dir = out / "runs" / RUN_ID
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text(json.dumps({**HEADER, "status": status}))
    lines = [json.dumps(record) for record in records()]
    (run_dir / "records.jsonl").write_text("\n".join(lines) + '\n{"kind": "st')
    return run_dir


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
        self.calls.append(("start", header["run_id"], group, label))

    def log(self, record: Mapping[str, Any]) -> None:
        self.calls.append(("log", record["kind"], record["step"]))

    def finish(self, status: str, costs: Mapping[str, Any]) -> None:
        self.calls.append(("finish", status))

    def report(self, group: str, report_id: str, files: Sequence[Path]) -> None:
        self.calls.append(("report", group, report_id, [path.name for path in files]))


def mirror_all(mirror: Mirror, status: str = "finished") -> None:
    mirror.start(HEADER, "demo", "uniform")
    for record in records():
        mirror.log(record)
    mirror.finish(status, HEADER["costs"])
