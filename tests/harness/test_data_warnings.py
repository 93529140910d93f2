"""What is said of data before training, and how loudly."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from baselines.static import Static
from harness.api import Mixer
from harness.corpus import open_corpus
from harness.data_warnings import DataWarning, log, warnings_of, warnings_of_run
from harness.display import TerminalDisplay
from harness.resolve import resolve
from harness.spec import Ablation, Arm, Budget, SyntheticDomain, Tokenizer

ORDER = {"units": 9000, "distinct": 900, "entropy": 8.0, "order": 0.2, "compression": 0.85}
EVEN = {"units": 9000, "distinct": 0.5, "entropy": 0.8}


def ablation(**domains: SyntheticDomain) -> Ablation:
    """Return an ablation of one arm, by default on three languages."""
    default = {name: SyntheticDomain(seed=seed) for seed, name in enumerate("abc")}
    return Ablation(
        name="any",
        target="a",
        seeds=(0,),
        domains=domains or default,  # type: ignore[arg-type]
        arms={"one": Arm(method="static", settings=Static())},
        baseline="one",
        budget=Budget(steps=100),
        tokenizer=Tokenizer(vocab_size=512),
    )


def manifest() -> dict[str, Any]:
    """Return the manifest of three domains that nothing is to be said of."""
    splits = {
        split: {"documents": n, "groups": n, "tokens": 1000 * n, "bytes": 3500 * n}
        for split, n in {"train": 900, "probe": 50, "tuning": 50, "heldout": 100}.items()
    }
    domain = {
        "train": True,
        "split_unit": "group",
        "splits": splits,
        "documents_kept": 1100,
        "copies_of": {"a": 70},
        "removed": {split: {"exact": 0, "near": 0} for split in splits},
    }
    measures = {unit: ORDER for unit in ("words", "tokens", "characters")} | {"evenness": EVEN}
    apart = {"divergence": 0.3, "reference": 0.05, "spread": 0.004}
    facts: dict[str, Any] = json.loads(  # a copy in which no two domains share a table
        json.dumps(
            {
                "tokenizer": {"vocab_size": 4096},
                "domains": {name: domain for name in "abc"},
                "text": {
                    "domains": {name: measures for name in "abc"},
                    "pairs": [
                        {"domains": list(pair), "blocks": 64, "tokens": apart, "token_pairs": apart}
                        for pair in ("ab", "ac", "bc")
                    ],
                },
            }
        )
    )
    return facts


def said(change: Callable[[dict[str, Any]], None]) -> list[DataWarning]:
    """Return the warnings of a changed manifest."""
    facts = manifest()
    change(facts)
    return warnings_of(ablation(), facts)


def test_nothing_is_said_of_good_data() -> None:
    assert warnings_of(ablation(), manifest()) == []


def alike(*pairs: str) -> Callable[[dict[str, Any]], None]:
    """Return a change that makes domains alike."""

    def change(facts: dict[str, Any]) -> None:
        same = {"divergence": 0.051, "reference": 0.05, "spread": 0.004}
        for pair in facts["text"]["pairs"]:
            if "".join(pair["domains"]) in pairs:
                pair |= {"tokens": same, "token_pairs": same}

    return change


def noise(facts: dict[str, Any]) -> None:
    """Make domain b random."""
    facts["text"]["domains"]["b"]["words"] = {**ORDER, "order": -0.001, "compression": 1.0}


def few(facts: dict[str, Any]) -> None:
    facts["domains"]["b"]["splits"]["heldout"]["groups"] = 4


def few_of_ready_splits(facts: dict[str, Any]) -> None:
    few(facts)
    facts["domains"]["b"]["split_unit"] = "ready split"
    facts["domains"]["b"]["splits"]["heldout"]["documents"] = 3


def repeats(facts: dict[str, Any]) -> None:
    facts["domains"]["b"]["splits"]["train"] |= {"tokens": 128 * 100 + 1, "bytes": 44_800}


def in_bytes(facts: dict[str, Any]) -> None:
    facts["domains"]["b"]["splits"]["train"]["tokens"] = 3_000_000


def copies(facts: dict[str, Any]) -> None:
    facts["domains"]["b"]["removed"]["train"] = {"exact": 30, "near": 40}


@pytest.mark.parametrize(
    ("change", "code", "domain", "is_loud", "words"),
    [
        (noise, "random", "b", True, "domains.b looks random (b: a word tells 0.0% of the next"),
        (alike("ab", "ac", "bc"), "alike", "a, b, c", True, "All domains look alike"),
        (alike("bc"), "alike", "b, c", False, "Domains that look alike: b and c"),
        (few, "few", "b", False, "few independent groups in a split (heldout 4)"),
        (
            few_of_ready_splits,
            "few",
            "b",
            False,
            "few independent documents in a split (heldout 3)",
        ),
        (
            repeats,
            "repeats",
            "b",
            False,
            "reads its 100 train rows 5.3 times, and it would be 16.0",
        ),
        (in_bytes, "bytes", "b", False, "1.05 bytes per token, where the best domain has 3.50"),
        (copies, "copies", "b", False, "70 of 1,100 documents (6%) repeated others"),
    ],
)
def test_each_trouble_is_named_with_its_domain_and_figures(
    change: Callable[[dict[str, Any]], None], code: str, domain: str, is_loud: bool, words: str
) -> None:
    (warning,) = said(change)

    assert (warning.code, warning.domain, warning.loud) == (code, domain, is_loud)
    assert words in warning.text
    assert warning.figures
    assert warning.text.endswith(".")


def test_loud_warnings_come_first_and_say_why_rebalancing_cannot_work() -> None:
    def change(facts: dict[str, Any]) -> None:
        for one in (copies, few, noise, alike("ab", "ac", "bc")):
            one(facts)

    found = said(change)

    assert [w.loud for w in found] == [True, True, False, False]
    assert all("rebalancing cannot work" in w.text for w in found if w.loud)


def test_a_set_number_of_repetitions_takes_the_place_of_four() -> None:
    facts = manifest()
    repeats(facts)

    assert warnings_of(replace(ablation(), max_repetitions=6.0), facts) == []
    (warning,) = warnings_of(replace(ablation(), max_repetitions=5.0), facts)
    assert warning.figures == {"rows": 100, "passes": 5.333, "limit": 5.0}


def test_an_arm_that_repeats_a_domain_is_named() -> None:
    """What an even mixture leaves alone, a static arm's own weights may not; others are unknown."""
    facts = manifest()
    repeats(facts)
    asked = replace(ablation(), max_repetitions=6.0)
    arms = {**asked.arms, "most": Arm(method="static", settings=Static(weights={"b": 8, "a": 2}))}

    (warning,) = warnings_of(replace(asked, arms=arms), facts)

    assert warning.domain == "b"
    assert "arm 'most' reads" in warning.text
    assert warning.figures["passes"] == pytest.approx(5.333 * 3 * 0.8, abs=0.01)


