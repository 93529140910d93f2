"""A data set of the Hugging Face hub, or a local folder in its form.

What a branch or tag points to is asked for once, with a short patience, and recorded; the data are
then read at that commit. Where the hub cannot be reached, it is not asked again: what an earlier
start downloaded is used, or one line says how to go on with local files. Code that comes with a
data set is never run. The only file that imports datasets, and only where text is read.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from harness.corpus.documents import Document
from harness.corpus.sources.columns import Composer, Record
from harness.corpus.sources.files import describe_texts, spelled
from harness.corpus.sources.source import Source
from harness.errors import SpecError
from harness.hashes import ContentHashes
from harness.spec import HubDomain

PATIENCE_SECONDS = 5.0
COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Place(NamedTuple):
    """Where a data set is read."""

    path: str
    commit: str | None = None
    """None for a folder."""
    silence: str | None = None
    """Why the hub did not answer; an earlier start knew the commit."""


def find(name: str, domain: HubDomain, hashes: ContentHashes) -> Source:
    """Return a data set as a source, at the commit that its revision points to now."""
    composer = Composer(name, domain)
    splits = _splits(name, domain)
    folder = Path(os.path.expanduser(domain.dataset))
    if folder.is_dir():
        place, revision = Place(str(folder)), f"sha256 {_hash_folder(name, folder, hashes)}"
    elif not REPOSITORY.fullmatch(domain.dataset):
        raise SpecError(
            f"domains.{name}.dataset: {domain.dataset!r} is no folder here and no name on the hub; "
            "write owner/name, or the path of a folder"
        )
    else:
        place = _resolve(name, domain)
        revision = str(place.commit)
    shown = folder.name if place.commit is None else domain.dataset
    facts = {
        "dataset": shown,
        "config": domain.config,
        "revision": revision,
        "hub_splits": {ours or "all": theirs for theirs, ours in splits.items()},
        "max_rows": domain.max_rows,
        **describe_texts(domain),
    }
    identity = [revision, domain.config, domain.max_rows, *splits]
    return Source(
        f"hub {'' if place.commit is None else domain.dataset + '@'}{revision[:19]} "
        f"{sha256(repr(identity).encode()).hexdigest()[:16]}",
        domain.license,
        lambda: _read(name, domain, composer, splits, place),
        facts,
    )


def read_rows(where: str, domain: HubDomain, wanted: frozenset[str]) -> Iterator[Any]:
    """Return the rows of `domain.split` as they are; a SpecError speaks of the key `where`."""
    try:
        folder = Path(os.path.expanduser(domain.dataset))
        place = Place(str(folder)) if folder.is_dir() else _resolve("", domain)
        place = _pinned(domain, place)
        return iter(_load("", domain, "split", domain.split, place, wanted))
    except SpecError as error:
        raise SpecError(str(error).replace("domains.", where, 1)) from None


def _splits(name: str, domain: HubDomain) -> dict[str, str | None]:
    """Return our split of each split on the hub; None for one that we cut."""
    if not domain.splits:
        return {domain.split: None}
    found: dict[str, str | None] = {}
    for ours, theirs in domain.splits.items():
        if theirs in found:
            raise SpecError(
                f"domains.{name}.splits.{ours}: {theirs!r} is also splits.{found[theirs]}; "
                "a text can be in one split only, so remove one"
            )
        found[theirs] = ours
    return found


def _hash_folder(name: str, folder: Path, hashes: ContentHashes) -> str:
    whole, files = sha256(), [path for path in sorted(folder.rglob("*")) if path.is_file()]
    visible = [p for p in files if not any(x[0] == "." for x in p.relative_to(folder).parts)]
    if not visible:
        raise SpecError(f"domains.{name}.dataset: the folder {folder} has no file; name another")
    try:
        for path in visible:
            whole.update(f"{spelled(path.relative_to(folder))}\0{hashes.of(path)}\0".encode())
    except OSError as error:
        reason = error.strerror or error
        raise SpecError(
            f"domains.{name}.dataset: {error.filename} cannot be read: {reason}; "
            "give yourself the right to read it"
        ) from None
    return whole.hexdigest()


def _resolve(name: str, domain: HubDomain) -> Place:
    """Return the commit that the revision points to: asked of the hub, else of its cache here."""
    if domain.revision is not None and COMMIT.fullmatch(domain.revision):
        return Place(domain.dataset, domain.revision)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

    asked = domain.revision or "main"
    try:
        found = HfApi().dataset_info(domain.dataset, revision=asked, timeout=PATIENCE_SECONDS)
        return Place(domain.dataset, str(found.sha))
    except RevisionNotFoundError:
        raise SpecError(
            f"domains.{name}.revision: {domain.dataset} has no {asked!r}; name a commit, tag or "
            "branch that it has"
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status < 500:
            raise SpecError(
                f"domains.{name}.dataset: the hub refuses {domain.dataset!r} (status {status}): "
                "no such name, or it is private; correct it, or log in (hf auth login)"
            ) from None
        reason: Exception = error
    except Exception as error:  # a dozen kinds of no network, of three libraries
        reason = error
    cached = _cached_commit(domain, asked)
    if cached is None:
        raise SpecError(_unreachable(name, domain.dataset, _one_line(reason))) from None
    return Place(domain.dataset, cached, _one_line(reason))


def _cached_commit(domain: HubDomain, revision: str) -> str | None:
    """Return what a revision was by the hub's cache, or for `main` what was read here last."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = f"datasets--{domain.dataset.replace('/', '--')}"
    try:
        return (Path(HF_HUB_CACHE) / folder / "refs" / revision).read_text().strip()
    except OSError:  # who reads at a commit, as we do, writes no such file
        return _commit_here(domain) if revision == "main" else None


