"""A mixture in the words of other trainers' configurations.

What a weight counts differs: ours are shares of tokens, while most trainers draw documents or keep
a share of a data set. Where it differs the numbers are converted by the corpus's own counts, and
the fragment says so, because a mixture that is copied without it is another mixture. Key names were
checked against each project in November 2026:
  datasets       interleave_datasets(datasets, probabilities, seed, stopping_strategy)
  axolotl        datasets: - path, type, weight: share of the data set that is kept, in (0, 1]
  LLaMA-Factory  dataset, mix_strategy, interleave_probs: passed on to interleave_datasets
  NeMo           PreTrainingDataModule(paths=[weight, prefix, ...]), Megatron's zipped list
  torchtitan     components.data: DatasetMixConfig of WeightedDataset; a Python configuration
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from harness.commands.export import Mixture
from harness.errors import SpecError

_SMALLEST = 5e-7  # what six decimals still show


def render(mixture: Mixture, form: str) -> str:
    """Return the mixture as text as JSON, or in one of `FORMS`."""
    if mixture.schedule is not None and form != "json":
        raise SpecError(
            "--what=schedule: only --format=json can hold a schedule; use mean or final"
        )
    return _json(mixture) if form == "json" else FORMS[form](_drawn(mixture))


def _drawn(mixture: Mixture) -> Mixture:
    """Return the mixture without domains of weight 0: a trainer would wait for their end."""
    kept = {n: w for n, w in zip(mixture.domains, mixture.weights, strict=True) if w >= _SMALLEST}
    total = sum(kept.values())
    weights = [weight / total for weight in kept.values()]
    return replace(mixture, domains=list(kept), weights=weights)


def _json(mixture: Mixture) -> str:
    plain = asdict(mixture)
    plain["weights"] = dict(zip(mixture.domains, mixture.weights, strict=True))
    plain["runs"] = {str(seed): run_id for seed, run_id in mixture.runs.items()}
    if mixture.schedule is None:
        del plain["schedule"]
    else:
        plain["schedule"] = [
            {"tokens": tokens, "weights": dict(zip(mixture.domains, row, strict=True))}
            for tokens, row in mixture.schedule
        ]
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def _interleave(mixture: Mixture) -> str:
    probabilities, how = _of_documents(mixture)
    names = _identifiers(mixture.domains)
    lines = [
        *_head(mixture),
        f"# {how}",
        "# Packed to rows of one length instead, they are drawn by token shares:",
        f"#   probabilities = {_rounded(mixture.weights)}",
        "from datasets import interleave_datasets",
        "",
        "mixed = interleave_datasets(",
        f"    [{', '.join(names)}],  # your data sets, in this order",
        f"    probabilities={_rounded(probabilities)},",
        "    seed=0,",
        '    stopping_strategy="all_exhausted",  # repeats what runs out',
        ")",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _axolotl(mixture: Mixture) -> str:
    lines = [
        *_head(mixture),
        "# axolotl concatenates data sets. `weight` is the share of a data set that is kept, above",
        "# 0 and at most 1, without streaming (since mid 2026; an older axolotl lacks the key).",
    ]
    if mixture.train_tokens:
        sizes = [mixture.train_tokens[name] for name in mixture.domains]
        raw = [weight / size for weight, size in zip(mixture.weights, sizes, strict=True)]
        kept = [value / max(raw) for value in raw]
        lines.append("# The shares give the mixture on the train splits that the runs had.")
    else:
        kept = [weight / max(mixture.weights) for weight in mixture.weights]
        lines.append("# The corpus is gone: right only for data sets of one size. Divide by size.")
    lines.append("datasets:")
    for name, share in zip(mixture.domains, kept, strict=True):
        lines += [f"  - path: {json.dumps(name)}  # your path or hub name"]
        lines += ["    type: completion", f"    weight: {share:.6g}"]
    return "\n".join(lines) + "\n"


def _llamafactory(mixture: Mixture) -> str:
    probabilities, how = _of_documents(mixture)
    lines = [
        *_head(mixture),
        f"# {how}",
        "# The names are keys of your data/dataset_info.json.",
        f"dataset: {','.join(mixture.domains)}",
        "mix_strategy: interleave_under  # interleave_over repeats what runs out",
        f"interleave_probs: {json.dumps(','.join(str(p) for p in _rounded(probabilities)))}",
    ]
    return "\n".join(lines) + "\n"


def _nemo(mixture: Mixture) -> str:
    lines = [
        *_head(mixture),
        "# Megatron draws rows of one length, so the weights are shares of tokens, as they were.",
        "# paths of nemo.collections.llm.PreTrainingDataModule; Megatron-LM: --data-path W PREFIX",
        "paths:",
    ]
    for name, weight in zip(mixture.domains, _rounded(mixture.weights), strict=True):
        prefix = json.dumps(f"{name}_text_document")
        lines += [f"  - {weight}", f"  - {prefix}  # prefix of your .bin and .idx"]
    return "\n".join(lines) + "\n"


def _torchtitan(mixture: Mixture) -> str:
    lines = [
        *_head(mixture),
        "# torchtitan's data are configured in Python (components/data, since August 2026). Each",
        "# data set is packed before it is mixed, so that weights count tokens, as here. An older",
        "# torchtitan reads a single data set: mix beforehand, as --format=interleave does.",
        "from torchtitan.components.data import (",
        "    ConcatThenSplitPackingConfig,",
        "    DatasetMixConfig,",
        "    WeightedDataset,",
        ")",
        "",
        "mixed = DatasetMixConfig(",
        "    datasets=(",
    ]
    identifiers, weights = _identifiers(mixture.domains), _rounded(mixture.weights)
    for identifier, weight in zip(identifiers, weights, strict=True):
        packed = f"ConcatThenSplitPackingConfig(dataset={identifier})"
        lines.append(f"        WeightedDataset(dataset={packed}, weight={weight}),")
    lines += ["    ),", ")  # for GrainDataLoader.Config(dataset=mixed, repeat=True)"]
    return "\n".join(lines) + "\n"


FORMS: dict[str, Callable[[Mixture], str]] = {
    "interleave": _interleave,
    "axolotl": _axolotl,
    "llamafactory": _llamafactory,
    "nemo": _nemo,
    "torchtitan": _torchtitan,
}


def _head(mixture: Mixture) -> list[str]:
    seeds = ", ".join(map(str, mixture.runs))
    zero = [name for name in mixture.sources if name not in mixture.domains]
    return [
        f"# Steelyard: {mixture.what} weights of arm {mixture.arm!r} in {mixture.ablation!r}",
        f"# seeds {seeds}; runs {', '.join(mixture.runs.values())}",
        *([f"# left out, at weight 0: {', '.join(zero)}"] if zero else []),
    ]


def _of_documents(mixture: Mixture) -> tuple[list[float], str]:
    """Return the probabilities of drawing documents that give the shares of tokens, and a note."""
    if not mixture.train_tokens:
        return mixture.weights, "The corpus is gone: right only for documents of one mean length."
    lengths = [mixture.train_tokens[n] / mixture.train_documents[n] for n in mixture.domains]
    raw = [weight / length for weight, length in zip(mixture.weights, lengths, strict=True)]
    how = "Documents are drawn: the weights (shares of tokens) over mean tokens per document."
    return [value / sum(raw) for value in raw], how


def _rounded(values: list[float]) -> list[float]:
    """Return shares with six decimals that still add up to 1."""
    rounded = [round(value, 6) for value in values]
    largest = rounded.index(max(rounded))
    others = sum(value for index, value in enumerate(rounded) if index != largest)
    rounded[largest] = round(1 - others, 6)
    return rounded


def _identifiers(names: Sequence[str]) -> list[str]:
    """Return a variable's name for each domain, all different and none a word of Python's."""
    found: list[str] = []
    for name in names:
        plain = "".join(c if c.isalnum() else "_" for c in name)
        plain = f"_{plain}" if plain[0].isdigit() or keyword.iskeyword(plain) else plain
        while plain in found:
            plain += "_"
        found.append(plain)
    return found
