"""Multiple-choice accuracy by log-likelihood, in MMLU's format.

A prompt is MMLU's own (hendrycks/test, evaluate.py): a line that names the subject, `shots` solved
questions, the question with its choices, "Answer:". The model's answer is the likeliest of " A" to
" D", each by the log-likelihood of all of its tokens, as lm-evaluation-harness has it: a tokenizer
of a small corpus may know " A" as one token and " B" as two. Accuracy of guessing is one quarter,
and a small model from scratch is expected to be there.

Deviation: MMLU's solved questions come from a file of their own (dev); ours from the subject's
other questions, so that one file is enough. The question that is asked is never among them.
"""

from __future__ import annotations

import csv
import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from harness.attribution.evaluation.answers import context_length
from harness.corpus.tokenizer import encode
from harness.errors import SpecError
from harness.rng import generator
from harness.spec import HubDomain

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor, nn

    from harness.attribution.evaluate_spec import Choice

LETTERS = ("A", "B", "C", "D")


class Question(NamedTuple):
    """One question."""

    subject: str
    text: str
    choices: tuple[str, ...]
    right: int
    """Index into `choices`."""


class Judged(NamedTuple):
    """How a model answered one question."""

    subject: str
    right: bool
    nats: float
    """-log of the right letter's share among the four."""
    cut: bool
    """Whether the prompt's beginning did not fit into the model's context."""


def read_questions(choice: Choice) -> list[Question]:
    """Return the questions that the spec asks for, subject after subject; SpecError otherwise."""
    if choice.dataset is not None:
        questions = _from_hub(choice)
    else:
        questions = [q for path in files(choice.paths) for q in _from_csv(path)]
    if choice.questions is None:
        return questions
    kept = []
    for subject in dict.fromkeys(question.subject for question in questions):
        own = [question for question in questions if question.subject == subject]
        order = torch.randperm(len(own), generator=generator(0, "choice", subject))
        kept += [own[i] for i in sorted(order[: choice.questions].tolist())]
    return kept


def judge(
    model: nn.Module,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    shots: int,
    advance: Callable[[int], None],
) -> list[Judged]:
    """Return how `model` answers each question."""
    letters = _letters(tokenizer)
    longest = max(len(letter) for letter in letters) - 1
    room, device = context_length(model), next(model.parameters()).device
    found = []
    for number, question in enumerate(questions):
        tokens = encode(tokenizer, [prompt(questions, number, shots)])[0]
        asked = tokens[-(room - longest) :].tolist()
        chosen = torch.log_softmax(_likelihoods(model, asked, letters, device), 0)
        if not bool(chosen.isfinite().all()):
            raise FloatingPointError(f"choice: question {number + 1} of all has logits of no value")
        nats, best = -float(chosen[question.right]), int(chosen.argmax())
        found.append(
            Judged(question.subject, best == question.right, nats, len(tokens) > len(asked))
        )
        advance(1)
    return found


def prompt(questions: Sequence[Question], number: int, shots: int) -> str:
    """Return the prompt of one question, with solved ones of its subject before it."""
    asked = questions[number]
    others = [q for i, q in enumerate(questions) if q.subject == asked.subject and i != number]
    subject = asked.subject.replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    solved = "".join(f"{_ask(q)} {LETTERS[q.right]}\n\n" for q in others[:shots])
    return head + solved + _ask(asked)


def _ask(question: Question) -> str:
    pairs = zip(LETTERS, question.choices, strict=True)
    lines = [question.text, *(f"{letter}. {choice}" for letter, choice in pairs), "Answer:"]
    return "\n".join(lines)


def _letters(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Return the tokens of each answer; SpecError where two are the same."""
    letters = [tuple(own.tolist()) for own in encode(tokenizer, [f" {a}" for a in LETTERS])]
    if len(set(letters)) < len(letters) or not all(letters):
        raise SpecError("evaluate.choice: the tokenizer cannot tell A, B, C and D apart")
    return letters


def _likelihoods(
    model: nn.Module, asked: list[int], answers: list[tuple[int, ...]], device: torch.device
) -> Tensor:
    """Return the log-likelihood of each answer after `asked`, in one forward pass.

    Answers that differ in their last token alone share a row; what pads a row comes after all that
    is read of it.
    """
    heads = list(dict.fromkeys(answer[:-1] for answer in answers))
    rows = torch.zeros(len(heads), len(asked) + max(map(len, heads)), dtype=torch.long)
    for slot, head in enumerate(heads):
        rows[slot, : len(asked) + len(head)] = torch.tensor([*asked, *head])
    with torch.no_grad():
        logits = model(input_ids=rows.to(device), use_cache=False).logits[:, len(asked) - 1 :]
        ahead = torch.log_softmax(logits.float(), 2).cpu()  # [heads, places, V]
    found = []
    for answer in answers:
        own = ahead[heads.index(answer[:-1])]
        found.append(own[range(len(answer)), list(answer)].sum())
    return torch.stack(found)


def files(patterns: Sequence[str]) -> list[Path]:
    """Return the files that paths and globs stand for; SpecError for one that is none."""
    found = []
    for pattern in patterns:
        paths = sorted(glob.glob(pattern, recursive=True))
        if not paths:
            raise SpecError(f"evaluate.choice.paths: no such file: {pattern}; correct the path")
        found += [Path(path) for path in paths]
    return found


def _from_csv(path: Path) -> list[Question]:
    subject, found = path.stem.removesuffix("_test"), []
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if len(row) != 6 or row[5] not in LETTERS:
                why = f"{path} row {number} has {len(row)} columns, the last {row[-1:]}"
                fix = "MMLU's are question, A, B, C, D, and the right letter"
                raise SpecError(f"evaluate.choice.paths: {why}; {fix}")
            found.append(Question(subject, row[0], tuple(row[1:5]), LETTERS.index(row[5])))
    return found


def _from_hub(choice: Choice) -> list[Question]:
    from harness.corpus.sources.hub import read_rows

    asked = HubDomain(
        dataset=str(choice.dataset),
        config=choice.config,
        split=choice.split,
        revision=choice.revision,
    )
    rows = read_rows(
        "evaluate.choice", asked, frozenset({"question", "choices", "answer", "subject"})
    )
    found = []
    for number, row in enumerate(rows, 1):
        try:
            choices, right = tuple(row["choices"]), int(row["answer"])
            named = str(row.get("subject") or choice.config)
            question = Question(named, str(row["question"]), choices, right)
        except (KeyError, TypeError, ValueError) as error:
            why = f"row {number} is no question ({type(error).__name__}: {error})"
            raise SpecError(f"evaluate.choice.dataset: {choice.dataset} {why}") from None
        if len(choices) != len(LETTERS) or right not in range(len(LETTERS)):
            raise SpecError(f"evaluate.choice.dataset: row {number} has {len(choices)} choices")
        found.append(question)
    return found
