"""Our loop beside Hugging Face's Trainer, in turns: same weights, rows, precision, AdamW kernel.

The Trainer trains, and after every block of its steps one block of ours is run inside its callback,
so both have the machine at the same times and set-up is in neither. Warm-up blocks are left out.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from scipy import stats
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from harness.loop import Loop
from tests.bench.device_world import settled
from tests.bench.timing import interval


class Turns(TrainerCallback):
    """Seconds of the Trainer's blocks and of ours, pair by pair."""

    def __init__(self, step: Callable[[], None], block: int, warm: int, device: str) -> None:
        self.step, self.block, self.warm, self.device = step, block, warm, device
        self.pairs: list[tuple[float, float]] = []
        self._taken, self._since = 0, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._since = settled(self.device)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._taken += 1
        if self._taken % self.block:
            return
        now = settled(self.device)
        torch.use_deterministic_algorithms(True)  # ours has it on, and whatever it costs
        for _i in range(self.block):
            self.step()
        after = settled(self.device)
        torch.use_deterministic_algorithms(False)
        self.pairs.append((now - self._since, after - now))
        self._since = settled(self.device)

    def ratios(self) -> list[float]:
        """Return their seconds over ours, without the warm-up."""
        return [theirs / ours for theirs, ours in self.pairs[self.warm :]]


class Compared(NamedTuple):
    """How much faster we are, and what it was measured on."""

    mean: float
    least: float  # one-sided lower 95 % bound
    low: float
    high: float
    steps: int
    theirs: float  # least seconds of one of their steps
    ours: float


def compared(
    loop: Loop,
    blocks: int,
    block: int,
    warm: int = 2,
    compiled: bool = False,
    precision: str | None = None,
) -> Compared:
    """Return our tokens per second over the Trainer's, which compiles if asked.

    Its model is made by transformers alone, as its users make theirs. It trains in our precision
    unless another is given.
    """
    spec = loop.spec
    config: Any = loop.view.model.config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loop.view.model.state_dict())
    rows = loop.view.candidates(64)
    data = [
        {"input_ids": inputs, "labels": inputs.clone()} for inputs in rows.inputs.cpu().unbind()
    ]
    turns = Turns(loop.step, block, warm, spec.device)
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=spec.batch.rows,
        max_steps=block * (blocks + warm),
        bf16=(precision or spec.precision) == "bfloat16",
        optim="adamw_torch_fused",
        learning_rate=3e-4,
        weight_decay=0.1,
        max_grad_norm=1.0,
        torch_compile=compiled,
        use_cpu=spec.device == "cpu",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[turns])  # type: ignore[arg-type]
    trainer.train()
    torch.use_deterministic_algorithms(True)
    kept = turns.pairs[warm:]
    theirs, ours = (min(times) / block for times in zip(*kept, strict=True))
    ratios = turns.ratios()
    mean, low, high = interval(ratios)
    return Compared(mean, lower_bound(ratios), low, high, block * len(ratios), theirs, ours)


def lower_bound(ratios: list[float]) -> float:
    """Return the one-sided lower 95 % bound of the geometric mean."""
    logs = torch.tensor(ratios, dtype=torch.float64).log()
    error = float(logs.std()) / math.sqrt(len(ratios))
    return math.exp(float(logs.mean()) - float(stats.t.ppf(0.95, len(ratios) - 1)) * error)
