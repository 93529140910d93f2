"""The rows whose loss is explained: prompts of a file, rows that were held back, or any source.

A query is encoded as a document of the corpus is: the prompt apart, then the answer, then the end
of text; only the answer has a loss. Where both are longer than a row, the prompt loses its
beginning and the answer is never cut away, since a query without a target has nothing to explain.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from harness.api import Batch
from harness.attribution.evaluation.answers import Said, speak
from harness.attribution.query_spec import AnyQueries, PromptQueries, SplitQueries
from harness.attribution.rows import Queries, show
from harness.corpus.documents import in_hash_order
from harness.corpus.sources import find_source
from harness.corpus.tokenizer import encode
from harness.errors import SpecError
from harness.files import read_json, write_json
from harness.identity import digest
from harness.rng import generator
from harness.spec import FilesDomain, HubDomain

if TYPE_CHECKING:
    from harness.attribution.opened import Opened
    from harness.attribution.query_spec import SourceQueries
    from harness.stream import Shelf

Say = Callable[[str], None]
SLOT = "{prompt}"


class Asked(NamedTuple):
    """A query before it is tokens."""

    prompt: str
    answer: str
    ends: bool = True
    """Whether the end of text is a target too: not of an answer that was cut off."""


def load_queries(
    opened: Opened, spec: AnyQueries, say: Say = print, kept: Path | None = None
) -> Queries:
    """Return the queries of an attribution; SpecError where there are none, or one is unusable.

    Answers that the model gives are written to the folder `kept` and found there: what is
    explained must be the same in every stage, and another machine may round to another word.
    """
    if isinstance(spec, SplitQueries):
        return _of_split(opened, spec)
    if isinstance(spec, PromptQueries):
        return _of_prompts(opened, spec, say, kept)
    return _of_source(opened, spec)


def _of_split(opened: Opened, spec: SplitQueries) -> Queries:
    """Return rows that were held back, every domain's in a keyed order."""
    shelf = opened.shelf(spec.split)
    domains = opened.view.probe_domains
    if spec.domain is not None and spec.domain not in domains:
        known = ", ".join(domains)
        raise SpecError(f"queries.domain: {spec.domain!r} is no domain of the run; choose {known}")
    picks: list[tuple[str, int]] = []
    for domain in domains if spec.domain is None else (spec.domain,):
        picks += [(domain, row) for row in _some(shelf, domain, spec)]
    batch = shelf.batch(picks, domains, opened.view.stream.device)
    names = tuple(f"{domain}-{row}" for domain, row in picks)
    facts = {"corpus": opened.store.id, "split": spec.split, "rows": [list(p) for p in picks]}
    cut = [type(shelf).__name__, batch.inputs.shape[1]]
    key = digest({**facts, "cut": cut})
    return Queries(batch, tuple(show(batch, opened.tokenizer)), names, key)


def _some(shelf: Shelf, domain: str, spec: SplitQueries) -> list[int]:
    telling = shelf.telling_rows(domain)
    keyed = generator(0, "queries", spec.split, domain)
    order = torch.randperm(len(telling), generator=keyed)[: spec.rows].numpy()
    return sorted(int(row) for row in telling[order])


def _of_prompts(opened: Opened, spec: PromptQueries, say: Say, kept: Path | None) -> Queries:
    asked = read_prompts(spec)
    if spec.answers == "generated":
        said = _generated(opened, [one.prompt for one in asked], spec.max_new_tokens, say, kept)
        asked = [Asked(one.prompt, *answer) for one, answer in zip(asked, said, strict=True)]
        for number, one in enumerate(asked, start=1):
            if not one.answer.strip():
                say(
                    f"queries: the model says nothing to prompt {number}; its end of text is scored"
                )
    return encoded(opened, asked, [f"prompt-{i:03}" for i in range(1, len(asked) + 1)])


def _generated(
    opened: Opened, prompts: list[str], limit: int, say: Say, kept: Path | None
) -> list[Said]:
    """Return what the model says to the prompts, as it said it the first time."""
    key = digest({"model": opened.model_id, "prompts": prompts, "limit": limit})
    path = None if kept is None else kept / f"{key}.json"
    found = None if path is None else read_json(path)
    if found is not None:
        return [Said(text, ends) for text, ends in found]
    end = int(opened.store.manifest["tokenizer"]["end_of_text"])
    said = speak(opened.view.model, opened.tokenizer, end, prompts, limit, say)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, [list(one) for one in said])
    return said


