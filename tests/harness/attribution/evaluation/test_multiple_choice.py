"""Multiple choice: the prompt is MMLU's, the answer the likeliest letter."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from harness.attribution.evaluate_spec import Choice
from harness.attribution.evaluation.multiple_choice import (
    Question,
    judge,
    prompt,
    read_questions,
)
from harness.corpus.tokenizer import encode, train_bpe
from harness.errors import SpecError

LAW = Question("international_law", "Who rules?", ("me", "you", "he", "she"), 2)
SEA = Question("international_law", "Whose sea?", ("ours", "theirs", "his", "hers"), 0)
ETHICS = Question("ethics", "Is it good?", ("yes", "no", "so", "hm"), 1)


def test_the_prompt_is_mmlus() -> None:
    head = "The following are multiple choice questions (with answers) about international law."
    own = "Whose sea?\nA. ours\nB. theirs\nC. his\nD. hers\nAnswer:"

    assert prompt([LAW, ETHICS, SEA], 2, 0) == f"{head}\n\n{own}"
    solved = "Who rules?\nA. me\nB. you\nC. he\nD. she\nAnswer: C"
    assert prompt([LAW, ETHICS, SEA], 2, 5) == f"{head}\n\n{solved}\n\n{own}"


class Fixed(nn.Module):
    """Says the same at every position, and keeps what it was asked."""

    def __init__(self, logits: torch.Tensor, context: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.config = SimpleNamespace(max_position_embeddings=context)
        self.asked: list[list[int]] = []

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        self.asked += input_ids.tolist()
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


@pytest.mark.parametrize("context", [1000, 20])
def test_the_answer_is_the_likeliest_letter(context: int) -> None:
    texts = [" A B C D A B C D A B C D Who rules the sea? it is good " * 3]
    tokenizer = train_bpe(texts, 300)
    whole = encode(tokenizer, [f" {letter}" for letter in "ABCD"])
    assert [len(tokens) for tokens in whole] == [1] * 4
    letters = [int(tokens[0]) for tokens in whole]
    logits = torch.zeros(tokenizer.get_vocab_size())
    logits[letters] = torch.tensor([1.0, 2.0, 3.0, 0.0])
    logits[min(set(range(len(logits))) - set(letters))] = 9.0  # no letter, and so no answer
    model = Fixed(logits, context)

    found = judge(model, tokenizer, [LAW, ETHICS], 0, lambda _: None)

    assert [answer.right for answer in found] == [True, False]
    whole = sum(math.exp(x) for x in (1, 2, 3, 0))
    assert found[0].nats == pytest.approx(-math.log(math.exp(3) / whole))
    assert found[1].nats == pytest.approx(-math.log(math.exp(2) / whole))
    assert [answer.cut for answer in found] == [context == 20] * 2
    tokens = encode(tokenizer, [prompt([LAW], 0, 0)])[0].tolist()
    assert model.asked[0] == tokens[-context:]


class Bigram(nn.Module):
    """Says what it says of the last token alone."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.config = SimpleNamespace(max_position_embeddings=1000)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.logits[input_ids])


def test_letters_of_other_lengths_are_compared_whole() -> None:
    """The corpus has taught the tokenizer " A" and no other letter."""
    tokenizer = train_bpe(["It is A good A thing A or A so " * 9], 300)
    letters = [tokens.tolist() for tokens in encode(tokenizer, [f" {a}" for a in "ABCD"])]
    assert [len(own) for own in letters] == [1, 2, 2, 2]
    colon = int(encode(tokenizer, ["Answer:"])[0][-1])
    size = tokenizer.get_vocab_size()
    shares = torch.full((size, size), 1e-9)  # of the next token, by the last one
    shares[colon, letters[0][0]], shares[colon, letters[1][0]] = 0.3, 0.7
    for letter, share in zip("BCD", (0.1, 0.6, 0.3), strict=True):
        own = letters["ABCD".index(letter)]
        shares[own[0], own[1]] = share
        shares[colon, own[1]] = 1e-8  # a letter without its blank never comes next

    found = judge(Bigram(shares.log()), tokenizer, [LAW, SEA], 0, lambda _: None)

    assert [answer.right for answer in found] == [True, False]  # C, and not A
    assert found[0].nats == pytest.approx(-math.log(0.7 * 0.6), abs=1e-4)
    assert found[1].nats == pytest.approx(-math.log(0.3), abs=1e-4)


def test_files_are_read_as_they_are_and_drawn_by_subject(tmp_path: Path) -> None:
    for subject, size in (("law", 9), ("ethics", 3)):
        lines = [f'"{subject} {i}, really?",a,b,"c, d",e,{"ABCD"[i % 4]}\n' for i in range(size)]
        (tmp_path / f"{subject}_test.csv").write_text("".join(lines))
    paths = (str(tmp_path / "*.csv"),)

    every = read_questions(Choice(paths=paths))
    some = read_questions(Choice(paths=paths, questions=4))

    assert every[0] == Question("ethics", "ethics 0, really?", ("a", "b", "c, d", "e"), 0)
    assert [q.subject for q in every] == ["ethics"] * 3 + ["law"] * 9
    assert [q.subject for q in some] == ["ethics"] * 3 + ["law"] * 4
    assert some == read_questions(Choice(paths=paths, questions=4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q,a,b,c,A\n", r"row 1 has 5 columns, the last \['A'\]; MMLU's are question, A, B"),
        ("q,a,b,c,d,A\nq,a,b,c,d,E\n", r"row 2 has 6 columns, the last \['E'\]"),
    ],
)
def test_a_file_of_another_form_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)

    with pytest.raises(SpecError, match=message):
        read_questions(Choice(paths=(str(tmp_path / "x.csv"),)))
    with pytest.raises(SpecError, match=r"no such file: nowhere\.csv"):
        read_questions(Choice(paths=("nowhere.csv",)))


def test_questions_come_from_a_data_set_too(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = (
        '{"question": "q1", "subject": "law", "choices": ["a","b","c","d"], "answer": 3}\n'
        '{"question": "q2", "subject": "law", "choices": ["a","b","c","d"], "answer": 0}\n'
    )
    (tmp_path / "test.jsonl").write_text(rows)

    found = read_questions(Choice(dataset=str(tmp_path), config="default", split="test"))

    assert found[0] == Question("law", "q1", ("a", "b", "c", "d"), 3)
    with pytest.raises(SpecError, match=r"^evaluate\.choice\.split: .* has no split 'nowhere'"):
        read_questions(Choice(dataset=str(tmp_path), config="default", split="nowhere"))
