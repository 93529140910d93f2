"""Influence rebalancing inside Hugging Face Trainer: `python tests/examples/hf_trainer.py`.

Three small domains of arithmetic; we want to be good at sums. Nothing is downloaded, and it takes
seconds on a CPU. Yours: any tokenized data sets (datasets.Dataset, a list) and any causal model.
"""

from __future__ import annotations

import random
import tempfile

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from baselines.influence import Influence
from harness.trainer import Mixture

CHARACTERS = "\n 0123456789+-*="


def rows(sign: str, count: int, seed: int) -> list[dict[str, list[int]]]:
    """Return tokenized rows such as "17+25=42"; with a sign that is no operator, noise."""
    draw = random.Random(f"{sign}{seed}")
    texts = []
    for _ in range(count):
        a, b = draw.randrange(100), draw.randrange(100)
        if sign == "?":
            texts.append("".join(draw.choice(CHARACTERS) for _ in range(10)))
        else:
            texts.append(f"{a}{sign}{b}={a + b if sign == '+' else a * b}\n")
    return [{"input_ids": [CHARACTERS.index(c) for c in text]} for text in texts]


def main(output_dir: str) -> dict[str, float]:
    """Train for 60 steps and return the mean weights of the three domains."""
    set_seed(0)
    shape = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(CHARACTERS), **shape, **ends))
    args = TrainingArguments(
        output_dir,
        max_steps=60,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        logging_steps=20,
        report_to="none",
        use_cpu=True,
    )

    mixture = Mixture(
        mixer=Influence(every=10, probe_rows=16),
        train={
            "sums": rows("+", 500, 0),
            "products": rows("*", 500, 0),
            "noise": rows("?", 500, 0),
        },
        probe={"sums": rows("+", 100, 1)},  # rows the method may look at, never your evaluation set
        targets={"sums": 1.0},  # what the mixture is for
    )
    trainer = mixture.trainer(Trainer, model, args, eval_dataset=rows("+", 100, 2))
    trainer.train()  # logs weights/sums, weights/noise, ... and the overhead beside the loss

    print(trainer.evaluate()["eval_loss"])
    return mixture.summary()["mean_weights"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(main(folder))
