"""Whether a model can be had and fits the rows and the tokenizer, told before anything is trained.

Everything is tried on torch's meta device, where building or loading a model allocates nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import SpecError
from harness.model import build_model, first_position, read_source
from harness.pretrained import model_config, weight_files

if TYPE_CHECKING:
    from torch import nn

    from harness.spec import Model


def check_model(spec: Model, vocab_size: int, tokens: int, mask_token: int | None = None) -> None:
    """Refuse a model that transformers cannot build, or that fits neither rows nor tokenizer.

    Nothing is allocated, but for a source's .bin files, which are looked through as plain tensors.
    """
    where = "model.config" if spec.source is None else "model.source"
    if spec.source is None:
        _check_fields(spec)
    else:
        _check_source(spec, vocab_size, mask_token)
    try:
        with torch.device("meta"):
            model = build_model(spec, vocab_size, tokens, seed=0, blank=True)
    except Exception as error:  # transformers and torch raise what they like
        reason = " ".join(str(error).split())
        raise SpecError(f"{where}: cannot be built: {reason}") from None
    positions = _positions(model)
    if positions is not None and positions < tokens:
        few, fix = f"{positions} positions", "raise them" if spec.source is None else "lower it"
        raise SpecError(f"{where}: {few} are fewer than batch.tokens = {tokens}; {fix}")


def _check_fields(spec: Model) -> None:
    """Refuse a `config` that transformers would ignore."""
    from transformers import AutoConfig

    default = AutoConfig.for_model(spec.architecture)
    known = set(default.to_dict()) | set(default.attribute_map)
    for field, value in spec.config.items():
        if field not in known or field in ("vocab_size", "use_cache"):
            raise SpecError(
                f"model.config.{field}: no field of a {spec.architecture} to be set here"
            )
        if value and "drop" in field:
            raise SpecError(f"model.config.{field}: is {value}; dropout must be 0 in a paired run")


def _check_source(spec: Model, vocab_size: int, mask_token: int | None) -> None:
    """Refuse weights that are no language model of this objective, or know other tokens."""
    assert spec.source is not None
    folder = Path(spec.source)
    config = model_config(folder)
    kind = config["model_type"]
    able = _objectives(config)
    if spec.objective not in able and not (spec.trust_remote_code and "auto_map" in config):
        if not able:
            raise SpecError(f"model.source: a {kind} is no language model; give one that is")
        wrong = f'a {kind} cannot be trained on "{spec.objective}"'
        raise SpecError(f'model.objective: {wrong}; set model.objective = "{able[0]}"')
    if spec.objective == "masked" and mask_token is None:
        raise SpecError("tokenizer.source: has no mask token; give the model's own tokenizer")
    embeddings = config.get("vocab_size")
    if isinstance(embeddings, int) and vocab_size > embeddings:
        many = f"has {vocab_size} tokens and the model of model.source {embeddings} embeddings"
        raise SpecError(f"tokenizer.source: {many}; give the model's own tokenizer")
    for path in weight_files(folder):
        if path.suffix == ".bin":
            _check_pickle(path)
    try:
        read_source(spec, device="meta")
    except ImportError:
        return  # nothing loads on meta without accelerate; the run itself will say it
    except SpecError:
        raise
    except Exception as error:  # transformers raises what it likes
        reason = " ".join(str(error).split())[:200]
        raise SpecError(f"model.source: {folder} cannot be loaded: {reason}") from None


def _objectives(config: dict[str, Any]) -> list[str]:
    """Return what a model of this configuration can be trained on."""
    from transformers.models.auto import modeling_auto

    kind = config["model_type"]
    masked = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config.get("is_encoder_decoder"):
        return []
    if masked and causal:  # BERT and its kin, which see what comes next unless they are decoders
        return ["causal"] if config.get("is_decoder") else ["masked"]
    return ["masked"] * masked + ["causal"] * causal


def _check_pickle(path: Path) -> None:
    """Refuse a .bin that is more than tensors; nothing in it is executed."""
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # unpickling errors of several libraries
        reason = f"{path} is not plain tensors ({type(error).__name__}) and was not loaded"
        raise SpecError(f"model.source: {reason}; save the model as safetensors") from None


def _positions(model: nn.Module) -> int | None:
    """Return how many tokens a row may have; None where there is no bound."""
    config: Any = model.config
    bound = getattr(config, "max_position_embeddings", None)
    if bound is None or bound < 0:
        return None
    return int(bound) - first_position(model)
