"""Security: the weaknesses of the CWE catalog, with their code examples.

A document is a weakness, a group is its family: the highest ancestor below the ten pillars. A
passage of 200 characters or more that an earlier weakness has too (mitigations and detection
methods are shared) is left out, or it would stand in training and held-out data at once. Deprecated
entries and everything about the catalog itself (history, mappings, references) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from harness.corpus.documents import MIN_CHARACTERS, Document

Element = ElementTree.Element
NAMESPACES = {"c": "http://cwe.mitre.org/cwe-7"}
RESEARCH_VIEW = "1000"  # the one hierarchy that holds every weakness
SECTIONS = (
    "Description",
    "Extended_Description",
    "Background_Details",
    "Modes_Of_Introduction",
    "Common_Consequences",
    "Detection_Methods",
    "Potential_Mitigations",
    "Demonstrative_Examples",
    "Observed_Examples",
    "Notes",
)
LEFT_OUT = {"Link", "Entry_ID"}
LINES = re.compile(r"\s*\n\s*")


def read(root: Path) -> Iterator[Document]:
    """Yield the weaknesses of the package at `root`."""
    catalog = max(root.glob("database_*/cwec_*.xml"), default=root / "database_*/cwec_*.xml")
    weaknesses = ElementTree.parse(catalog).getroot().findall("c:Weaknesses/c:Weakness", NAMESPACES)
    parents = {weakness.get("ID", ""): _parent(weakness) for weakness in weaknesses}
    seen: set[str] = set()
    for weakness in sorted(weaknesses, key=lambda element: int(element.get("ID", ""))):
        number = weakness.get("ID", "")
        text = "\n".join([f"{weakness.get('Name')}.", *_passages(weakness, seen)])
        if weakness.get("Status") != "Deprecated" and len(text) >= MIN_CHARACTERS:
            yield Document(f"CWE-{number}", f"CWE-{_family(number, parents)}", text)


def _passages(weakness: Element, seen: set[str]) -> Iterator[str]:
    for section in SECTIONS:
        for parent in weakness.findall(f"c:{section}", NAMESPACES):
            for part in list(parent) or [parent]:
                passage = LINES.sub("\n", "".join(_flatten(part))).strip()
                if passage and passage not in seen:
                    yield passage
                if len(passage) >= MIN_CHARACTERS:
                    seen.add(passage)


def _flatten(element: Element) -> Iterator[str]:
    if element.tag.split("}")[-1] in LEFT_OUT:
        return
    yield element.text or ""
    for child in element:
        is_inline = child.tag.split("}")[-1] in {"b", "i", "sup", "code"}
        yield "" if is_inline else "\n"
        yield from _flatten(child)
        yield ("" if is_inline else "\n") + (child.tail or "")


def _parent(weakness: Element) -> str | None:
    for relation in weakness.findall("c:Related_Weaknesses/c:Related_Weakness", NAMESPACES):
        facts = relation.get("Nature"), relation.get("View_ID"), relation.get("Ordinal")
        if facts == ("ChildOf", RESEARCH_VIEW, "Primary"):
            return relation.get("CWE_ID")
    return None


def _family(number: str, parents: dict[str, str | None]) -> str:
    """Return the highest ancestor that has a parent, or the entry itself if it is a pillar."""
    while (parent := parents.get(number)) and parents.get(parent):
        number = parent
    return number