def test_a_domain_that_is_not_trained_on_does_not_repeat_and_is_alike_to_none() -> None:
    def change(facts: dict[str, Any]) -> None:
        facts["domains"]["b"]["train"] = False
        repeats(facts)
        alike("ab", "bc")(facts)

    assert said(change) == []


def test_a_single_trained_domain_is_alike_to_none() -> None:
    def change(facts: dict[str, Any]) -> None:
        alike("ab", "ac", "bc")(facts)
        facts["domains"]["b"]["train"] = facts["domains"]["c"]["train"] = False

    assert said(change) == []


def test_splits_that_are_not_read_may_be_small() -> None:
    def change(facts: dict[str, Any]) -> None:
        facts["domains"]["b"]["splits"]["tuning"]["groups"] = 1

    assert said(change) == []


def test_a_tiny_vocabulary_is_no_news_where_all_domains_are_near_bytes() -> None:
    def change(facts: dict[str, Any]) -> None:
        facts["tokenizer"]["vocab_size"] = 320
        for domain in facts["domains"].values():
            domain["splits"]["train"]["tokens"] = 3_000_000

    assert said(change) == []


def test_a_run_says_what_its_ablation_says() -> None:
    facts, asked = manifest(), ablation()
    repeats(facts)
    few(facts)
    (run,) = resolve(asked, "any").values()

    assert warnings_of_run(run, facts) == warnings_of(asked, facts) != []
    unknown = replace(run, mixer=Mixer())  # one whose weights nobody knows before training
    assert warnings_of_run(unknown, facts) == warnings_of(asked, facts)


@pytest.mark.parametrize(
    ("seeds", "noisy", "expected"),
    [
        ({"a": 1, "b": 2, "c": 3}, "", []),
        ({"a": 1, "b": 1, "c": 1}, "", [("alike", "a, b, c")]),
        ({"a": 1, "b": 2, "n": 3}, "n", [("random", "n")]),
        ({"a": 1, "b": 1}, "ab", [("random", "a, b"), ("alike", "a, b")]),
    ],
)
def test_a_corpus_is_measured_when_it_is_built(
    seeds: dict[str, int], noisy: str, expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    domains = {
        name: SyntheticDomain(seed=seed, num_documents=100, branching=120 if name in noisy else 4)
        for name, seed in seeds.items()
    }
    asked = replace(ablation(**domains), budget=Budget(steps=10))

    store = open_corpus(asked.corpus, tmp_path)

    found = warnings_of(asked, store.manifest)
    assert [(w.code, w.domain) for w in found] == expected
    assert all(w.loud for w in found)


LOUD = DataWarning(code="random", domain="[red]x", loud=True, text="domains.[red]x: " + "so " * 99)
QUIET = DataWarning(code="few", domain="y", loud=False, text="domains.y is small.")


def test_a_terminal_shows_loud_warnings_in_one_panel_of_at_most_80_columns() -> None:
    console = Console(file=StringIO(), width=200)

    TerminalDisplay(console).warn([LOUD, replace(LOUD, text="Another."), QUIET])

    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("WARNING") == 1
    assert "domains.[red]x" in shown
    assert "Another." in shown
    assert "note: domains.y is small." in shown
    assert max(map(len, shown.splitlines())) == 80


def test_a_terminal_shows_no_panel_where_nothing_is_loud() -> None:
    console = Console(file=StringIO(), width=80)

    TerminalDisplay(console).warn([QUIET])

    assert console.file.getvalue() == "note: domains.y is small.\n"  # type: ignore[attr-defined]


def test_the_log_gets_every_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="harness.warnings"):
        log([LOUD, QUIET])

    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", LOUD.text),
        ("INFO", QUIET.text),
    ]
