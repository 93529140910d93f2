"""Documents out of records, as a domain declares: one column, a template, or prompt and answer.

A template knows `{column}` alone, and `{{` for a brace: it is no Python format string, which would
reach into objects. What a column holds has to be text; numbers may stand in templates and groups,
where their spelling is clear. Nothing is left out in silence: a missing value is an error, and a
blank document is counted where the corpus is built.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.corpus.documents import Document
from harness.corpus.normalize import normalizer
from harness.errors import SpecError
from harness.spec import Texts

PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
DEFAULT_COLUMN = "text"
MAX_NAMES = 20  # columns that a message lists


class Record(NamedTuple):
    """A row of a table, an object of JSON lines, or a text."""

    name: str
    """Unique in its domain, and the same wherever its file lies."""
    where: str
    """For messages: file and row."""
    values: Mapping[str, Any]


class Composer:
    """Makes documents of a domain's records."""

    def __init__(self, name: str, domain: Texts) -> None:
        """Parse the templates; SpecError if one is malformed or names no column."""
        self._prefix, self._domain = f"domains.{name}", domain
        self._normalize = normalizer(domain.normalize)
        column = domain.text or DEFAULT_COLUMN
        self._parts: list[tuple[str, list[tuple[str, bool]]]] = [("text", [(column, True)])]
        keys = ("template",) if domain.template is not None else ("prompt", "answer")
        if domain.template is not None or domain.prompt is not None:
            self._parts = [(key, self._parse(key, getattr(domain, key))) for key in keys]

    @property
    def columns(self) -> frozenset[str]:
        """Columns that documents are made of."""
        named = {text for _, pieces in self._parts for text, is_column in pieces if is_column}
        named |= {column.strip() for column in named}
        return frozenset(named | ({self._domain.group} if self._domain.group else set()))

    def document(self, record: Record, split: str | None) -> Document:
        """Return the document of a record; SpecError says which value it cannot be made of."""
        parts = [self._fill(key, pieces, record) for key, pieces in self._parts]
        group = record.name
        if self._domain.group:
            group = self._spell("group", self._domain.group, record, plain=False)
        try:
            group.encode()  # it will be hashed, as the text is
            prompt_chars = len(parts[0]) if self._domain.prompt is not None else 0
            return Document(record.name, group, "".join(parts), split, prompt_chars)
        except UnicodeEncodeError:
            raise SpecError(
                f"{self._prefix}.{self._parts[0][0]}: {record.where} holds half of a surrogate "
                "pair, which is no character; repair the text"
            ) from None

    def _parse(self, key: str, template: str) -> list[tuple[str, bool]]:
        """Return the pieces of a template: (text, False) or (column, True)."""
        pieces, start = [], 0
        for match in PIECE.finditer(template):
            pieces.append((template[start : match.start()], False))
            start = match.end()
            if match[1]:
                pieces.append((match[1], True))
            elif match[0] in ("{{", "}}"):
                pieces.append((match[0][0], False))
            else:
                raise SpecError(
                    f"{self._prefix}.{key}: {template!r} has a single {match[0]!r}; "
                    f"name a column as {{column}}, or write {match[0] * 2!r}"
                )
        if not any(is_column for _, is_column in pieces):
            raise SpecError(
                f"{self._prefix}.{key}: {template!r} names no column; "
                "write a column's name in braces, such as {question}"
            )
        return [*pieces, (template[start:], False)]

    def _fill(self, key: str, pieces: list[tuple[str, bool]], record: Record) -> str:
        return "".join(
            self._normalize(self._spell(key, text, record, plain=key == "text"))
            if is_column
            else text
            for text, is_column in pieces
        )

    def _spell(self, key: str, column: str, record: Record, plain: bool) -> str:
        """Return a column's value as text; `plain`: nothing but text will do."""
        # a header may have spaces around its names, and so may a template
        column = next((c for c in (column, column.strip()) if c in record.values), column)
        if column not in record.values:
            raise SpecError(f"{self._prefix}.{key}: {self._no_column(column, record)}")
        value = record.values[column]
        if isinstance(value, str):
            return value
        if isinstance(value, bool | int | float) and not plain:
            return json.dumps(value)
        what = "null" if value is None else f"{type(value).__name__} {_short(value)}"
        raise SpecError(
            f"{self._prefix}.{key}: {record.where}: column {column!r} is {what} where text is due; "
            "remove or correct the row, or choose another column"
        )

    def _no_column(self, column: str, record: Record) -> str:
        names = [str(name) for name in record.values]
        close = difflib.get_close_matches(column, names, 1)
        fix = f"did you mean {close[0]!r}?" if close else "name one of them"
        listed = ", ".join(repr(name) for name in names[:MAX_NAMES]) or "none"
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        return f"{record.where} has no column {column!r} but {listed}{more}; {fix}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
