"""What each model answers to the queries' prompts, beside the right answer and the rows behind it.

Metrics are harness/attribution/evaluation/metrics.py's. The rows that are said to have helped the
query's answer most stand beside it: where the queries' answers were generated, these are the rows
behind what the fine-tuned model says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.attribution.evaluation import models
from harness.attribution.evaluation.answers import say_to
from harness.attribution.evaluation.metrics import measured
from harness.attribution.evaluation.removal import spread, top
from harness.attribution.query_spec import PromptQueries
from harness.errors import SpecError

if TYPE_CHECKING:
    from harness.attribution.evaluation.judged import Found, Judged

ROWS = 3  # shown behind each answer
SHOWN_CHARACTERS = 600


def measure(judged: Judged) -> Found:
    """Return, for each query that is asked, answers and metrics by model."""
    options, queries, names = judged.options, judged.queries, models.names(judged)
    asked = [q for q in range(len(queries)) if queries.shown[q].prompt.strip()]
    asked = [asked[i] for i in spread(len(asked), options.prompts)]
    if not asked:
        fix = "take prompts, or a domain with prompt and answer, or leave answers out"
        raise SpecError(f"evaluate.parts: answers needs prompts, and the queries are text; {fix}")
    generated = isinstance(judged.spec.queries, PromptQueries) and (
        judged.spec.queries.answers == "generated"
    )
    prompts = [queries.shown[q].prompt for q in asked]
    rights = [None if generated else queries.shown[q].answer for q in asked]
    rows: list[dict[str, Any]] = [
        {"query": queries.names[q], "prompt": prompt, "right": right, "answers": {}, "metrics": {}}
        for q, prompt, right in zip(asked, prompts, rights, strict=True)
    ]
    with judged.progress.track(len(names), "answers") as advance:
        for one in models.each(judged):
            spoken = (one.model, one.tokenizer, one.end_of_text)
            said = say_to(*spoken, prompts, options.max_new_tokens, judged.say)
            for row, answer, right in zip(rows, said, rights, strict=True):
                row["answers"][one.name] = answer
                if right is not None:
                    row["metrics"][one.name] = measured(answer, right)
            advance(1)
    for row, q in zip(rows, asked, strict=True):
        row["rows"] = {label: _behind(judged, label, q) for label in judged.estimators}
    return {"models": names, "generated": generated, "answers": rows}


def _behind(judged: Judged, label: str, q: int) -> list[dict[str, Any]]:
    """Return the rows that helped a query's answer most."""
    own, found = judged.scores(label)[:, q], []
    for i in top(own, ROWS):
        shown = judged.pool.shown(i)
        texts = {"prompt": shown.prompt, "answer": shown.answer}
        cut = {name: text[-SHOWN_CHARACTERS:] for name, text in texts.items()}
        found.append({"row": list(judged.pool.picks[i]), "score": float(own[i]), **cut})
    return found
