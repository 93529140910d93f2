"""What is refused or said of the train rows before the first step of a fine-tuning.

A later stage that cannot be done with these rows would otherwise say so when the training, the
expensive part, is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.assemble import open_shelf
from harness.attribution.fit_key import refuse_too_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.attribution.spec import Attribution
    from harness.corpus import TokenStore

    Say = Callable[[str], None]


def check_pool(spec: Attribution, store: TokenStore, say: Say) -> None:
    """Refuse settings that ask for more rows than there will be to attribute; SpecError."""
    shelf = open_shelf(store, "train", store.trained, spec.batch)
    size = sum(len(shelf.telling_rows(domain)) for domain in store.trained)
    refuse_too_many(spec.factors, size)
    wanted = spec.scores.rows
    if wanted is not None and wanted > size:
        say(f"note: scores.rows: {wanted}, but the pool has {size} rows; all of them are scored")
