"""Multiple choice, model by model: our own questions, and tasks of lm-evaluation-harness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.attribution.evaluation import models
from harness.attribution.evaluation.lm_eval import check_installed, evaluate
from harness.attribution.evaluation.multiple_choice import judge

if TYPE_CHECKING:
    from harness.attribution.evaluation.judged import Found, Judged


def measure(judged: Judged) -> Found:
    """Return, by model, which questions were answered right, and the nats of the right letters."""
    options, names = judged.options, models.names(judged)
    if options.lm_eval:
        check_installed()
    questions = judged.questions
    shots = options.choice.shots if options.choice else 0
    found: dict[str, Any] = {}
    external: dict[str, Any] = {}
    with judged.progress.track(len(names) * len(questions), "choice") as advance:
        for one in models.each(judged):
            answered = judge(one.model, one.tokenizer, questions, shots, advance)
            found[one.name] = {
                "right": [int(answer.right) for answer in answered],
                "nats": [answer.nats for answer in answered],
                "cut": sum(answer.cut for answer in answered),
            }
            if options.lm_eval:
                external[one.name] = evaluate(one, options.lm_eval)
            del one
    return {
        "models": names,
        "shots": shots,
        "subjects": [question.subject for question in questions],
        "answered": found,
        "lm_eval": external,
    }
