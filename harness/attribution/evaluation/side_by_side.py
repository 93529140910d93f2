"""What each model answers to the queries' prompts, beside the right answer and the rows behind it.

Metrics are harness/attribution/evaluation/metrics.py's. The rows that are said to have helped the
query's answer most stand beside it: where the queries' answers were generated, these are the rows
behind what the fine-tuned model says. Of plain text the first half is the prompt.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.attribution.evaluation import models
from harness.attribution.evaluation.answers import speak
from harness.attribution.evaluation.metrics import measured
from harness.attribution.evaluation.removal import spread, top
from harness.attribution.query_spec import PromptQueries

if TYPE_CHECKING:
    from harness.attribution.evaluation.judged import Found, Judged
    from harness.attribution.rows import Shown

ROWS = 3  # shown behind each answer
SHOWN_CHARACTERS = 600


def measure(judged: Judged) -> Found:
    """Return, for each query that is asked, answers and metrics by model."""
    options, queries, names = judged.options, judged.queries, models.names(judged)
    asked = spread(len(queries), options.prompts)
    generated = isinstance(judged.spec.queries, PromptQueries) and (
        judged.spec.queries.answers == "generated"
    )
    pairs = [prompted(queries.shown[q]) for q in asked]
    prompts = [prompt for prompt, _ in pairs]
    rights = [None if generated else right for _, right in pairs]
    rows: list[dict[str, Any]] = [
        {"query": queries.names[q], "prompt": prompt, "right": right, "answers": {}, "metrics": {}}
        for q, prompt, right in zip(asked, prompts, rights, strict=True)
    ]
    with judged.progress.track(len(names), "answers") as advance:
        for one in models.each(judged):
            spoken, name = (one.model, one.tokenizer, one.end_of_text), one.name
            say = partial(_say, judged, name)
            said = speak(*spoken, prompts, options.max_new_tokens, say)
            del one, spoken
            for row, answer, right in zip(rows, said, rights, strict=True):
                row["answers"][name] = answer.text
                if right is not None:
                    row["metrics"][name] = measured(answer.text, right)
            advance(1)
    for row, q in zip(rows, asked, strict=True):
        row["rows"] = {label: _behind(judged, label, q) for label in judged.estimators}
    continued = sum(not queries.shown[q].prompt.strip() for q in asked)
    facts = {"models": names, "generated": generated, "continued": continued}
    return {**facts, "answers": rows}


def _say(judged: Judged, name: str, text: str) -> None:
    judged.say(f"{name}: {text}")


def prompted(shown: Shown) -> tuple[str, str]:
    """Return what a model is asked and what is right; of plain text, its halves by words."""
    if shown.prompt.strip():
        return shown.prompt, shown.answer
    words = shown.answer.split(" ")
    half = max(1, len(words) // 2)
    return " ".join(words[:half]), "".join(f" {word}" for word in words[half:])


def _behind(judged: Judged, label: str, q: int) -> list[dict[str, Any]]:
    """Return the rows that helped a query's answer most."""
    own, found = judged.scores(label)[:, q], []
    for i in top(own, ROWS):
        if np.isnan(own[i]):
            continue
        shown = judged.pool.shown(i)
        texts = {"prompt": shown.prompt, "answer": shown.answer}
        cut = {name: text[-SHOWN_CHARACTERS:] for name, text in texts.items()}
        found.append({"row": list(judged.pool.picks[i]), "score": float(own[i]), **cut})
    return found
