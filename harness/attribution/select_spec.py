"""Documents as they were before a row cut them, and the [domains] that read written ones again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.attribution.rows import Shown, parted
from harness.errors import SpecError
from harness.stream import DocumentShelf, Shelf

if TYPE_CHECKING:
    from harness.attribution.opened import Opened

HEADING = """# Written by `steelyard attribute select`; where it comes from is in {provenance}.
# Put these domains into the spec of the next run, with its own model, batch and training.
"""

TIERS = """# In an ablation: each tier is sampled as often as its rows' weights ask. The untrained
# domain has the held-back text of the run that was attributed; each tier gives up some of its own
# as well, by [splits]."""


def document(opened: Opened, split: Any, domain: str, row: int) -> Shown:
    """Return a row's text: the whole document where a row is one, else what stands in the row."""
    stream, mask = opened.store.stream(domain, split), opened.store.mask(domain, split)
    first, end = _span(opened, split, domain, row)
    tokens = stream[first:end]
    counted = np.ones(1) if mask is None else np.append(mask[first:end], True)
    return parted(opened.tokenizer, tokens.tolist(), int(np.argmax(counted)))


def refuse_packed_prompts(opened: Opened, domains: Iterable[str]) -> None:
    """Raise SpecError where a row holds several prompts: no line has columns for them."""
    if _packed(opened) is None:
        return
    for domain in domains:
        if opened.store.mask(domain, "train") is not None:
            what = f"domain {domain!r} has prompts, and the run packs documents into rows"
            fix = "train with batch.pack = false, so that a row is a document"
            raise SpecError(f"select: {what}; {fix}")


def _packed(opened: Opened) -> Shelf | None:
    """Return the train rows where they are cut without regard to documents, else None."""
    shelf = opened.view.stream.train
    is_packed = isinstance(shelf, Shelf) and not isinstance(shelf, DocumentShelf)
    return shelf if is_packed else None  # type: ignore[return-value]


def num_documents(opened: Opened, split: Any, domain: str) -> int:
    """Return how many documents a split of a domain has."""
    return len(opened.store.documents(domain, split))


def _span(opened: Opened, split: Any, domain: str, row: int) -> tuple[int, int]:
    """Return where a row's text begins and ends in its stream, the end of text left out."""
    stream = opened.store.stream(domain, split)
    packed = _packed(opened)
    if split == "train" and packed is not None:
        first, size = packed.span(domain, row)
        return first, first + size + 1
    starts = opened.store.documents(domain, split)
    end = int(starts[row + 1]) if row + 1 < len(starts) else len(stream)
    return int(starts[row]), end - 1


def spec_text(
    files: dict[str, dict[str, Any]],
    held_back: dict[str, dict[str, dict[str, Any]]],
    sampling: dict[str, float],
    provenance: str,
) -> str:
    """Return TOML: a domain per file of rows; tiers share an untrained one with other splits."""
    parts = [HEADING.format(provenance=provenance)]
    for name, facts in files.items():
        splits = {"train": facts["path"]}
        if not sampling:
            ready = held_back.get(facts["domain"], {})
            splits |= {split: one["path"] for split, one in ready.items()}
        parts.append(_domain(name, splits, facts["prompt"], is_trained=True))
    if sampling:
        for domain, ready in held_back.items():
            paths = {split: one["path"] for split, one in ready.items()}
            has_prompt = any(one["prompt"] for one in ready.values())
            parts.append(_domain(domain, paths, has_prompt, is_trained=False))
        weights = ", ".join(f"{_key(n)} = {share:.6g}" for n, share in sampling.items())
        parts.append(TIERS)
        parts.append(f'[arms.weighted]\nmethod = "static"\nsettings.weights = {{ {weights} }}\n')
    return "\n".join(parts)


def _domain(name: str, splits: dict[str, Path], has_prompt: bool, is_trained: bool) -> str:
    lines = [f"[domains.{_key(name)}]", 'kind = "files"', 'format = "jsonl"']
    if has_prompt:
        lines += ['prompt = "{prompt}"', 'answer = "{answer}"']
    if not is_trained:
        lines.append("train = false")
    ready = ", ".join(f"{split} = [{_quoted(str(path))}]" for split, path in splits.items())
    lines.append(f"splits = {{ {ready} }}")
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    """Return a key of TOML; a name with a dot is two of them unless it is quoted."""
    return _quoted(name) if "." in name else name


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
