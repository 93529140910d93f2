"""A user's own files: found, fingerprinted and read, wherever they lie.

A document is named by its file relative to the folder that all files of the domain share, and by
its row; so are the fingerprint's parts. Where that folder lies decides nothing, and neither do the
globs that led to the files. One file in two ready splits is refused, whether it is the same path or
a copy: its text would be trained on and then predicted.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from harness.corpus.documents import SPLITS, Document
from harness.corpus.sources.columns import Composer, Record
from harness.corpus.sources.formats import SUFFIXES, Reading, format_of, read_rows
from harness.corpus.sources.source import Source
from harness.corpus.sources.streams import BadFileError
from harness.errors import SpecError
from harness.hashes import ContentHashes
from harness.identity import to_json
from harness.spec import FilesDomain, Texts

MAGIC = re.compile(r"[*?\[]")


class Found(NamedTuple):
    """A file of a domain."""

    path: Path
    """As the user wrote it, for messages."""
    name: str
    """Relative to the folder that all files share."""
    split: str | None
    format: str
    num_bytes: int
    sha256: str


def find(name: str, domain: FilesDomain, hashes: ContentHashes) -> Source:
    """Return a domain's files as a source; their bytes are hashed, and none of them is parsed."""
    composer = Composer(name, domain)
    reading = Reading(_encoding(name, domain), _separator(name, domain), composer.columns)
    places = _places(name, domain)
    formats = {path: _format(name, domain, path) for path in places}
    if reading.separator is not None and "text" not in formats.values():
        raise SpecError(f"domains.{name}.separator: cuts text files, and there is none; remove it")
    root = Path(os.path.commonpath([os.path.abspath(path.parent) for path in places]))
    found = [
        Found(
            path,
            spelled(Path(os.path.abspath(path)).relative_to(root)),
            split,
            formats[path],
            *_measure(f"domains.{name}.{_key(split)}", path, hashes),
        )
        for path, split in places.items()
    ]
    found.sort(key=lambda file: (file.name, file.split or ""))
    _refuse_copies_in_two_splits(name, found)
    digest = _digest(found)
    facts = {
        "files": {
            "count": len(found),
            "bytes": sum(file.num_bytes for file in found),
            "sha256": digest,
            "formats": sorted({file.format for file in found}),
        },
        **describe_texts(domain),
        "encoding": domain.encoding,
        "separator": domain.separator,
    }
    return Source(
        f"files {digest[:16]}",
        domain.license,
        lambda: _read(name, domain, composer, reading, found),
        facts,
    )


def describe_texts(domain: Texts) -> dict[str, Any]:
    """Return how records become documents, as the manifest tells it."""
    keys = ("text", "template", "prompt", "answer", "group")
    return {
        **{key: getattr(domain, key) for key in keys if getattr(domain, key) is not None},
        "normalize": to_json(domain.normalize),
    }


def _encoding(name: str, domain: FilesDomain) -> str:
    try:
        " ".encode(domain.encoding)  # what codecs knows may be no text encoding, such as hex
    except (LookupError, ValueError):
        raise SpecError(
            f"domains.{name}.encoding: {domain.encoding!r} is no encoding of text that Python "
            'knows; write "utf-8", "latin-1" or another'
        ) from None
    return domain.encoding


def _separator(name: str, domain: FilesDomain) -> re.Pattern[str] | None:
    if domain.separator is None:
        return None
    where = f"domains.{name}.separator: {domain.separator!r}"
    try:
        pattern = re.compile(domain.separator)
    except re.error as error:
        raise SpecError(f"{where} is no regular expression: {error}; correct it") from None
    if pattern.fullmatch(""):
        raise SpecError(f"{where} matches the empty text, and would cut everywhere; correct it")
    return pattern


