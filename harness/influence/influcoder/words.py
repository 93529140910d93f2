"""Rows as bags of words: what an encoder has to beat before it is worth its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from harness.influence.influcoder.encoder import seen

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Batch


def bag_of_words(known: Sequence[Batch], rows: Batch, queries: Batch) -> Tensor:
    """Return TF-IDF cosines [Q, N] of token ids; frequencies are those of the `known` rows."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        message = 'a bag of words needs scikit-learn: pip install "steelyard[influcoder]"'
        raise ImportError(message) from error
    words = TfidfVectorizer(analyzer=str.split)
    words.fit([text for batch in known for text in _texts(batch)])
    one, other = words.transform(_texts(queries)), words.transform(_texts(rows))
    return torch.from_numpy((one @ other.T).toarray())


def _texts(rows: Batch) -> list[str]:
    """Return each row's tokens up to its last counted target, as words."""
    found = seen(rows, rows.inputs.shape[1] + 1)
    pairs = zip(found.tokens.cpu(), found.visible.cpu(), strict=True)
    return [" ".join(map(str, tokens[visible].tolist())) for tokens, visible in pairs]
