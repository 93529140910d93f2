"""Whose loss is explained: the table [queries] of an attribution's spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.spec import FilesDomain, HubDomain, Name

_FORBID = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(strict=True, gt=0)]


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class PromptQueries:
    """A JSON file of prompts: strings, or objects with `prompt` and, if known, `answer`."""

    kind: Literal["prompts"] = "prompts"
    path: str
    """A list, or an object with the list under `prompts`."""
    template: str = "{prompt}"
    """How a prompt is put to the model; as the training rows have it."""
    answers: Literal["given", "generated"] = "generated"
    """Whose answer has the loss: the file's, or what the fine-tuned model says."""
    max_new_tokens: Count = 64
    """Of a generated answer."""


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class SplitQueries:
    """Rows of the run's own corpus that were not trained on."""

    kind: Literal["split"] = "split"
    split: Literal["probe", "tuning", "heldout"] = "probe"
    domain: Name | None = None
    """One domain; by default every domain."""
    rows: Count = 32
    """Rows per domain, in a keyed order."""


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class SourceQueries:
    """Rows of any source of the corpus layer: columns, template, or prompt and answer."""

    kind: Literal["source"] = "source"
    source: FilesDomain | HubDomain = Field(discriminator="kind")
    rows: Count | None = None


AnyQueries = Annotated[PromptQueries | SplitQueries | SourceQueries, Field(discriminator="kind")]