def spelled(path: Path) -> str:
    """Return a path as text, also where its bytes are none."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def _key(split: str | None) -> str:
    return "paths" if split is None else f"splits.{split}"


def _places(name: str, domain: FilesDomain) -> dict[Path, str | None]:
    """Return every file once, with its ready split."""
    asked: dict[str | None, tuple[str, ...]] = {split: p for split, p in domain.splits.items()}
    asked = asked or {None: domain.paths}
    places: dict[Path, str | None] = {}
    met: dict[Path, str | None] = {}
    for split, patterns in asked.items():
        where = f"domains.{name}.{_key(split)}"
        if not patterns:
            raise SpecError(f"{where}: names no file; add one, or remove the key")
        for pattern in patterns:
            for path in _expand(where, pattern, domain.format):
                real = path.resolve()
                if real not in met:
                    places[path] = met[real] = split
                elif met[real] != split:
                    raise SpecError(
                        f"{where}: {path} is also in splits.{met[real]}; a text can be in one split"
                        " only, so remove it from the other"
                    )
    return places


def _expand(where: str, pattern: str, format: str) -> list[Path]:
    """Return the files that an entry of the spec stands for."""
    path = Path(os.path.expanduser(pattern))  # pathlib's raises for a user whom nobody knows
    try:
        if path.is_dir():
            return _folder(where, path, format)
        if path.is_file():
            return [path]
        if MAGIC.search(pattern):
            matches = sorted(glob.glob(str(path), recursive=True))
            files = [Path(match) for match in matches if Path(match).is_file()]
            if not files:
                here = f" (the working directory is {Path.cwd()})" if not path.is_absolute() else ""
                raise SpecError(f"{where}: no file matches {pattern!r}{here}; correct the pattern")
            return files
        if path.exists():
            raise SpecError(f"{where}: {path} is neither a file nor a folder; name one")
    except OSError as error:
        raise SpecError(_unreadable(where, path, error)) from None
    raise SpecError(f"{where}: {path}: no such file; {_near(path)}")


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder} either (paths are relative to {Path.cwd()})"
    close = difflib.get_close_matches(path.name, sorted(os.listdir(folder)), 1)
    return f"did you mean {str(folder / close[0])!r}?" if close else f"correct it ({Path.cwd()})"


def _folder(where: str, folder: Path, format: str) -> list[Path]:
    """Return the files below a folder that can be read, without hidden ones."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    readable = files if format != "auto" else [path for path in files if format_of(path)]
    if not readable:
        others = sorted({path.suffix for path in files if path.suffix})
        only = f" but {', '.join(others[:8])}" if others else ""
        raise SpecError(
            f"{where}: the folder {folder} has no file that can be read{only}; give one with "
            f"{', '.join(SUFFIXES)} (also .gz, .zst), or a glob and format"
        )
    return readable


def _format(name: str, domain: FilesDomain, path: Path) -> str:
    if domain.format != "auto":
        return domain.format
    format = format_of(path)
    if format is None:
        hint = "one object per line is jsonl" if path.suffix == ".json" else "such as text"
        raise SpecError(
            f"domains.{name}.format: {path} does not tell its format by one of "
            f"{', '.join(SUFFIXES)}; set format, {hint}"
        )
    return format


def _measure(where: str, path: Path, hashes: ContentHashes) -> tuple[int, str]:
    """Return the size and the hash of a file; SpecError if it is empty or may not be read."""
    try:
        if path.stat().st_size == 0:
            raise SpecError(f"{where}: {path} is empty; remove it, or fill it")
        return path.stat().st_size, hashes.of(path)
    except OSError as error:
        raise SpecError(_unreadable(where, path, error)) from None


def _unreadable(where: str, path: Path, error: OSError) -> str:
    fix = (
        f"give yourself the right to read it (chmod u+r {path})"
        if isinstance(error, PermissionError)
        else "look after the disk, or remove the file"
    )
    return f"{where}: {path} cannot be read: {error.strerror or error}; {fix}"


def _refuse_copies_in_two_splits(name: str, found: list[Found]) -> None:
    first: dict[str, Found] = {}
    for file in found:
        other = first.setdefault(file.sha256, file)
        if other.split != file.split:
            raise SpecError(
                f"domains.{name}.splits.{file.split}: {file.path} is a copy of {other.path} in "
                f"splits.{other.split}; a text can be in one split only, so remove one"
            )


def _digest(found: list[Found]) -> str:
    whole = sha256()
    for file in found:
        for part in (file.split or "", file.name, file.format, file.sha256):
            whole.update(part.encode() + b"\0")
    return whole.hexdigest()


def _read(
    name: str, domain: FilesDomain, composer: Composer, how: Reading, found: list[Found]
) -> Iterator[Document]:
    total = 0
    for file in found:
        before = total
        for document in _read_file(name, composer, how, file):
            total += 1
            yield document
        if total == before:
            where = f"domains.{name}.{_key(file.split)}"
            raise SpecError(f"{where}: {file.path} holds no text; remove it, or fill it")
    if total < len(SPLITS) and not domain.splits:
        text = any(file.format == "text" for file in found) and not domain.separator
        cut = 'set separator (such as "\\n\\n") to cut text files, or ' if text else ""
        raise SpecError(
            f"domains.{name}.paths: {found[0].path} gives {total} document{'s'[: total - 1]} in "
            f"all, and four splits need one each; {cut}add files"
        )


def _read_file(name: str, composer: Composer, how: Reading, file: Found) -> Iterator[Document]:
    key = _key(file.split)
    try:
        for number, values in read_rows(file.path, file.name, file.format, how):
            place = f":{number}" if file.format == "jsonl" else f", row {number}" if number else ""
            row = f"{file.name}:{number}" if number else file.name
            yield composer.document(Record(row, f"{file.path}{place}", values), file.split)
    except BadFileError as error:
        where = f"domains.{name}.{error.key or key}"
        raise SpecError(f"{where}: {file.path}{error.place} {error}") from None
    except OSError as error:
        raise SpecError(_unreadable(f"domains.{name}.{key}", file.path, error)) from None
