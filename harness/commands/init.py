"""`steelyard init`: a commented spec for what a user brings, runnable as it is.

Everything that is chosen is small, so that the first run ends within minutes on two cores, and is
written out with the reason beside it: the file is there to be read and changed. Nothing is guessed
at run time, because a spec is data.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from harness.commands.glance import Glance, look
from harness.corpus.sources.formats import format_of
from harness.corpus.sources.streams import COMPRESSED
from harness.errors import SpecError

PAIRS = (
    ("question", "answer"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
)
SPLITS = {
    "train": "train", "training": "train",
    "tuning": "tuning", "validation": "tuning", "valid": "tuning", "val": "tuning", "dev": "tuning",
    "heldout": "heldout", "test": "heldout",
    "probe": "probe",
}  # fmt: skip
ROWS, TOKENS = 16, 64
MIN_STEPS, MAX_STEPS = 40, 120
MANY_PIECES = 12  # of which four splits can be made evenly
BYTES_PER_TOKEN = 3  # of a small BPE on prose
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Drafted:
    """One domain as it will be written."""

    name: str
    lines: list[str]
    num_bytes: int | None
    """None for a data set of the hub, which is not looked at."""
    saw: str


def write_spec(
    paths: Sequence[str], out: Path, name: str | None, target: str | None, force: bool
) -> list[str]:
    """Write a spec for `paths` and return what to tell; SpecError where that cannot be."""
    if len(paths) < 2:
        got = f"got {paths[0]!r} alone" if paths else "got none"
        raise SpecError(f"init: PATHS: give two domains or more to mix, {got}")
    if out.exists() and not force:
        raise SpecError(f"{out}: exists; give --out another name, or --force to replace it")
    title = name or re.sub(r"[^A-Za-z0-9_-]+", "-", out.stem).strip("-") or "mine"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", title):
        raise SpecError(f"--name: {title!r} must be letters, digits, '-', '_' and '.'")
    domains: list[Drafted] = []
    for path in paths:
        domains.append(_draft(path, {domain.name for domain in domains}))
    names = [domain.name for domain in domains]
    _refuse_repeated(paths)
    if target is not None and target not in names:
        raise SpecError(f"--target: {target!r} is no domain; choose one of {', '.join(names)}")
    try:
        out.write_text(_spec(title, target or names[0], domains), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{out}: cannot be written: {error.strerror}") from None
    seen = [f"  {domain.name}: {domain.saw}" for domain in domains]
    made = _plain(str(out))
    after = [f"look at it, then: steelyard plan {made}", f"and: steelyard run {made}"]
    return [f"wrote {made}", *seen, *after]


def _refuse_repeated(paths: Sequence[str]) -> None:
    owners: dict[Path, str] = {}
    for path in paths:
        for file in _files(path) or []:
            owner = owners.setdefault(file.resolve(), path)
            if owner != path or list(paths).count(path) > 1:
                raise SpecError(f"init: PATHS: {file} is in {owner!r} too; a text is of one domain")


def _draft(path: str, taken: set[str]) -> Drafted:
    files = _files(path)
    if files is None:
        return _hub(path, _name(path.rpartition("/")[2], taken))
    seen = look(files)
    stem = re.sub(r"[*?\[\]]+", "", Path(path).name).split(".")[0]
    if _is_general(stem):
        stem = Path(path).absolute().parent.name
    ready = _ready_splits(files) if len(files) > 1 else {}
    lines, saw = _columns(seen)
    comments = [f"# {line}" for line in saw]
    body = ['kind = "files"', *_where(path, files, ready), *lines]
    name, size = _name(stem, taken), decimal(seen.num_bytes)
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    told = f"{count}, {size}, {'; '.join(saw) or seen.format}"
    return Drafted(name, [*comments, f"[domains.{name}]", *body], seen.num_bytes, told)


def _files(path: str) -> list[Path] | None:
    """Return a domain's files, in order; None for the name of a data set of the hub."""
    there = Path(path)
    if there.is_file():
        return [there]
    if there.is_dir():
        found = [p for p in sorted(there.rglob("*")) if p.is_file() and not p.name.startswith(".")]
        known = [p for p in found if format_of(p) is not None]
        if not known:
            fix = "give its files by a glob in quotes"
            raise SpecError(f"{path}: holds no txt, jsonl, csv, tsv or parquet file; {fix}")
        kinds = [format_of(p) for p in known]
        most = max(dict.fromkeys(kinds), key=kinds.count)
        return [p for p in known if format_of(p) == most]
    if glob.has_magic(path):
        found = [Path(p) for p in sorted(glob.glob(path, recursive=True)) if Path(p).is_file()]
        if not found:
            raise SpecError(f"{path}: matches no file")
        return found
    if _HUB.fullmatch(path) and format_of(there) is None:
        return None
    raise SpecError(f"{path}: no such file or folder, and no hub name (owner/name)")


