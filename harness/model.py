"""From a spec to a language model, its token losses, and what a row of it costs.

Architectures come from transformers, randomly initialised under a keyed seed, or with the weights
of a folder that harness/pretrained.py has found. Dropout is off: a run must be a function of its
spec, and influence is defined for the model that is trained. FLOPs are counted by torch on a meta
copy, so that a new architecture needs no formula of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.attention import short_rows
from harness.cross_entropy import cross_entropy
from harness.errors import SpecError
from harness.packing import whole_rows
from harness.pretrained import weight_files
from harness.rng import key
from harness.shapes import configure

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch
    from harness.spec import Model


def build_model(
    spec: Model,
    vocab_size: int,
    tokens: int,
    seed: int,
    attention: str = "sdpa",
    blank: bool = False,
) -> nn.Module:
    """Return the model of `spec`, float32; no global generator moves.

    From scratch, its weights are keyed by `seed`; with a source they are the source's, whatever the
    seed. `blank` skips reading them, for who needs the shape alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "init"))
        if spec.source is not None and not blank:
            model = read_source(spec, attention)
        else:
            model = _from_config(spec, _config(spec, vocab_size, tokens), attention)
    _forget_padding(model)
    _fuse_activations(model)
    return model.eval()  # dropout has no place in a run that is a function of its spec


def read_source(spec: Model, attention: str = "sdpa", device: str | None = None) -> nn.Module:
    """Return the model in the folder `spec.source`; on the device `meta` no tensor is read.

    SpecError where the weights leave a part of the model unset: it would be random.
    """
    import transformers

    assert spec.source is not None
    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()  # a run has its own
    logging.set_verbosity_error()  # what matters of it is raised below
    config = _config(spec, 0, 0)
    with torch.device("meta"):
        possible = _from_config(spec, config, attention).config._attn_implementation
    model: nn.Module
    model, info = _auto(spec).from_pretrained(
        spec.source,
        config=config,
        attn_implementation=possible,
        dtype=torch.float32,
        trust_remote_code=spec.trust_remote_code,
        local_files_only=True,
        use_safetensors=weight_files(Path(spec.source))[0].suffix == ".safetensors",
        weights_only=True,
        output_loading_info=True,
        **({} if device is None else {"device_map": {"": device}}),
    )
    unset = [str(name) for kind in ("missing_keys", "mismatched_keys") for name in info[kind]]
    if unset:
        lacking = f"{len(unset)} of its weights, {min(unset)} among them"
        raise SpecError(f"model.source: {spec.source} lacks {lacking}; give a whole language model")
    return model


def _auto(spec: Model) -> Any:
    """Return the class of transformers that makes models of this objective."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForMaskedLM if spec.objective == "masked" else AutoModelForCausalLM


def _config(spec: Model, vocab_size: int, tokens: int) -> Any:
    from transformers import AutoConfig

    if spec.source is None:
        return AutoConfig.for_model(spec.architecture, **configure(spec, vocab_size, tokens))
    trust = spec.trust_remote_code
    config: Any = AutoConfig.from_pretrained(
        spec.source, trust_remote_code=trust, local_files_only=True
    )
    config.use_cache = False
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def _from_config(spec: Model, config: Any, attention: str) -> Any:
    """Return a model with random weights, in `attention` if it has that kind, else written out."""
    trust = {"trust_remote_code": True} if spec.trust_remote_code else {}
    try:
        return _auto(spec).from_config(
            config, attn_implementation=attention, dtype=torch.float32, **trust
        )
    except ValueError as error:
        if attention == "eager" or "attention" not in str(error):
            raise
        return _from_config(spec, config, "eager")  # GPT-Neo has no other


def first_position(model: nn.Module) -> int:
    """Return where a model counts positions from: RoBERTa and its kin begin after the padding."""
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_input_ids"):
            return int(module.padding_idx) + 1  # type: ignore[arg-type]
    return 0


def _forget_padding(model: nn.Module) -> None:
    """Let every token be a token: rows are packed, so nothing in them is padding.

    Otherwise the embedding of the padding token, which may be the end-of-text token too, would get
    no gradient, and RoBERTa would give that token no position.
    """
    first = first_position(model)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None
    if first:
        model.register_forward_pre_hook(partial(_count_positions, first), with_kwargs=True)


def _fuse_activations(model: nn.Module) -> None:
    """Compute GPT-2's GELU in one kernel where transformers writes it out in eight.

    The same function (arXiv:1606.08415, by tanh), rounded otherwise. The configuration still says
    what it said, so what is saved opens anywhere.
    """
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def _count_positions(
    first: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    inputs = kwargs["input_ids"]
    positions = torch.arange(first, first + inputs.shape[1], device=inputs.device)
    return args, {**kwargs, "position_ids": positions.expand(inputs.shape)}


def token_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Return cross-entropy [B, T] in nats, float32, 0 where masked, whatever stands there."""
    with whole_rows(), short_rows(batch.inputs):
        return _token_losses(model, batch.inputs, batch.targets, batch.mask)


def compiled_losses(model: nn.Module) -> Callable[[Batch], Tensor]:
    """Return `token_losses` of the model, compiled with its loss for batches of one shape.

    The loss belongs inside: it is fused with what it reads, and logits are held once.
    """
    import torch._inductor.config as inductor  # here: it takes a second

    # no kernel is chosen by a timing, which would choose another sum the next time
    if hasattr(inductor, "deterministic"):  # since torch 2.10
        inductor.deterministic = True
    compute = torch.compile(partial(_token_losses, model), dynamic=False)

    def losses(batch: Batch) -> Tensor:
        with whole_rows(), short_rows(batch.inputs):
            found: Tensor = compute(batch.inputs, batch.targets, batch.mask)
        return found

    return losses


def _token_losses(model: nn.Module, inputs: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    logits = model(input_ids=inputs, use_cache=False).logits  # [B, T, V]
    counted = targets.where(mask, 0)  # -100, say
    losses = cross_entropy(logits.flatten(0, 1), counted.flatten())
    return losses.view_as(targets) * mask


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
        model: Any = build_model(spec, vocab_size, tokens, seed=0, attention="eager", blank=True)
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("batched_mm")  # grouped products are not counted
        inputs = torch.zeros((1, tokens), dtype=torch.int64)
        # given, so that transformers reads no values to make them
        given = {"attention_mask": torch.zeros((1, 1, tokens, tokens))}
        if "position_ids" in signature(model.forward).parameters:
            given["position_ids"] = torch.arange(tokens)[None]
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=inputs, use_cache=False, **given).logits.sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return RowFlops(float(forward.get_total_flops()), float(backward.get_total_flops()))
