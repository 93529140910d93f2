"""Which documents are kept under a size cap, and which of four splits each belongs to.

Whole groups go to one split, by size: in keyed-hash order, each to the split that lacks most of
its target, among those that the group does not overfill. Where a domain has too few groups for
that, its documents are the groups, and the manifest says so; groups that the user named are not
given up so, and the domain is refused. The price of groups: the splits of a domain are less alike
than a random sample would be, as new data always are.

Ready splits stay as their source declares them, and one that lacks is cut from ready training text,
never from text that others hold out.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple

from harness.corpus.documents import SPLITS, Document, Placed, hash_key, in_hash_order
from harness.errors import SpecError
from harness.spec import Splits

MIN_GROUPS = 12  # below this, a 5 % split is a matter of luck
LARGEST_SHARES = (1 / 3, 1, 2)  # of a split's target that one group may have; the first that works
CAP_SHARE = 1 / 24  # of max_bytes that one group may have while others are left


class Placement(NamedTuple):
    """Every document of a domain with its split, and what was kept together."""

    documents: list[Placed]
    unit: str
    """`group`, or `document` where groups were too few or too uneven, or `ready split`."""


def cap(
    documents: list[Document], max_bytes: int | None, sizes: Mapping[str, int] | None = None
) -> list[Document]:
    """Keep groups in keyed-hash order up to `max_bytes`, none with more than a 24th of it.

    What lies beyond a group's share is taken last, so that four splits always find enough groups.
    Ready splits keep their proportions, those of `sizes` in bytes if documents are not all there
    were.
    """
    parts: dict[str, list[Document]] = {}
    for document in documents:
        parts.setdefault(document.split or "", []).append(document)
    if sizes is None:
        sizes = {key: sum(document.num_bytes for document in part) for key, part in parts.items()}
    total = sum(sizes.values())
    if max_bytes is None or total <= max_bytes:
        return documents
    return [
        document
        for key, size in sizes.items()
        for document in _cap(parts[key], max_bytes * size // total)
    ]


def _cap(documents: list[Document], max_bytes: int) -> list[Document]:
    ranked: list[tuple[bool, bytes, int, Document]] = []
    for group, members in _groups(documents).items():
        size = 0
        for document in members:
            size += document.num_bytes
            beyond = size > max(max_bytes * CAP_SHARE, members[0].num_bytes)
            ranked.append((beyond, hash_key(group), len(ranked), document))
    kept, total = [], 0
    for *_, document in sorted(ranked, key=lambda entry: entry[:3]):
        if total >= max_bytes:
            break
        kept.append(document)
        total += document.num_bytes
    return kept


def split(
    domain: str, documents: list[Document], shares: Splits, group: str | None = None
) -> Placement:
    """Assign every document to train, probe, tuning or held-out.

    `group` is the column that the user has named: SpecError where its values cannot be kept whole.
    """
    targets = {"probe": shares.probe, "tuning": shares.tuning, "heldout": shares.heldout}
    ready = {document.split for document in documents} - {None}
    if ready:
        lacking = {name: share for name, share in targets.items() if name not in ready}
        return _split_ready(domain, documents, lacking, group)
    placement = _cut(domain, documents, targets, group)
    refuse_empty(domain, placement.documents)
    return placement


def _split_ready(
    domain: str, documents: list[Document], lacking: dict[str, float], group: str | None
) -> Placement:
    """Keep ready splits, and cut those that lack from ready training text."""
    _refuse_torn_groups(domain, documents)
    kept = [Placed(domain, d.split, d) for d in documents if d.split not in (None, "train")]
    source = [document for document in documents if document.split == "train"]
    if lacking and not source:
        raise SpecError(
            f"domains.{domain}.splits: {' and '.join(lacking)} lack, and there is no train to cut "
            "them from; add them, or train"
        )
    if not lacking:
        kept += [Placed(domain, "train", document) for document in source]
        return Placement(kept, "ready split")
    placed, unit = _cut(domain, source, lacking, group)
    refuse_empty(domain, kept + placed)
    return Placement(kept + placed, unit)


def _refuse_torn_groups(domain: str, documents: list[Document]) -> None:
    first: dict[str, Document] = {}
    for document in documents:
        other = first.setdefault(document.group, document)
        if other.split != document.split:
            raise SpecError(
                f"domains.{domain}.group: {document.group[:60]!r} is in the ready splits "
                f"{other.split} ({other.name}) and {document.split} ({document.name}); groups stay "
                "together, so move its rows, or drop group"
            )


def _cut(
    domain: str, documents: list[Document], targets: dict[str, float], group: str | None
) -> Placement:
    """Assign every document to train or to a split of `targets`, shares of the whole."""
    groups = _groups(documents)
    unit = "group"
    places = _assign_evenly(groups, targets) if len(groups) >= MIN_GROUPS else None
    if places is None:
        if group is not None and len(groups) < len(documents):
            raise SpecError(f"domains.{domain}.group: {_why_torn(group, groups)}")
        unit = "document"
        groups = {document.name: [document] for document in in_hash_order(documents)}
        places = _assign_evenly(groups, targets) or _deal(list(groups), targets)
    placed = [
        Placed(domain, places[key], document)
        for key, members in groups.items()
        for document in members
    ]
    return Placement(placed, unit)


def _why_torn(group: str, groups: dict[str, list[Document]]) -> str:
    """Return why the values of a column cannot each stay in one split, and the fix."""
    sizes = [sum(document.num_bytes for document in members) for members in groups.values()]
    if len(groups) < MIN_GROUPS:
        values = f"{len(groups)} value{'s'[: len(groups) - 1]}"
        why = f"has {values}, and to keep each in a split takes {MIN_GROUPS}"
    else:
        largest = max(sizes) / sum(sizes)
        why = f"has {len(groups)} values too uneven to keep each in a split (one is {largest:.0%})"
    return f"{group!r} {why}; give it more of them, or make all four splits ready, or drop group"


def refuse_empty(domain: str, placed: list[Placed], trained: bool = True) -> None:
    """Raise a SpecError if a split of the domain has no document; only training needs `train`."""
    counts = {name: sum(entry.split == name for entry in placed) for name in SPLITS}
    for name, count in counts.items():
        if count == 0 and (trained or name != "train"):
            found = ", ".join(f"{key} {value}" for key, value in counts.items())
            raise SpecError(
                f"domains.{domain}: no document is left for its {name} split ({found}); "
                "give the domain more documents (a larger max_bytes), or another share in splits"
            )


def _groups(documents: list[Document]) -> dict[str, list[Document]]:
    ordered = sorted(documents, key=lambda d: (hash_key(d.group), d.group, hash_key(d.name)))
    return {key: list(members) for key, members in groupby(ordered, key=lambda d: d.group)}


def _assign_evenly(
    groups: dict[str, list[Document]], shares: dict[str, float]
) -> dict[str, str] | None:
    """Return the split of each group; None if a split would stay under half of its target.

    A split of one large group would say little about the domain, so small groups are tried first.
    """
    sizes = {key: sum(d.num_bytes for d in members) for key, members in groups.items()}
    total = sum(sizes.values())
    targets = {name: share * total for name, share in shares.items()}
    targets["train"] = total - sum(targets.values())
    for largest in LARGEST_SHARES:
        places = _assign(sizes, targets, largest)
        filled = {name: sum(sizes[k] for k, at in places.items() if at == name) for name in targets}
        if all(filled[name] >= targets[name] / 2 and filled[name] for name in targets):
            return places
    return None


def _assign(sizes: dict[str, int], targets: dict[str, float], largest: float) -> dict[str, str]:
    names = [name for name in SPLITS if name in targets]
    filled = dict.fromkeys(names, 0)
    places = {}
    for key, size in sizes.items():
        # Half of a group may lie beyond the target: the split then ends closer to it with the
        # group than without. Training takes what fits nowhere.
        fitting = [
            name
            for name in names
            if size <= 2 * (targets[name] - filled[name])
            and (name == "train" or size <= largest * targets[name])
        ]
        place = max(
            fitting or ["train"], key=lambda name: (targets[name] - filled[name]) / targets[name]
        )
        places[key] = place
        filled[place] += size
    return places


def _deal(keys: list[str], targets: dict[str, float]) -> dict[str, str]:
    """Give each split one document and training the rest, where there are only a few."""
    firsts = ["train", *(name for name in ("heldout", "probe", "tuning") if name in targets)]
    return {key: firsts[i] if i < len(firsts) else "train" for i, key in enumerate(keys)}
