"""What a person should know about their data before anything is trained on it.

Derived from the corpus manifest and from what will be done with it, so that a plan, a run's header
and a report say the same. A loud warning means that an ablation on these data cannot answer what it
asks; the others name a limit. None of them stops anything: noise is a legitimate control.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from harness.api import Mixer
from harness.spec import Ablation, Batching, RunSpec

LOG = logging.getLogger("harness.warnings")
LOG.addHandler(logging.NullHandler())  # a terminal shows them its own way

MAX_ORDER = 0.03  # measured: noise below .01, real text from 1,000 words on above .11
MIN_COMPRESSION = 0.97  # measured: noise .99 to 1.01, real text below .95
MIN_EVENNESS = 0.98  # measured: uniform draws 1.00, real text below .90
MAX_DEVIATIONS = 4.0  # of random deals; a normal variable is beyond it once in 30,000
MAX_EXCESS = 0.02  # bits; measured: one language below .005, real domains above .05
MIN_UNITS = 5  # of a split; its mean loss is that of one or two texts below that
MAX_PASSES = 4.0  # arXiv:2305.16264: up to 4 epochs cost next to nothing against new data
BYTES_PER_TOKEN = 1.5  # text in a tokenizer's own language has 3 to 5
LARGE_VOCABULARY = 1000  # a smaller one has hardly more than bytes, for every domain alike
MAX_COPIES = 0.05  # share of a domain's documents

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataWarning:
    """One thing to know, with the numbers it rests on."""

    code: str
    """random, alike, few, repeats, bytes or copies."""
    domain: str
    """Its domain, or several joined by commas."""
    loud: bool
    """The ablation cannot answer its question on these data."""
    text: str
    figures: Figures = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class _Use(NamedTuple):
    """What will be done with a corpus."""

    batch: Batching
    num_steps: int
    splits: tuple[str, ...]
    max_passes: float
    mixers: Mapping[str, Mixer]
    """By label of the arm."""
    targets: Mapping[str, float]


def warnings_of(ablation: Ablation, manifest: Mapping[str, Any]) -> list[DataWarning]:
    """Return what is to be said of an ablation's data, loud warnings first."""
    splits = ("probe", *ablation.evaluation.splits)
    limit = ablation.max_repetitions or MAX_PASSES
    mixers = {label: arm.settings for label, arm in ablation.arms.items()}
    shape = (ablation.batch, ablation.num_steps, splits, limit)
    return _warnings(manifest, _Use(*shape, mixers, ablation.targets))


def warnings_of_run(spec: RunSpec, manifest: Mapping[str, Any]) -> list[DataWarning]:
    """Return what is to be said of one run's data; the same as of its ablation, for a main run."""
    splits = ("probe", *(spec.evaluation.splits if spec.evaluation else ()))
    limit = spec.max_repetitions or MAX_PASSES
    shape = (spec.batch, spec.num_steps, splits, limit)
    return _warnings(manifest, _Use(*shape, {spec.label: spec.mixer}, spec.targets))


def log(warnings: list[DataWarning]) -> None:
    """Hand warnings to Python's logging, under the name harness.warnings."""
    for warning in warnings:
        LOG.log(logging.WARNING if warning.loud else logging.INFO, warning.text)


def _warnings(manifest: Mapping[str, Any], use: _Use) -> list[DataWarning]:
    found = [
        *_random(manifest),
        *_alike(manifest),
        *_few(manifest, use),
        *_repeats(manifest, use),
        *_bytes(manifest),
        *_copies(manifest),
    ]
    return sorted(found, key=lambda warning: not warning.loud)


