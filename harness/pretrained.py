"""Models from outside: found, checked, named by their content, and made a local folder.

A source is a folder (config.json with safetensors, or a .bin that is loaded as plain tensors), a
name on the Hugging Face hub, or a GGUF file, which is converted once to float32 safetensors under
OUT/models. Everything downstream sees a folder. Nothing here imports torch unless there is a GGUF
file to convert, and nothing that came from outside is ever executed: a pickle is not unpickled, and
code beside the weights is run only where the spec says so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from harness.errors import SpecError
from harness.files import part_of, read_given_json
from harness.hashes import ContentHashes
from harness.leases import being_made

Say = Callable[[str], None]

CONFIG = "config.json"
PATIENCE_SECONDS = 5.0  # with a hub that does not answer
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
MODEL_FILES = ("*.json", "*.safetensors")
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
# What decides how text becomes tokens, and config.json for the end-of-text token.
TOKENIZER_CONTENT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                     "vocab.json", "merges.txt", "vocab.txt", "*.model", CONFIG)  # fmt: skip
WRITERS_NOTES = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")  # change no bit


def model_folder(source: str, revision: str | None, trust: bool, out: Path, say: Say) -> Path:
    """Return a local folder with the config and the weights of `model.source`, checked."""
    path = _local(source, revision, "model.source", (*MODEL_FILES, *(("*.py",) if trust else ())))
    if path.is_file():
        path = _converted(path, out, "model", _convert_model, "model.source", say)
    config = model_config(path)
    if "auto_map" in config and not trust and not _known(config):
        fix = "read it, then set model.trust_remote_code = true, or choose another model"
        raise SpecError(f"model.source: {source} runs Python code of its own; {fix}")
    for weights in weight_files(path):
        if weights.suffix == ".safetensors":
            _check_safetensors(weights)
    return path


def tokenizer_folder(source: str, revision: str | None, out: Path, say: Say) -> Path:
    """Return the local folder, or the tokenizer.json, of `tokenizer.source`."""
    key = "tokenizer.source"
    path = _local(source, revision, key, TOKENIZER_FILES)
    if path.is_file() and path.suffix != ".json":
        return _converted(path, out, "tokenizer", _convert_tokenizer, key, say)
    return path


def model_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a model's folder."""
    config = read_given_json(folder / CONFIG, "model.source")
    if config is None:
        found = sorted(folder.glob("*.gguf"))
        fix = f"point it at {found[0]}" if found else "point it at the folder of a saved model"
        raise SpecError(f"model.source: {folder} has no {CONFIG}; {fix}")
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise SpecError(f"model.source: {folder / CONFIG} names no model_type; is it a model's?")
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a model's weights, all there: safetensors where there are any."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = read_given_json(folder / f"{name}.index.json", "model.source")
        shards = set(index["weight_map"].values()) if index else {name}
        paths = sorted(folder / shard for shard in shards)
        for path in paths if index else []:
            if not path.is_file():
                raise SpecError(f"model.source: {path} is missing; copy the whole model")
        if paths[0].is_file():
            return paths
    fix = "save the model's weights there (save_pretrained)"
    raise SpecError(f"model.source: {folder} has no model.safetensors; {fix}")


def fingerprint_model(folder: Path, out: Path) -> str:
    """Return 16 hex digits of a model's config and weights, wherever they lie."""
    config = {k: v for k, v in model_config(folder).items() if k not in WRITERS_NOTES}
    hashes = ContentHashes(out / "models")
    files = (*weight_files(folder), *sorted(folder.glob("*.py")))
    parts = [json.dumps(config, sort_keys=True), *(hashes.of(path) for path in files)]
    hashes.save()
    return blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def _content(path: Path, out: Path) -> str:
    hashes = ContentHashes(out / "models")
    content = hashes.of(path)
    hashes.save()
    return content


def fingerprint_tokenizer(path: Path) -> str:
    """Return 16 hex digits of the files that a ready tokenizer is made of."""
    found = [path]
    if path.is_dir():
        found = sorted({file for name in TOKENIZER_CONTENT for file in path.glob(name)})
    elif path.suffix == ".json":
        beside = (path.parent / name for name in ("tokenizer_config.json", CONFIG))
        found += [file for file in beside if file.is_file()]
    whole = blake2b(digest_size=8)
    for file in found:
        whole.update(file.name.encode() + b"\0" + ContentHashes().of(file).encode())
    return whole.hexdigest()


