"""Reading a source of any size while holding about as much of it as `max_bytes` keeps.

Which documents the cap keeps is decided by the hashes of their groups, so a group can be let go as
soon as groups before it are sure to fill the cap. What is kept is what `cap` keeps of everything:
a group is counted by its first document alone, which no limit on a group's share leaves out. As a
document that comes later may be first in its group and shorter, the count is taken again at the
end, and where it falls short the source is read once more with more room. The price: where few
groups hold much text, up to `max_bytes` of each are held.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from harness.corpus.documents import Document, hash_key
from harness.corpus.sources import Source
from harness.corpus.splitting import cap
from harness.corpus.spool import Spool


@dataclass
class Reading:
    """What was read of a domain, and what the cap keeps of it."""

    kept: list[Document] = field(default_factory=list)
    num_read: int = 0
    num_blank: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of all text that is not blank, by ready split."""


def read_capped(
    source: Source,
    max_bytes: int | None,
    spool: Spool,
    progress: Callable[[str], None] = lambda _: None,
) -> Reading:
    """Return the documents that `cap` keeps of those of a source that say something.

    Texts of those that may be kept are in the spool, and not in memory.
    """
    room, begin = max_bytes, spool.size
    while True:
        reading = Reading()
        whole = _counted(source.read(), reading)
        if room is None or max_bytes is None:
            reading.kept = cap(list(map(spool.put, whole)), None)
            return reading
        first = _first_groups(whole, room, spool)
        if first.is_whole or first.is_enough(max_bytes):
            reading.kept = cap(first.documents(), max_bytes, reading.sizes)
            return reading
        room *= 4
        spool.rewind(begin)
        progress(f"corpus: reading {source.fingerprint} again, with room for {room:,} bytes")


def _counted(documents: Iterable[Document], reading: Reading) -> Iterator[Document]:
    """Yield documents in which there is anything to predict but white space; count them all."""
    for document in documents:
        reading.num_read += 1
        if document.text[document.prompt_chars :].strip():
            key = document.split or ""
            reading.sizes[key] = reading.sizes.get(key, 0) + document.num_bytes
            yield document
        else:
            reading.num_blank += 1


@dataclass
class _Group:
    """The documents of a group that the cap may keep: the first in its order that fill `room`."""

    room: int
    spool: Spool
    held: list[tuple[int, int, Document]] = field(default_factory=list)  # a heap, the last on top
    filled: int = 0

    def add(self, number: int, document: Document) -> None:
        place = -int.from_bytes(hash_key(document.name))
        if self.filled >= self.room and (place, number) < self.held[0][:2]:
            return  # it would have to go at once
        heapq.heappush(self.held, (place, number, self.spool.put(document)))
        self.filled += document.num_bytes
        while self.filled - self.held[0][2].num_bytes >= self.room:
            self.filled -= heapq.heappop(self.held)[2].num_bytes


@dataclass
class _Split:
    """The first groups of one split: as many as fill `room`, by the least document of each."""

    room: int
    spool: Spool
    groups: dict[str, _Group] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)
    last: list[tuple[int, str]] = field(default_factory=list)  # a heap, the last group on top
    filled: int = 0
    border: int | None = None  # the first group that was let go; none after it comes in

    def add(self, number: int, document: Document) -> None:
        place = -int.from_bytes(hash_key(document.group))
        if self.border is not None and place <= self.border:
            return
        is_new = document.group not in self.groups
        if is_new and self.filled >= self.room and place < self.last[0][0]:
            self.border = place  # it would have to go at once
            return
        if is_new:
            self.groups[document.group] = _Group(self.room, self.spool)
            heapq.heappush(self.last, (place, document.group))
            self.least[document.group] = document.num_bytes
            self.filled += document.num_bytes
        self.groups[document.group].add(number, document)
        shorter = min(self.least[document.group], document.num_bytes)
        self.filled -= self.least[document.group] - shorter
        self.least[document.group] = shorter
        while self.filled - self.least[self.last[0][1]] >= self.room:
            self.border, gone = heapq.heappop(self.last)
            self.filled -= self.least.pop(gone)
            del self.groups[gone]


@dataclass
class _First:
    """The first groups of every split, and the documents in the order in which they came."""

    splits: dict[str, _Split]

    @property
    def is_whole(self) -> bool:
        return all(split.border is None for split in self.splits.values())

    def is_enough(self, max_bytes: int) -> bool:
        """Tell whether what was let go lies behind the cap, by the documents that stayed."""
        return all(s.border is None or s.filled >= max_bytes for s in self.splits.values())

    def documents(self) -> list[Document]:
        groups = (group for split in self.splits.values() for group in split.groups.values())
        numbered = [entry[1:] for group in groups for entry in group.held]
        return [document for _, document in sorted(numbered, key=itemgetter(0))]


def _first_groups(documents: Iterable[Document], room: int, spool: Spool) -> _First:
    found = _First({})
    for number, document in enumerate(documents):
        key = document.split or ""
        if key not in found.splits:
            found.splits[key] = _Split(room, spool)
        found.splits[key].add(number, document)
    return found