def _random(manifest: Mapping[str, Any]) -> Iterator[DataWarning]:
    measured = manifest["text"]["domains"].items()
    found = {name: noise for name, measures in measured if (noise := _noise(measures))}
    if not found:
        return
    who = ", ".join(f"domains.{name}" for name in found)
    reasons = "; ".join(f"{name}: {reason}" for name, (reason, _) in found.items())
    text = (
        f"{who} look{'s' if len(found) == 1 else ''} random ({reasons}). In real text a word tells "
        "over 10% of the next, order saves over 5%, and entropy is below 0.9 of that. All rows of "
        "such text are alike to every method, so scores, losses and weights on it are noise: "
        "rebalancing cannot work on it. Unless it is a control on purpose, check its source and "
        "what it is made of."
    )
    figures = {name: figures for name, (_, figures) in found.items()}
    yield DataWarning(code="random", domain=", ".join(found), loud=True, text=text, figures=figures)


def _noise(measures: Mapping[str, Any]) -> tuple[str, Figures] | None:
    """Return why a domain looks random, and the figures; None where it does not."""
    for unit in ("words", "tokens", "characters"):
        found = measures[unit]
        if found and found["order"] < MAX_ORDER and found["compression"] > MIN_COMPRESSION:
            reason = (
                f"a {unit.removesuffix('s')} tells {max(found['order'], 0):.1%} of the next, order "
                f"saves {max(1 - found['compression'], 0):.1%} in compression"
            )
            return reason, {"unit": unit, **found}
    even = measures["evenness"]
    if even and even["entropy"] > MIN_EVENNESS and measures["tokens"] is None:
        reason = f"tokens have {even['entropy']:.3f} of the entropy of uniform draws"
        return reason, {"unit": "tokens", **even}
    return None


def _alike(manifest: Mapping[str, Any]) -> Iterator[DataWarning]:
    trained = [name for name, facts in manifest["domains"].items() if facts["train"]]
    pairs = [p for p in manifest["text"]["pairs"] if set(p["domains"]) <= set(trained)]
    alike = [pair for pair in pairs if _is_alike(pair)]
    if not alike:
        return
    group = [name for name in trained if any(name in pair["domains"] for pair in alike)]
    everything = len(alike) == len(trained) * (len(trained) - 1) // 2
    widest = max(alike, key=lambda pair: pair["tokens"]["divergence"])
    measured = (
        f"differ no more than random halves of their pooled documents do (tokens: Jensen-Shannon "
        f"divergence {widest['tokens']['divergence']:.4f} bits, random halves "
        f"{widest['tokens']['reference']:.4f}; token pairs likewise)"
    )
    names = ", ".join(group)
    if everything:
        text = (
            f"All domains look alike: {names} {measured}. Whatever the weights, a batch holds the "
            "same language, so every score is noise and rebalancing cannot work on them. Choose "
            "domains that differ, or make them one domain."
        )
    else:
        listed = "; ".join(" and ".join(pair["domains"]) for pair in alike)
        text = (
            f"Domains that look alike: {listed} {measured}. Weight moved between them changes "
            "nothing, and is noise; think of making them one domain."
        )
    figures = {"pairs": alike}
    yield DataWarning(code="alike", domain=names, loud=everything, text=text, figures=figures)


def _is_alike(pair: Mapping[str, Any]) -> bool:
    """Tell whether neither tokens nor token pairs set two domains apart."""
    return all(
        measured["divergence"] - measured["reference"]
        <= min(MAX_DEVIATIONS * measured["spread"], MAX_EXCESS)
        for measured in (pair["tokens"], pair["token_pairs"])
    )


def _few(manifest: Mapping[str, Any], use: _Use) -> Iterator[DataWarning]:
    for name, facts in manifest["domains"].items():
        # ready splits are counted in documents: nothing was dealt out
        unit = "groups" if facts["split_unit"] == "group" else "documents"
        counts = {split: facts["splits"][split][unit] for split in use.splits}
        short = {split: count for split, count in counts.items() if count < MIN_UNITS}
        if short:
            listed = ", ".join(f"{split} {count}" for split, count in short.items())
            text = (
                f"domains.{name} has few independent {unit} in a split ({listed}): what is "
                f"measured there holds for these texts more than for the domain. Give it more "
                f"{unit}, or a larger share in splits."
            )
            yield DataWarning(code="few", domain=name, loud=False, text=text, figures=short)