def _commit_here(domain: HubDomain) -> str | None:
    """Return the commit that datasets has on this machine, the last one that it read."""
    try:
        import datasets

        with _offline():
            found = str(datasets.load_dataset_builder(domain.dataset, domain.config).hash)
    except Exception:  # there is none, or no package
        return None
    return found if COMMIT.fullmatch(found) else None


def _pinned(domain: HubDomain, place: Place) -> Place:
    """Return the place of a commit that the spec names, with why the hub does not answer, if so.

    Asked where text is read and not before: what is pinned needs no network to be named.
    """
    if place.commit is None or place.commit != domain.revision:
        return place
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(domain.dataset, revision=place.commit, timeout=PATIENCE_SECONDS)
    except HfHubHTTPError:
        return place  # it answers; what it says is told by who reads
    except Exception as error:
        return place._replace(silence=_one_line(error))
    return place


def _unreachable(name: str, dataset: str, reason: str) -> str:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    why = "HF_HUB_OFFLINE is set" if offline else reason
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return (
        f"domains.{name}.dataset: {dataset!r} cannot be read, since {host} cannot be reached "
        f"({why}); on a machine with a network download its files, and point the domain at them: "
        'kind = "files", paths = ["FOLDER"]'
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def _read(
    name: str,
    domain: HubDomain,
    composer: Composer,
    splits: Mapping[str, str | None],
    place: Place,
) -> Iterator[Document]:
    place = _pinned(domain, place)
    for theirs, ours in splits.items():
        key = "split" if ours is None else f"splits.{ours}"
        rows = iter(_load(name, domain, key, theirs, place, composer.columns))
        for number in itertools.count(1):
            if domain.max_rows is not None and number > domain.max_rows:
                break
            try:
                values = next(rows, None)
            except Exception as error:  # of datasets, of the network, of a damaged file
                raise SpecError(_failed(name, domain, place, error)) from None
            if values is None:
                break
            record = Record(
                f"{theirs}:{number}", f"{domain.dataset} {theirs}, row {number}", values
            )
            yield composer.document(record, ours)


def _load(
    name: str, domain: HubDomain, key: str, split: str, place: Place, wanted: frozenset[str]
) -> Any:
    """Return the rows of one split on the hub, with the wanted columns if they are all there."""
    try:
        import datasets
    except ImportError:
        raise SpecError(
            f"domains.{name}.kind: hub needs the package datasets, which is not installed; "
            'pip install "steelyard[data]"'
        ) from None
    datasets.disable_progress_bars()
    with nullcontext() if place.silence is None else _offline():
        known = _split_names(name, domain, place)
        if split.partition("[")[0] not in known:
            raise SpecError(
                f"domains.{name}.{key}: {domain.dataset} has no split {split!r} but "
                f"{', '.join(map(repr, known))}; name one of them"
            )
        where: dict[str, Any] = {"revision": place.commit, "streaming": domain.streaming}
        try:
            rows = datasets.load_dataset(place.path, domain.config, split=split, **where)
        except Exception as error:
            raise SpecError(_failed(name, domain, place, error)) from None
    names = rows.column_names
    return rows.select_columns(sorted(wanted)) if names and wanted <= set(names) else rows


@contextmanager
def _offline() -> Iterator[None]:
    """Keep both libraries from the network: a hub that is silent would be waited for minutes.

    They read their flags whenever they would ask; datasets' own is enough for old hub libraries,
    whose sessions remember the other.
    """
    import datasets
    import huggingface_hub.constants as constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _split_names(name: str, domain: HubDomain, place: Place) -> list[str]:
    """Return the splits of a data set; SpecError where there is none, or another commit is here."""
    import datasets

    try:
        if place.silence is not None:  # offline, datasets takes what it has, of whatever commit
            here = datasets.load_dataset_builder(place.path, domain.config).hash
        known: list[str] = datasets.get_dataset_split_names(
            place.path, domain.config, revision=place.commit
        )
    except Exception as error:  # what a folder or a repository is not
        raise SpecError(_failed(name, domain, place, error)) from None
    if place.silence is not None and here != place.commit:
        raise SpecError(
            f"domains.{name}.revision: {place.commit} is asked for, the hub does not answer, and "
            f"what is here of {domain.dataset} is {here}; set that as revision, or go on where the "
            "hub can be reached"
        )
    return known


def _failed(name: str, domain: HubDomain, place: Place, error: BaseException) -> str:
    if place.silence is not None:
        reason = f"{place.silence}; of an earlier start: {_one_line(error)}"
        return _unreachable(name, domain.dataset, reason)
    if isinstance(error, ConnectionError) or "offline" in type(error).__name__.lower():
        return _unreachable(name, domain.dataset, _one_line(error))
    return (
        f"domains.{name}.dataset: {domain.dataset!r} cannot be loaded ({_one_line(error)}); "
        'correct dataset, config or split, or point the domain at files: kind = "files"'
    )