def read_prompts(spec: PromptQueries) -> list[Asked]:
    """Return the prompts of a file, as they are put to the model, with their answers or ""."""
    where = f"queries.path: {spec.path}"
    try:
        found = json.loads(Path(spec.path).read_text())
    except FileNotFoundError:
        raise SpecError(f"{where}: no such file; give a JSON list of prompts") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{where}: is no JSON: {error}") from None
    entries = found.get("prompts") if isinstance(found, dict) else found
    if not isinstance(entries, list) or not entries:
        raise SpecError(f"{where}: holds no prompts; write a list of strings or objects")
    if SLOT not in spec.template:
        raise SpecError(f"queries.template: {spec.template!r} has no {SLOT}; put it in")
    return [_asked(entry, f"{where}: entry {i}", spec) for i, entry in enumerate(entries, start=1)]


def _asked(entry: Any, where: str, spec: PromptQueries) -> Asked:
    values = entry if isinstance(entry, dict) else {"prompt": entry}
    prompt, answer = values.get("prompt"), values.get("answer", "")
    if not isinstance(prompt, str) or not prompt.strip():
        raise SpecError(f"{where}: has no text under `prompt`, got {prompt!r}; write it")
    if not isinstance(answer, str) or (spec.answers == "given" and not answer.strip()):
        fix = 'write it, or set queries.answers = "generated"'
        raise SpecError(f"{where}: has no text under `answer`, got {answer!r}; {fix}")
    return Asked(spec.template.replace(SLOT, prompt), answer)


def _of_source(opened: Opened, spec: SourceQueries) -> Queries:
    source = find_source("queries", _held_back(spec.source))
    documents = in_hash_order(list(source.read()))[: spec.rows]
    if not documents:
        raise SpecError("queries.source: holds no text; give another")
    asked = [Asked(d.text[: d.prompt_chars], d.text[d.prompt_chars :]) for d in documents]
    return encoded(opened, asked, [f"query-{i:03}" for i in range(1, len(asked) + 1)])


def _held_back(source: FilesDomain | HubDomain) -> FilesDomain | HubDomain:
    """Return the source with all of its text in one split: there is nothing to cut."""
    if isinstance(source, FilesDomain):
        splits = source.splits or {"heldout": source.paths}
        return replace(source, paths=(), splits=splits, train=False)
    return replace(source, splits=source.splits or {"heldout": source.split}, train=False)


def encoded(opened: Opened, asked: Sequence[Asked], names: Sequence[str]) -> Queries:
    """Return texts as rows of the run's own length; a plain text's first token is no target."""
    tokenizer, end = opened.tokenizer, int(opened.store.manifest["tokenizer"]["end_of_text"])
    width = opened.view.stream.train.tokens  # type: ignore[attr-defined]
    prompts = encode(tokenizer, [one.prompt for one in asked])
    answers = encode(tokenizer, [one.answer for one in asked])
    inputs = np.zeros((len(asked), width), np.int64)
    targets, mask = np.zeros_like(inputs), np.zeros(inputs.shape, np.bool_)
    for row, (before, after) in enumerate(zip(prompts, answers, strict=True)):
        if asked[row].ends or not len(after):
            after = np.append(after, end)
        after = after[: width if len(before) else width + 1]
        before = before[max(0, len(before) + len(after) - width - 1) :]
        tokens = np.concatenate([before, after])
        inputs[row, : len(tokens) - 1] = tokens[:-1]
        targets[row, : len(tokens) - 1] = tokens[1:]
        mask[row, max(len(before) - 1, 0) : len(tokens) - 1] = True
        if not mask[row].any():
            raise SpecError(f"queries: {names[row]} has no token to predict; give it more text")
    device = opened.view.stream.device
    rows = torch.arange(len(asked))
    arrays = [torch.from_numpy(array) for array in (inputs, targets, mask)]
    batch = Batch(*(t.to(device) for t in (*arrays, torch.zeros_like(rows), rows)))
    key = digest({"inputs": inputs.tolist(), "targets": targets.tolist(), "mask": mask.tolist()})
    return Queries(batch, tuple(show(batch, tokenizer)), tuple(names), key)
