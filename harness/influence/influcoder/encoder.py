"""Encoders that turn a row into one vector of length 1: a small one from scratch, or any of text.

`scratch` is a BERT of two layers on the run's own token ids: it needs no text, so it works on
whatever a View offers. It sees a row up to its last counted target, that target included, and is
told which tokens are counted targets (BERT's token types); nothing behind leaks in. Anything else
is a sentence-transformers model, by name or folder, which reads decoded text and is not told.

The price of the small one is that all it knows of the language is what the distillation teaches.
Rows longer than an encoder reads lose their beginning, never their end. Both run in evaluation
mode, without dropout, also while they are trained: equal seeds give equal bits. Rows are taken to
be those of a causal model; a masked one's targets, save the last, are not shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from harness.rng import key

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch

Decode = Callable[[list[int]], str]
SCRATCH = "scratch"


class Encoder(Protocol):
    """A row's embedding."""

    @property
    def module(self) -> nn.Module:
        """Return what is trained."""
        ...

    def __call__(self, rows: Batch) -> Tensor:
        """Return embeddings [N, d] of length 1; zeros for a row without counted targets."""
        ...


class Seen(NamedTuple):
    """The tokens of each row that an encoder may look at."""

    tokens: Tensor  # [N, L] int64, 0 where not visible
    counted: Tensor  # [N, L] int64, 1 where a token is a counted target
    visible: Tensor  # [N, L] bool, none of a row without counted targets


def seen(rows: Batch, limit: int) -> Seen:
    """Return each row up to its last counted target, its last `limit` tokens if it is longer."""
    num_rows, tokens = rows.inputs.shape
    position = torch.arange(1, tokens + 1, device=rows.inputs.device)
    last = (rows.mask * position).amax(1, keepdim=True)  # [N, 1], 0 where nothing counts
    final = rows.targets.gather(1, (last - 1).clamp(min=0))
    all_tokens = torch.cat([rows.inputs, rows.inputs[:, :1]], 1).scatter(1, last, final)
    counted = torch.cat([rows.mask.new_zeros(num_rows, 1), rows.mask], 1)
    place = torch.arange(min(limit, tokens + 1), device=last.device).expand(num_rows, -1)
    place = place + (last + 1 - limit).clamp(min=0)  # [N, L]
    visible = (place <= last) & (last > 0)
    place = place.clamp(max=tokens)
    return Seen(
        all_tokens.gather(1, place).where(visible, 0),
        (counted.gather(1, place) & visible).long(),
        visible,
    )


@dataclass(frozen=True)
class TokenEncoder:
    """A small transformer on token ids, mean-pooled."""

    module: nn.Module
    limit: int

    def __call__(self, rows: Batch) -> Tensor:
        """Return embeddings [N, d]."""
        found = seen(rows, self.limit)
        attended = found.visible.clone()
        attended[:, 0] = True  # a row with nothing visible would be 0 / 0; it is zero below
        hidden = self.module(
            input_ids=found.tokens,
            token_type_ids=found.counted,
            attention_mask=attended,
        ).last_hidden_state  # [N, L, d]
        weight = found.visible[:, :, None].to(hidden.dtype)
        return _unit((hidden * weight).sum(1) / weight.sum(1).clamp(min=1), rows)


@dataclass(frozen=True)
class TextEncoder:
    """A sentence-transformers model on decoded rows."""

    module: nn.Module
    decode: Decode

    def __call__(self, rows: Batch) -> Tensor:
        """Return embeddings [N, d]."""
        found = seen(rows, rows.inputs.shape[1] + 1)
        pairs = zip(found.tokens.cpu(), found.visible.cpu(), strict=True)
        texts = [self.decode(tokens[visible].tolist()) for tokens, visible in pairs]
        model: Any = self.module
        features = model.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=model.max_seq_length,
            return_tensors="pt",
        ).to(rows.inputs.device)
        return _unit(model(dict(features))["sentence_embedding"], rows)


def open_encoder(
    name: str, vocabulary: int, seed: int, decode: Decode | None, device: torch.device
) -> Encoder:
    """Return the untrained encoder: seeded weights from scratch, or a model's own."""
    if name == SCRATCH:
        return _scratch(vocabulary, seed, device)
    if decode is None:
        raise ValueError(
            f"encoder {name!r} reads text: give tokenizer, the run's tokenizer.json; or "
            f"take encoder {SCRATCH!r}, which reads token ids"
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        message = 'influcoder needs sentence-transformers: pip install "steelyard[influcoder]"'
        raise ImportError(message) from error
    model = SentenceTransformer(name, device=str(device)).eval()
    model.tokenizer.truncation_side = "left"
    return TextEncoder(model, decode)


def _scratch(vocabulary: int, seed: int, device: torch.device) -> TokenEncoder:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=None,  # 0 is a token like any other
    )
    # written-out attention: fused kernels gain nothing at this size
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "influcoder encoder"))
        module: Any = BertModel(config, add_pooling_layer=False)
    return TokenEncoder(module.to(device).eval(), config.max_position_embeddings)


def decoder(path: str) -> Decode | None:
    """Return the decoder of a tokenizer.json, or of a folder with a tokenizer; None for ""."""
    if not path:
        return None
    import transformers

    library: Any = transformers

    if Path(path).is_file():
        tokenizer = library.PreTrainedTokenizerFast(tokenizer_file=path)
    elif Path(path).is_dir():
        tokenizer = library.AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    else:
        raise ValueError(f"tokenizer: there is no {path}; give a tokenizer.json or its folder")

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    return decode


def _unit(vectors: Tensor, rows: Batch) -> Tensor:
    """Scale to length 1, and to 0 where nothing counts."""
    scaled = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
    unit: Tensor = scaled * rows.mask.any(1, keepdim=True)
    return unit
