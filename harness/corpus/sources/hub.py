"""A data set of the Hugging Face hub, or a local folder in its form.

What a branch or tag points to is asked for once, with a short patience, and recorded; the data are
then read at that commit. Where the hub cannot be reached, what an earlier start downloaded is used,
or one line says how to go on with local files. Code that comes with a data set is never run. The
only file that imports datasets, and only where text is read.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.corpus.documents import Document
from harness.corpus.sources.columns import Composer, Record
from harness.corpus.sources.files import describe_texts
from harness.corpus.sources.source import Source
from harness.errors import SpecError
from harness.hashes import ContentHashes
from harness.spec import HubDomain

PATIENCE_SECONDS = 5.0
COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find(name: str, domain: HubDomain, hashes: ContentHashes) -> Source:
    """Return a data set as a source, at the commit that its revision points to now."""
    composer = Composer(name, domain)
    splits = _splits(name, domain)
    folder = Path(domain.dataset).expanduser()
    if folder.is_dir():
        revision = f"sha256 {_hash_folder(name, folder, hashes)}"
        path, commit = str(folder), None
    elif not REPOSITORY.fullmatch(domain.dataset):
        raise SpecError(
            f"domains.{name}.dataset: {domain.dataset!r} is no folder here and no name on the hub; "
            "write owner/name, or the path of a folder"
        )
    else:
        path, revision = domain.dataset, _resolve(name, domain)
        commit = revision
    shown = folder.name if commit is None else domain.dataset
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
        f"hub {'' if commit is None else domain.dataset + '@'}{revision[:19]} "
        f"{sha256(repr(identity).encode()).hexdigest()[:16]}",
        domain.license,
        lambda: _read(name, domain, composer, splits, path, commit),
        facts,
    )


def read_rows(where: str, domain: HubDomain, wanted: frozenset[str]) -> Iterator[Any]:
    """Return the rows of `domain.split` as they are; a SpecError speaks of the key `where`."""
    try:
        is_folder = Path(domain.dataset).expanduser().is_dir()
        commit = None if is_folder else _resolve("", domain)
        return iter(_load("", domain, "split", domain.split, domain.dataset, commit, wanted))
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
            whole.update(f"{path.relative_to(folder).as_posix()}\0{hashes.of(path)}\0".encode())
    except OSError as error:
        reason = error.strerror or error
        raise SpecError(
            f"domains.{name}.dataset: {error.filename} cannot be read: {reason}; "
            "give yourself the right to read it"
        ) from None
    return whole.hexdigest()


def _resolve(name: str, domain: HubDomain) -> str:
    """Return the commit that the revision points to: asked of the hub, else of its cache here."""
    if domain.revision is not None and COMMIT.fullmatch(domain.revision):
        return domain.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

    asked = domain.revision or "main"
    try:
        found = HfApi().dataset_info(domain.dataset, revision=asked, timeout=PATIENCE_SECONDS)
        return str(found.sha)
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
    cached = _cached_commit(domain.dataset, asked)
    if cached is None:
        raise SpecError(_unreachable(name, domain.dataset, reason)) from None
    return cached


def _cached_commit(dataset: str, revision: str) -> str | None:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = f"datasets--{dataset.replace('/', '--')}"
    try:
        return (Path(HF_HUB_CACHE) / folder / "refs" / revision).read_text().strip()
    except OSError:
        return None


def _unreachable(name: str, dataset: str, error: BaseException) -> str:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    why = "HF_HUB_OFFLINE is set" if offline else _one_line(error)
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
    path: str,
    commit: str | None,
) -> Iterator[Document]:
    for theirs, ours in splits.items():
        key = "split" if ours is None else f"splits.{ours}"
        rows = iter(_load(name, domain, key, theirs, path, commit, composer.columns))
        for number in itertools.count(1):
            if domain.max_rows is not None and number > domain.max_rows:
                break
            try:
                values = next(rows, None)
            except Exception as error:  # of datasets, of the network, of a damaged file
                raise SpecError(_failed(name, domain, "dataset", error)) from None
            if values is None:
                break
            record = Record(
                f"{theirs}:{number}", f"{domain.dataset} {theirs}, row {number}", values
            )
            yield composer.document(record, ours)


def _load(
    name: str,
    domain: HubDomain,
    key: str,
    split: str,
    path: str,
    commit: str | None,
    wanted: frozenset[str],
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
    try:
        known = datasets.get_dataset_split_names(path, domain.config, revision=commit)
    except Exception as error:  # what a folder or a repository is not
        raise SpecError(_failed(name, domain, "dataset", error)) from None
    if split.partition("[")[0] not in known:
        raise SpecError(
            f"domains.{name}.{key}: {domain.dataset} has no split {split!r} but "
            f"{', '.join(map(repr, known))}; name one of them"
        )
    try:
        rows = datasets.load_dataset(
            path, domain.config, split=split, revision=commit, streaming=domain.streaming
        )
    except Exception as error:
        raise SpecError(_failed(name, domain, "dataset", error)) from None
    names = rows.column_names
    return rows.select_columns(sorted(wanted)) if names and wanted <= set(names) else rows


def _failed(name: str, domain: HubDomain, key: str, error: BaseException) -> str:
    if isinstance(error, ConnectionError) or "offline" in type(error).__name__.lower():
        return _unreachable(name, domain.dataset, error)
    return (
        f"domains.{name}.{key}: {domain.dataset!r} cannot be loaded ({_one_line(error)}); "
        'correct dataset, config or split, or point the domain at files: kind = "files"'
    )
