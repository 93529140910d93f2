"""From a spec to a causal language model, its token losses, and what a row of it costs.

Architectures come from transformers, randomly initialised under a keyed seed. Dropout is off: a
run must be a function of its spec, and influence is defined for the model that is trained. FLOPs
are counted by torch on a meta copy, so that a new architecture needs no formula of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.cross_entropy import cross_entropy
from harness.errors import SpecError
from harness.rng import key
from harness.shapes import configure

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch
    from harness.spec import Model


def check_model(spec: Model, tokens: int) -> None:
    """Refuse a `config` that transformers would ignore, or cannot build; nothing is allocated."""
    from transformers import AutoConfig

    default = AutoConfig.for_model(spec.architecture)
    known = set(default.to_dict()) | set(default.attribute_map)
    for field, value in spec.config.items():
        if field not in known or field in ("vocab_size", "use_cache"):
            raise SpecError(
                f"model.config.{field}: no field of a {spec.architecture} to be set here"
            )
        if value and ("pdrop" in field or "dropout" in field):
            raise SpecError(f"model.config.{field}: is {value}; dropout must be 0 in a paired run")
    try:
        with torch.device("meta"):
            model = build_model(spec, vocab_size=300, tokens=tokens, seed=0)
    except Exception as error:  # transformers and torch raise what they like
        reason = " ".join(str(error).split())
        raise SpecError(f"model.config: cannot be built: {reason}") from None
    config: Any = model.config
    if config.max_position_embeddings < tokens:
        few = f"{config.max_position_embeddings} positions"
        raise SpecError(f"model.config: {few} are fewer than batch.tokens = {tokens}; raise them")


def build_model(
    spec: Model, vocab_size: int, tokens: int, seed: int, attention: str = "sdpa"
) -> nn.Module:
    """Return the model of `spec` with weights keyed by `seed`; no global generator moves."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(spec.architecture, **configure(spec, vocab_size, tokens))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "init"))
        from_config: Any = AutoModelForCausalLM.from_config
        model: nn.Module = from_config(config, attn_implementation=attention)
    return model.eval()  # dropout has no place in a run that is a function of its spec


def token_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Return cross-entropy [B, T] in nats, float32, 0 where masked."""
    logits = model(input_ids=batch.inputs, use_cache=False).logits  # [B, T, V]
    losses = cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
    return losses.view_as(batch.targets) * batch.mask


class RowFlops(NamedTuple):
    """Floating-point operations that one row costs."""

    forward: float
    backward: float


def count_row_flops(spec: Model, vocab_size: int, tokens: int) -> RowFlops:
    """Count the matrix products of one row's forward and backward pass, without doing them.

    Attention is counted in full, as torch does it, although half of a causal mask is wasted.
    """
    with torch.device("meta"):
        # fused attention has no operation count on every device; written out, it always has
        model = build_model(spec, vocab_size, tokens, seed=0, attention="eager")
        inputs = torch.zeros((1, tokens), dtype=torch.int64)
        mask = torch.zeros((1, 1, tokens, tokens))  # given, so that transformers reads no values
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits.sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return RowFlops(float(forward.get_total_flops()), float(backward.get_total_flops()))