def _local(source: str, revision: str | None, key: str, patterns: tuple[str, ...]) -> Path:
    """Return `source` as an existing folder, GGUF file or tokenizer.json; SpecError otherwise."""
    path = Path(os.path.expanduser(source))  # pathlib's raises for a user whom nobody knows
    if path.is_dir():
        return path.resolve()
    if path.is_file():
        if key.startswith("tokenizer") and path.suffix == ".json":
            return path.resolve()
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"GGUF":
            what = f"{path} is no GGUF file (it starts with {magic!r})"
            raise SpecError(f"{key}: {what}; give a GGUF file, a folder or a hub name")
        return path.resolve()
    if path.suffix in (".gguf", ".json") or not HUB_NAME.fullmatch(source):
        raise SpecError(f"{key}: no such file or folder: {source}; correct the path")
    return _downloaded(source, revision, key, patterns)


def _downloaded(name: str, revision: str | None, key: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    options: dict[str, Any] = {"revision": revision}
    reason: Exception | None = None
    try:  # snapshot_download alone would wait for minutes for a server that never answers
        info = HfApi().model_info(name, revision=revision, timeout=PATIENCE_SECONDS)
        options["revision"] = info.sha
    except Exception as error:  # a library of many errors: offline, no such name, gated, no route
        options["local_files_only"], reason = True, error
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(patterns), **options))
        if key == "model.source" and not any(folder.glob("*.safetensors")):
            wanted = [*patterns, "pytorch_model*.bin"]
            folder = Path(snapshot_download(name, allow_patterns=wanted, **options))
    except Exception as error:
        first = " ".join(str(reason or error).split())[:120]
        why = f"{name!r} is no folder here and cannot be had from the Hugging Face hub ({first})"
        fix = f"check the name and the network, or point {key} at a local folder"
        raise SpecError(f"{key}: {why}; {fix}") from None
    return folder


def _known(config: dict[str, Any]) -> bool:
    from transformers import CONFIG_MAPPING

    return config["model_type"] in CONFIG_MAPPING


def _check_safetensors(path: Path) -> None:
    """Refuse a file that is shorter or longer than its header says, without reading the tensors."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                raise ValueError
            header = json.loads(file.read(length))
        ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SpecError(f"model.source: {path} is no safetensors file; copy it again") from None
    wanted = 8 + length + max(ends, default=0)
    if size != wanted:
        cut = f"{path} has {size:,} bytes and needs {wanted:,}"
        raise SpecError(f"model.source: {cut}: it was cut short; copy it again")


def _converted(
    gguf: Path, out: Path, what: str, convert: Callable[[Path, Path], None], key: str, say: Say
) -> Path:
    """Return OUT/models/<hash of the file>-<what>, made now or found; whole or not at all."""
    final = (out / "models" / f"{_content(gguf, out)[:16]}-{what}").resolve()
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with being_made(final):
        if final.is_dir():
            return final
        say(f"{what}: converting {gguf.name} (once; minutes for a large one)")
        part = part_of(final)
        part.mkdir(parents=True)
        try:
            convert(gguf, part)
            part.rename(final)
        except ImportError as error:
            fix = 'pip install "steelyard[gguf]"'
            raise SpecError(
                f"{key}: reading {gguf.name} needs {error.name or error}; {fix}"
            ) from None
        except OSError as error:
            if error.errno is not None:  # of the system: a full disk, not the file's content
                raise
            raise _unreadable(key, gguf, error) from None
        except Exception as error:  # the readers raise what they like
            raise _unreadable(key, gguf, error) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return final


def _unreadable(key: str, gguf: Path, error: Exception) -> SpecError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return SpecError(f"{key}: {gguf} cannot be read as a model: {reason}; try another file")


def _convert_model(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as float32 safetensors.

    What transformers loads counts as quantized and refuses to be saved, so the weights move to a
    plain model of the same configuration.
    """
    import gguf as needed  # noqa: F401  # or transformers says so in a paragraph
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()  # three bars for what was said in one line
    auto: Any = AutoModelForCausalLM
    loaded = auto.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    with torch.random.fork_rng(devices=[]):
        plain = auto.from_config(AutoConfig.for_model(**config))
    plain.load_state_dict(loaded.state_dict())
    plain.float().save_pretrained(folder)


def _convert_tokenizer(gguf: Path, folder: Path) -> None:
    import gguf as needed  # noqa: F401
    from transformers import AutoTokenizer

    auto: Any = AutoTokenizer
    auto.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
