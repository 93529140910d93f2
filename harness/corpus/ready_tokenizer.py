"""A tokenizer from outside: its tokenizer.json, and which tokens end a text and stand for a mask.

Models' folders name special tokens in several files; the first that answers is taken. The fast
form of the tokenizers library is read where it exists; transformers is imported only to make one
where a folder has none, and never runs code that lies there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.corpus.tokenizer import from_merges, from_text
from harness.errors import SpecError
from harness.files import read_given_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What a bare tokenizer.json calls them; a folder says it itself.
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]", "<sep>")
MASKS = ("[MASK]", "<mask>", "<|mask|>")


class Ready(NamedTuple):
    """A tokenizer, and the ids of the special tokens that a corpus needs."""

    tokenizer: Tokenizer
    end_of_text: int
    mask: int | None


def read_ready(path: Path) -> Ready:
    """Return the tokenizer in a folder or a tokenizer.json; SpecError where there is none."""
    tokenizer = _tokenizer(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if tokenizer.get_vocab_size(with_added_tokens=False) < 2:
        raise SpecError(
            f"tokenizer.source: {path} has an empty vocabulary; give its tokenizer.json"
        )
    folder = path if path.is_dir() else path.parent
    end = _special(tokenizer, folder, ("eos_token", "sep_token"), ENDS)
    if end is None:
        missing = f"{path} has neither an end-of-text nor a separator token"
        raise SpecError(
            f"tokenizer.source: {missing}; name one as eos_token in tokenizer_config.json"
        )
    return Ready(tokenizer, end, _special(tokenizer, folder, ("mask_token",), MASKS))


def _tokenizer(path: Path) -> Tokenizer:
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file() and (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        # transformers 5 makes an empty tokenizer of these two, and says nothing
        return from_merges(path / "vocab.json", path / "merges.txt")
    try:
        text = file.read_text() if file.is_file() else _converted(path)
        return from_text(text)
    except Exception as error:  # whatever the two libraries raise
        reason = " ".join(str(error).split())[:200]
        fix = "give a tokenizer.json, or the folder of a saved tokenizer"
        raise SpecError(f"tokenizer.source: {path} is no tokenizer: {reason}; {fix}") from None


def _converted(folder: Path) -> str:
    from transformers import AutoTokenizer

    auto: Any = AutoTokenizer
    slow_or_fast = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return str(slow_or_fast.backend_tokenizer.to_str())


def _special(
    tokenizer: Tokenizer, folder: Path, keys: tuple[str, ...], usual: tuple[str, ...]
) -> int | None:
    """Return the id of the first special token that the folder's files name, or a usual one."""
    config = read_given_json(folder / "config.json", "tokenizer.source") or {}
    for key in keys:
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            token = (read_given_json(folder / file, "tokenizer.source") or {}).get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None and (found := tokenizer.token_to_id(token)) is not None:
                return found
        number = config.get(f"{key}_id")
        if isinstance(number, int) and tokenizer.id_to_token(number) is not None:
            return number
    ids = (tokenizer.token_to_id(token) for token in usual)
    return next((number for number in ids if number is not None), None)