def _hub(path: str, name: str) -> Drafted:
    lines = [
        "# Not looked at: `init` asks no network. Check the split and the column.",
        f"[domains.{name}]",
        'kind = "hub"',
        f"dataset = {_toml(path)}",
        'split = "train"           # or splits = { train = "train", tuning = "validation", ... }',
        'text = "text"             # or template = "Question: {question}\\nAnswer: {answer}"',
        "max_rows = 20_000",
    ]
    return Drafted(name, lines, None, "data set of the hub, not looked at")


def _is_general(stem: str) -> bool:
    return not stem or all(part in SPLITS or part in ("data", "all") for part in _words(stem))


def _words(stem: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", stem.lower()) if word]


def _ready_splits(files: list[Path]) -> dict[str, list[Path]]:
    """Return our splits with their files, where every file's name tells one and train is there."""
    ready: dict[str, list[Path]] = {}
    for file in files:
        told = [SPLITS[word] for word in _words(file.name.split(".")[0]) if word in SPLITS]
        told = told or [SPLITS[file.parent.name]] if file.parent.name in SPLITS else told
        if len(set(told)) != 1:
            return {}
        ready.setdefault(told[0], []).append(file)
    return ready if "train" in ready and len(ready) > 1 else {}


def _where(path: str, files: list[Path], ready: dict[str, list[Path]]) -> list[str]:
    if ready:
        pairs = [f"{split} = {_toml([str(p) for p in ready[split]])}" for split in sorted(
            ready, key=("train", "probe", "tuning", "heldout").index)]  # fmt: skip
        return [f"splits = {{ {', '.join(pairs)} }}  # what lacks is cut from train"]
    if not Path(path).is_dir():
        return [f"paths = {_toml([path])}"]
    suffixes = sorted({"".join(_suffixes(file)) for file in files})
    deep = "**/" if any(file.parent != Path(path) for file in files) else ""
    folder = glob.escape(path.rstrip("/"))
    return [f"paths = {_toml([f'{folder}/{deep}*{suffix}' for suffix in suffixes])}"]


def _suffixes(file: Path) -> list[str]:
    packed = file.suffix.lower() in COMPRESSED
    return file.suffixes[-2:] if packed else file.suffixes[-1:]


def _columns(seen: Glance) -> tuple[list[str], list[str]]:
    """Return the lines that turn rows into documents, and comments on what was seen."""
    lines = [] if seen.known else [f"format = {_toml(seen.format)}"]
    lines += [f"encoding = {_toml(seen.encoding)}"] if seen.encoding != "utf-8" else []
    if seen.format == "text":
        if seen.separator is None:
            return lines, []
        cut = "top-level headings" if "=" in seen.separator else "blank lines"
        saw = f"cut at {cut} into documents, because so few files cannot fill four splits"
        few = "only about {} documents so: four splits may not fill; look for another separator"
        notes = [few.format(seen.num_pieces)] if seen.num_pieces < MANY_PIECES else []
        return [*lines, f"separator = {_toml(seen.separator)}"], [saw, *notes]
    if not seen.columns:
        names = ", ".join(seen.others) or "none"
        raise SpecError(f"no column of text in {seen.format} rows; columns: {names}")
    chosen, used = _text(seen.columns)
    rest = [c for c in (*seen.columns, *seen.others) if c not in used]
    saw = f"text from {_listed(used)}" + (f"; other columns: {_listed(rest)}" if rest else "")
    return [*lines, *chosen], [saw]


def _text(columns: dict[str, int]) -> tuple[list[str], list[str]]:
    """Return the lines that name the text, and the columns that they use."""
    plain = {column.lower(): column for column in columns}
    if "text" in plain:
        return [f"text = {_toml(plain['text'])}"], [plain["text"]]
    for first, second in PAIRS:
        if first in plain and second in plain:
            ask, reply = plain[first], plain[second]
            asked, replied = f"{ask.capitalize()}: {{{ask}}}\n", f"{reply.capitalize()}: "
            return [
                f"template = {_toml(f'{asked}{replied}{{{reply}}}')}",
                "# Instead, for a loss on the second alone:",
                f"# prompt = {_toml(asked + replied)}",
                f"# answer = {_toml(f'{{{reply}}}')}",
            ], [ask, reply]
    longest = max(columns, key=lambda column: columns[column])
    return [f"text = {_toml(longest)}"], [longest]


def _listed(names: list[str], most: int = 6) -> str:
    short = [re.sub(r"[\s\x00-\x1f\x7f]+", " ", _plain(name))[:30] for name in names[:most]]
    return ", ".join(short) + (f" and {len(names) - most} more" if len(names) > most else "")


def _name(stem: str, taken: set[str]) -> str:
    base = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:48] or "domain"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def _spec(title: str, target: str, domains: list[Drafted]) -> str:
    sizes = [domain.num_bytes for domain in domains if domain.num_bytes is not None]
    total = sum(sizes) if sizes else 10_000_000
    vocabulary = next(
        (v for limit, v in ((300_000, 512), (2_000_000, 1024)) if total < limit), 2048
    )
    passes = 2 * total // (BYTES_PER_TOKEN * ROWS * TOKENS)
    steps = min(MAX_STEPS, max(MIN_STEPS, passes // 10 * 10))
    small = [d.name for d in domains if d.num_bytes is not None and d.num_bytes < 20_000]
    warning = [f"# {name} is very small: a split may lack a row of batch.tokens." for name in small]
    written = "\n\n".join("\n".join(domain.lines) for domain in domains)
    return f"""\
# Written by `steelyard init`; every line may be changed. All keys: steelyard run SPEC --help
name = {_toml(title)}
target = {_toml(target)}  # the domain that the comparison is about
baseline = "uniform"  # every arm is compared with this one, seed by seed
# With n seeds no p is below 2^(1-n), times the number of tested methods (Holm). One method is
# tested here (influence; a control is not), so 6 seeds can give a verdict: .031. Two need 7.
seeds = [0, 1, 2, 3, 4, 5]

{chr(10).join([*warning, written])}

[tokenizer]
vocab_size = {vocabulary}  # a byte-level BPE, trained on the train split

[model]
size = "nano"  # for minutes on two cores; micro, mini, small, 124m, 350m and 1b are larger

[batch]
rows = {ROWS}
tokens = {TOKENS}

[budget]
steps = {steps}  # {decimal(total)} of text seen, {steps * ROWS * TOKENS:,} tokens a run

[optimizer]
learning_rate = 6e-3  # small models want large steps; 1e-3 or less from small on

[evaluation]
every = {steps // 4}

[arms.uniform]
method = "static"

[arms.natural]  # in proportion to size
method = "static"
control = true
settings = {{ weights = "natural" }}

[arms.influence]
method = "influence"
settings = {{ every = {steps // 4} }}

# [arms.doremi]  # trains a reference and a proxy first; with it, use 7 seeds
# method = "doremi"
"""


def _plain(text: str) -> str:
    """Return a text with escapes for what is no character, such as bytes of a file's name."""
    return text.encode(errors="backslashreplace").decode()


def _toml(value: str | list[str]) -> str:
    """Return a string, or a list of them, as TOML; JSON's escapes are TOML's but for DEL."""
    for text in [value] if isinstance(value, str) else value:
        if _plain(text) != text:
            raise SpecError(f"{_plain(text)}: is no UTF-8, as a spec has to be; rename it")
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
