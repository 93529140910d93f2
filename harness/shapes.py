"""Sizes of models as plain numbers, so that planning a run imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.files import read_json

if TYPE_CHECKING:
    from harness.spec import Model

# size: (layers, width, heads)
SIZES = {
    "nano": (2, 64, 2),
    "micro": (2, 96, 3),
    "mini": (4, 128, 4),
    "small": (4, 256, 4),
    "124m": (12, 768, 12),
    "350m": (24, 1024, 16),
    "1b": (16, 2048, 32),
}
# every architecture has its own names, and transformers knows several of them for each
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
WIDTH = ("hidden_size", "n_embd", "d_model")


def configure(spec: Model, vocab_size: int, tokens: int) -> dict[str, Any]:
    """Return the transformers configuration of a `spec` from scratch as keyword arguments.

    A masked model has one more embedding than the vocabulary: its mask token is `vocab_size`.
    """
    layers, width, heads = SIZES[spec.size]
    layers, width = _number(spec.config, LAYERS, layers), _number(spec.config, WIDTH, width)
    common = {
        "vocab_size": vocab_size + (spec.objective == "masked"),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "use_cache": False,
    }
    shape = _SHAPES[spec.architecture](layers, width, heads, tokens)
    if spec.architecture in ("llama", "mistral"):
        # of the preset: `config` may set intermediate_size beside hidden_size
        shape["intermediate_size"] = _swiglu(SIZES[spec.size][1])
    return {**common, **shape, **spec.config}


def _gpt2(layers: int, width: int, heads: int, tokens: int) -> dict[str, Any]:
    shape: dict[str, Any] = {"n_layer": layers, "n_embd": width, "n_head": heads}
    shape |= {"n_positions": tokens, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return shape


def _llama(layers: int, width: int, heads: int, tokens: int) -> dict[str, Any]:
    shape: dict[str, Any] = {"num_hidden_layers": layers, "hidden_size": width}
    shape |= {"num_attention_heads": heads, "max_position_embeddings": tokens}
    return {**shape, "tie_word_embeddings": True}


def _swiglu(width: int) -> int:
    # 8/3 of the width, rounded up to 32: LLaMA's SwiGLU keeps a GPT block's parameter count
    return -(-width * 8 // 96) * 32


def _mistral(layers: int, width: int, heads: int, tokens: int) -> dict[str, Any]:
    # Mistral's own 8 key-value heads are more than a small model has heads
    shape = {"num_key_value_heads": heads, "sliding_window": None, "pad_token_id": None}
    return {**_llama(layers, width, heads, tokens), **shape}


def _gpt_neo(layers: int, width: int, heads: int, tokens: int) -> dict[str, Any]:
    turns = [("global", "local")[layer % 2] for layer in range(layers)]  # one for each layer
    shape: dict[str, Any] = {"num_layers": layers, "hidden_size": width, "num_heads": heads}
    shape |= {"attention_types": [[turns, 1]], "max_position_embeddings": tokens}
    return {**shape, "resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0}


def _opt(layers: int, width: int, heads: int, tokens: int) -> dict[str, Any]:
    # OPT adds two unused positions to max_position_embeddings by itself
    shape: dict[str, Any] = {"num_hidden_layers": layers, "hidden_size": width}
    shape |= {"num_attention_heads": heads, "max_position_embeddings": tokens}
    shape |= {"ffn_dim": 4 * width, "word_embed_proj_dim": width, "pad_token_id": None}
    return {**shape, "dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0}


def _bert(layers: int, width: int, heads: int, tokens: int) -> dict[str, Any]:
    shape: dict[str, Any] = {"num_hidden_layers": layers, "hidden_size": width}
    shape |= {"num_attention_heads": heads, "max_position_embeddings": tokens}
    shape |= {"intermediate_size": 4 * width, "pad_token_id": None}
    return {**shape, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _roberta(layers: int, width: int, heads: int, tokens: int) -> dict[str, Any]:
    # RoBERTa counts positions from pad_token_id + 1, so padding must exist: token 0, at no price
    # (harness/model.py takes its special treatment away)
    padded = {"pad_token_id": 0, "max_position_embeddings": tokens + 1}
    return {**_bert(layers, width, heads, tokens), **padded}


_SHAPES = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _mistral,
    "gpt_neo": _gpt_neo,
    "opt": _opt,
    "bert": _bert,
    "roberta": _roberta,
}


def estimate_parameters(spec: Model, vocab_size: int) -> int:
    """Return roughly how many parameters the model has: 12 d^2 a layer, and the embedding."""
    if spec.source is not None:
        config = read_json(Path(spec.source) / "config.json") or {}
        vocab_size = _number(config, ("vocab_size",), vocab_size)
    else:
        config = configure(spec, vocab_size, tokens=0)
    layers, width = _number(config, LAYERS, 0), _number(config, WIDTH, 0)
    return 12 * layers * width**2 + vocab_size * width


def _number(config: dict[str, Any], names: tuple[str, ...], default: int) -> int:
    """Return the first of `names` that is a number in `config`."""
    found = [config[name] for name in names if isinstance(config.get(name), int)]
    return int(found[0]) if found else default
