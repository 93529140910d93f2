"""lm-evaluation-harness on a model of ours, where it is installed: an adapter, no metric of ours.

It is handed the model and its tokenizer as transformers knows them, and its own numbers are kept as
it gives them. Its data sets come from the hub, so it needs a network or a cache of them. DeepEval
cannot be an extra: it asks for rich < 15. What the pipeline before this one used it for, MMLU, is
computed here (harness/attribution/evaluation/multiple_choice.py).
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.errors import SpecError

if TYPE_CHECKING:
    from harness.attribution.evaluation.models import Speaking


def check_installed() -> None:
    """SpecError where lm-evaluation-harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        fix = 'pip install "steelyard[lm-eval]", or leave evaluate.lm_eval empty'
        raise SpecError(f"evaluate.lm_eval: lm-evaluation-harness is not installed; {fix}")


@contextmanager
def unseeded() -> Iterator[None]:
    """Put every generator back where it was: the harness seeds Python's, numpy's and torch's."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def evaluate(one: Speaking, tasks: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Return metrics and their standard errors, by task; SpecError for what it cannot do."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast

    end = one.tokenizer.id_to_token(one.end_of_text)
    fast: Any = PreTrainedTokenizerFast
    wrapped = fast(tokenizer_object=one.tokenizer, eos_token=end, pad_token=end, bos_token=end)
    try:
        model = HFLM(pretrained=one.model, tokenizer=wrapped)
        with unseeded():
            found: Any = simple_evaluate(model=model, tasks=list(tasks), log_samples=False)
    except Exception as error:  # of its tasks, of the hub, of a task's name
        reason = " ".join(str(error).split())[:200]
        raise SpecError(f"evaluate.lm_eval: {type(error).__name__}: {reason}") from None
    return {
        task: {name: float(v) for name, v in told.items() if isinstance(v, int | float)}
        for task, told in found["results"].items()
    }
