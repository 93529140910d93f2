"""From declared domains to rows of tokens in four disjoint splits, built once and memory-mapped.

sources read documents -> cap -> split by group -> drop near-duplicates -> BPE on train -> streams.
Nothing here imports torch, and a finished corpus opens without reading any text.
"""

from harness.corpus.opening import corpus_id, fingerprint, open_corpus
from harness.corpus.store import TokenStore

__all__ = ["TokenStore", "corpus_id", "fingerprint", "open_corpus"]
