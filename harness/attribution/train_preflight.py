"""What is refused or said of the train rows before the first step of a fine-tuning.

A later stage that cannot be done with these rows would otherwise say so when the training, the
expensive part, is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.assemble import open_shelf
from harness.attribution.fit_key import refuse_too_many
from harness.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harness.attribution.spec import Attribution
    from harness.corpus import TokenStore
    from harness.spec import Batching

    Say = Callable[[str], None]


MOST = 0.5  # of a domain's rows: without so many, what is trained is not what was asked for


def check_pool(spec: Attribution, store: TokenStore, say: Say) -> None:
    """Refuse rows that teach nothing, and settings that ask for more rows than there are.

    SpecError where most rows of a domain have no target, or `factors.rows` cannot be had.
    """
    shelf = open_shelf(store, "train", store.trained, spec.batch)
    size = 0
    for domain in store.trained:
        rows, telling = shelf.num_rows(domain), len(shelf.telling_rows(domain))
        size += telling
        if telling < rows:
            _tell_silent(domain, rows - telling, rows, spec.batch, say)
    refuse_too_many(spec.factors, size)
    wanted = spec.scores.rows
    if wanted is not None and wanted > size:
        say(f"note: scores.rows: {wanted}, but the pool has {size} rows; all of them are scored")


def _tell_silent(domain: str, silent: int, rows: int, batch: Batching, say: Say) -> None:
    what = f"domains.{domain}: {silent:,} of {rows:,} train rows have no target within"
    why = f"{what} {batch.tokens} tokens: the prompt fills them"
    if batch.pack:  # where the answer begins is in another row
        say(f"note: {why}; they teach nothing and are not attributed")
        return
    why, fix = f"{why}, and the answer is cut away", "raise batch.tokens, or shorten the prompt"
    if silent > MOST * rows:
        raise SpecError(f"{why}; {fix}")
    say(f"WARNING: {why}, so they teach nothing and are not attributed; {fix}")


def tell_data(warnings: Iterable[Mapping[str, Any]], say: Say) -> None:
    """Say what a run's header has of warnings on the data, in its order."""
    for warning in warnings:
        say(f"{'WARNING' if warning['loud'] else 'note'}: {warning['text']}")
