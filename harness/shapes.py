"""Sizes of models as plain numbers, so that planning a run imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def configure(spec: Model, vocab_size: int, tokens: int) -> dict[str, Any]:
    """Return the transformers configuration of `spec` as keyword arguments."""
    layers, width, heads = SIZES[spec.size]
    common = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    if spec.architecture == "gpt2":
        shape: dict[str, Any] = {"n_layer": layers, "n_embd": width, "n_head": heads}
        shape |= {"n_positions": tokens, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
        # 8/3 of the width, rounded up to 32: LLaMA's SwiGLU keeps a GPT block's parameter count
        shape |= {"intermediate_size": -(-width * 8 // 96) * 32, "max_position_embeddings": tokens}
        shape |= {"tie_word_embeddings": True}
    return {**common, **shape, **spec.config}


def estimate_parameters(spec: Model, vocab_size: int) -> int:
    """Return roughly how many parameters the model has: 12 d^2 a layer, and the embedding."""
    config = configure(spec, vocab_size, tokens=0)
    # either name may be given for either architecture: transformers knows both
    layers = int(config.get("num_hidden_layers", config.get("n_layer", 0)))
    width = int(config.get("hidden_size", config.get("n_embd", 0)))
    return 12 * layers * width**2 + vocab_size * width