def _repeats(manifest: Mapping[str, Any], use: _Use) -> Iterator[DataWarning]:
    trained = [name for name, facts in manifest["domains"].items() if facts["train"]]
    drawn = use.num_steps * use.batch.rows
    for name in trained:
        train = manifest["domains"][name]["splits"]["train"]
        packed = (train["tokens"] - 1) // use.batch.tokens
        rows = max(packed if use.batch.pack else train["documents"], 1)
        even = (1 / len(trained), "an even mixture")
        share, who = max([even, *_shares(name, manifest, use)], key=lambda known: known[0])
        passes = drawn * share / rows
        if passes > use.max_passes:
            text = (
                f"domains.{name} repeats: {who} reads its {rows:,} train rows {passes:.1f} times, "
                f"and it would be {drawn / rows:.1f} times with all the weight; beyond "
                f"{use.max_passes:g} passes, repeated text teaches ever less. Give it more text, "
                "or train shorter."
            )
            figures = {"rows": rows, "passes": round(passes, 3), "limit": use.max_passes}
            yield DataWarning(code="repeats", domain=name, loud=False, text=text, figures=figures)


def _shares(name: str, manifest: Mapping[str, Any], use: _Use) -> Iterator[tuple[float, str]]:
    """Yield the domain's share in each arm whose mixture is known before training."""
    sizes = {
        domain: facts["splits"]["train"]["tokens"]
        for domain, facts in manifest["domains"].items()
        if facts["train"]
    }
    prior = {domain: size / sum(sizes.values()) for domain, size in sizes.items()}
    for label, mixer in use.mixers.items():
        weights = mixer.foresee(prior, use.targets)
        if weights is not None:
            yield weights[name] / sum(weights.values()), f"arm {label!r}"


def _bytes(manifest: Mapping[str, Any]) -> Iterator[DataWarning]:
    sizes = {name: _token_size(facts) for name, facts in manifest["domains"].items()}
    is_large = manifest["tokenizer"]["vocab_size"] >= LARGE_VOCABULARY
    for name, size in sizes.items():
        if size < BYTES_PER_TOKEN and (is_large or max(sizes.values()) >= BYTES_PER_TOKEN):
            text = (
                f"domains.{name} is split almost into bytes: {size:.2f} bytes per token, where the "
                f"best domain has {max(sizes.values()):.2f}. Its rows hold little text and cost as "
                "much as others. Train the tokenizer on it too, with a larger vocab_size, or take "
                "one that knows its script."
            )
            figures = {"bytes_per_token": round(size, 3)}
            yield DataWarning(code="bytes", domain=name, loud=False, text=text, figures=figures)


def _token_size(facts: Mapping[str, Any]) -> float:
    """Return bytes per token of a domain's train text, ends of text not counted."""
    train = facts["splits"]["train"]
    return float(train["bytes"] / max(train["tokens"] - train["documents"], 1))


def _copies(manifest: Mapping[str, Any]) -> Iterator[DataWarning]:
    for name, facts in manifest["domains"].items():
        removed = sum(sum(kinds.values()) for kinds in facts["removed"].values())
        share = removed / facts["documents_kept"]
        if share > MAX_COPIES:
            twins = ", ".join(f"domains.{twin} {n:,}" for twin, n in facts["copies_of"].items())
            text = (
                f"domains.{name}: {removed:,} of {facts['documents_kept']:,} documents "
                f"({share:.0%}) repeated others and were removed, of {twins}; see whether two "
                "domains hold the same texts."
            )
            figures = {"removed": removed, "share": round(share, 4)}
            yield DataWarning(code="copies", domain=name, loud=False, text=text, figures=figures)
