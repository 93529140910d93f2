"""The plan on paper for internet scale: 10 domains, 7B models, 1T tokens, 64 nodes.

Every figure follows from what is assumed here, from sizes that this code gives (a record, a
document's line, the permutation of a domain's rows) and from each method's own rule of cost.
Nothing is measured: `python -m tests.bench.internet_scale` prints what DECISIONS.md quotes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from baselines.influence import Influence
from baselines.shearing import Shearing
from harness.corpus.near_duplicates import NUM_PERM
from harness.grid import POLL_SECONDS
from harness.influence.interval import exact_trial, passes, steps_between
from harness.leases.leases import BEATS, GRACE_SECONDS

DAY, GB, TB = 86_400, 1e9, 1e12
MASTER, MOMENTS, GRADIENT = 4, 8, 4  # bytes a parameter: float32, AdamW's two, float32


@dataclass(frozen=True)
class Assumed:
    """What the plan takes as given."""

    domains: int = 10
    tokens: float = 1e12
    nodes: int = 64
    gpus_per_node: int = 8
    peak: float = 989e12
    """bfloat16 operations a second of an H100 SXM, by its data sheet."""
    utilisation: float = 0.4
    """Share of the peak that training reaches, attention included."""
    fabric: float = 450e9
    """Bytes a second and direction between the GPUs of a node."""
    network: float = 50e9
    """Bytes a second and direction of a GPU's own 400 Gb/s adapter."""
    disk: float = 20e9
    """Bytes a second of the shared disk, all nodes together."""
    layers: int = 32
    width: int = 4096
    inner: int = 11_008
    vocabulary: int = 32_000
    context: int = 4096
    rows: int = 1024
    """Of a step."""
    bytes_per_token: float = 4.0
    """Of text."""
    document_bytes: float = 5000.0
    proxy: float = 280e6
    """Parameters of a proxy model."""
    proxy_tokens: float = 20e9
    small_proxy: float = 1e6
    small_proxy_tokens: float = 1e9
    text_rate: float = 52e6
    """Bytes of text a second that one machine tokenises on two cores: RESULTS.md, the least."""
    document_memory: float = 1351.0
    """Bytes that a document takes in memory while its corpus is built, the signature among them:
    `python -m tests.bench.run --only corpus_memory`, the more of its two."""
    gram_bytes: float = 0.67
    """Of the sets that near-duplicates are compared by, for one of text: 4 a word of 6 letters."""
    node_cores: int = 96
    eigen_rate: float = 1e12
    """Operations a second of a GPU in a float32 eigendecomposition."""
    eval_every: int = 1000
    eval_rows: int = 256
    """Of each domain."""
    refresh_every: int = 100  # steps, beside the default's formula
    save_minutes: float = 30.0

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def parameters(self) -> int:
        attention, mlp = 4 * self.width**2, 3 * self.width * self.inner
        norms = (2 * self.layers + 1) * self.width
        return self.layers * (attention + mlp) + 2 * self.vocabulary * self.width + norms

    @property
    def steps(self) -> int:
        return math.ceil(self.tokens / (self.rows * self.context))

    @property
    def token_flops(self) -> float:
        """Of a training step: forward 2, backward 4 operations a weight, causal attention."""
        return 6 * self.parameters + 6 * self.layers * self.width * self.context

    @property
    def rate(self) -> float:
        """Operations a second of all GPUs, as they are used."""
        return self.gpus * self.peak * self.utilisation

    @property
    def step_seconds(self) -> float:
        return self.rows * self.context * self.token_flops / self.rate

    @property
    def run_flops(self) -> float:
        return self.tokens * self.token_flops


Line = tuple[str, str]


def training(a: Assumed) -> Iterator[Line]:
    """Yield what one run computes, holds and moves."""
    state = (MASTER + MOMENTS + GRADIENT) * a.parameters
    gathered = MASTER * a.parameters
    full = 3 * gathered / a.network
    inside = 3 * gathered / a.fabric
    between = 2 * MASTER * a.parameters / a.gpus_per_node / a.network
    yield "parameters", f"{a.parameters / 1e9:.2f} G"
    yield f"steps of {a.rows:,} rows x {a.context:,} tokens", f"{a.steps:,}"
    yield "operations of the run", f"{a.run_flops:.2e}"
    yield "seconds of a step, computing", f"{a.step_seconds:.2f}"
    yield "days of the run", f"{a.steps * a.step_seconds / DAY:.1f}"
    yield "parameters, moments, gradients", f"{state / GB:.0f} GB"
    yield f"... on each of {a.gpus} GPUs, sharded over all", f"{state / a.gpus / GB:.2f} GB"
    yield (
        f"... on each GPU, sharded over the {a.gpus_per_node} of a node",
        f"{state / a.gpus_per_node / GB:.1f} GB",
    )
    yield "moved a step and GPU (2 gathers, 1 scatter, float32)", f"{3 * gathered / GB:.0f} GB"
    yield "... seconds over the network, sharded over all", f"{full:.2f}"
    yield "... seconds inside a node, sharded over a node", f"{inside:.2f}"
    yield "... and gradients between nodes, seconds", f"{between:.2f}"
    losses = a.rows * a.context * 4
    yield "losses gathered a step for the mixer", f"{losses / 1e6:.1f} MB a GPU"


def data(a: Assumed) -> Iterator[Line]:
    """Yield what the corpus takes to make, keep and read."""
    text = a.tokens * a.bytes_per_token
    documents = text / a.document_bytes
    per_document = a.document_bytes / a.bytes_per_token
    entry = {"domain": "web", "split": "train", "group": "0" * 16, "name": "0" * 16}
    entry |= {"sha256": "0" * 64}
    entry |= {"bytes": int(a.document_bytes), "tokens": int(per_document)}
    line = len(json.dumps(entry)) + 1
    rows = a.tokens / a.context / a.domains
    batch = a.rows * (a.context + 1) * 2
    yield "text", f"{text / TB:.0f} TB, {documents:.1e} documents"
    yield "tokens on disk, uint16", f"{a.tokens * 2 / TB:.0f} TB"
    held = documents * a.document_memory
    grams = text * a.gram_bytes
    yield "on the disk while it is built: text, sets of grams", f"{(text + grams) / TB:.1f} TB"
    yield "in memory while one process builds the corpus", f"{held / TB:.2f} TB"
    yield "... of it MinHash signatures", f"{documents * NUM_PERM * 4 / TB:.2f} TB"
    yield "tokenising, one machine of two cores", f"{text / a.text_rate / 3600:.1f} hours"
    share = text / (a.text_rate * a.node_cores / 2 * a.nodes)
    yield f"... on all cores of {a.nodes} nodes", f"{share:.0f} seconds"
    yield "documents.jsonl", f"{documents * line / GB:.0f} GB"
    yield "order of a domain's rows in memory", f"{rows * 8 / 1e6:.0f} MB a domain and rank"
    yield "rows of a step, read by every node", f"{batch / 1e6:.1f} MB"
    yield "... from the shared disk, all nodes", f"{a.nodes * batch / a.step_seconds / GB:.2f} GB/s"


def records(a: Assumed) -> Iterator[Line]:
    """Yield what is written while it trains."""
    number = 2.3456789012345678
    per_domain = {key: [number] * a.domains for key in ("weights", "domain_losses")}
    step = {"kind": "step", "step": a.steps, "tokens": int(a.tokens), "loss": number}
    step |= {"lr": 1e-4, "grad_norm": number, "rows": [100] * a.domains, "seconds": 1e5}
    size = len(json.dumps(step | per_domain)) + 1
    seen = a.eval_rows * a.domains / (3 * a.rows * a.eval_every)
    saved = (MASTER + MOMENTS) * a.parameters
    stall = saved / a.disk
    yield "records of a run", f"{a.steps * size / 1e6:.0f} MB ({size} bytes a step)"
    yield "evaluation, share of training", f"{seen:.2%}"
    yield "a checkpoint", f"{saved / GB:.0f} GB, {saved / a.gpus / GB:.2f} GB a rank"
    yield "... seconds at the disk's rate", f"{stall:.0f}"
    yield (
        f"... share of time, every {a.save_minutes:.0f} minutes",
        f"{stall / (60 * a.save_minutes):.2%}",
    )


def methods(a: Assumed) -> Iterator[Line]:
    """Yield each method's overhead, as a share of the main run's operations."""

    def proxy(passes: float, size: float = a.proxy, tokens: float = a.proxy_tokens) -> float:
        return passes * size * tokens / a.run_flops

    small = 512 * proxy(6, a.small_proxy, a.small_proxy_tokens)
    ours = Influence()
    priced = passes(ours, a.domains, 1, fast_bfloat16=True)
    counted = exact_trial(ours.estimator.check_rows, float32=1)  # type: ignore[union-attr]
    taken = priced._replace(trial=counted)  # operations, whatever they are computed in
    by_formula = steps_between(priced, a.rows, a.steps)
    round_rows = 32 * a.domains
    yield "static, temperature, UniMax, ODM, ADO", "0 (ADO: seconds of CPU a fit)"
    size = f"{a.proxy / 1e6:.0f}M, {a.proxy_tokens / 1e9:.0f}G tokens"
    yield f"DoReMi, reference + proxy of {size}", f"{proxy(6 + 8):.3%}"
    yield "... at the main run's size and tokens", f"{(6 + 8) / 6:.0%}"
    yield f"DoGE, proxy of {size}", f"{proxy(12):.3%}"
    few = f"{a.small_proxy / 1e6:.0f}M, {a.small_proxy_tokens / 1e9:.0f}G tokens"
    yield f"RegMix, 512 proxies of {few}", f"{small:.4%}"
    yield f"mixing laws, 32 proxies of {size}", f"{32 * proxy(6):.2%}"
    yield f"Skill-It, {a.domains} runs of a tenth of the steps, own size", f"{a.domains / 10:.0%}"
    looks = 4 * a.domains + 1  # four orders, and one look more
    aioli = looks * round_rows / (3 * a.rows * 250)
    yield f"Aioli, {looks} probe sets a round of 250 steps", f"{aioli:.2%}"
    looks_at = Shearing().probe_rows * a.domains / (3 * a.rows * Shearing().every)
    yield f"Shearing, reference of {size}, and its probe rows", f"{proxy(6) + looks_at:.3%}"
    yield f"Chameleon, proxy of {size}", f"{proxy(6):.3%}"
    for every in (by_formula, a.refresh_every):
        share = taken.total / (3 * a.rows * every)
        yield f"influence, directional, every {every} steps", f"{share:.2%}"
    yield "... row-forwards of a refresh against a step", f"{taken.total / (3 * a.rows):.1%}"
    for kind in ("group", "jvp_landmark", "hidden_landmark", "ekfac", "influcoder"):
        fitted = passes(Influence(estimator=kind), a.domains, 1).total
        what = f"influence, {kind} fitted anew, every {a.refresh_every} steps"
        yield what, f"{fitted / (3 * a.rows * a.refresh_every):.2%}"
    hops = f"{a.steps / by_formula:,.0f}"
    yield (
        f"... refreshes of a run, by the formula and every {a.refresh_every}",
        (f"{hops}, {a.steps / a.refresh_every:,.0f}"),
    )


def attribution(a: Assumed) -> Iterator[Line]:
    """Yield what curvature of the whole model takes."""
    d, f = a.width, a.inner
    squares = a.layers * (4 * 2 * d**2 + 2 * (d**2 + f**2) + (f**2 + d**2))
    cubes = a.layers * (4 * 2 * d**3 + 2 * (d**3 + f**3) + (f**3 + d**3))
    whole = a.layers * (4 * d**2 + 3 * d * f)
    yield "EKFAC factors A, G and their vectors, float32", f"{2 * 4 * squares / GB:.0f} GB"
    yield "... eigenvalues", f"{4 * whole / GB:.0f} GB"
    seconds = 9 * cubes / (a.gpus_per_node * a.eigen_rate)
    yield "... decompositions, 9 n^3 operations, one node", f"{seconds / 60:.0f} minutes"
    yield "one row's whole gradient, float32", f"{4 * a.parameters / GB:.0f} GB"
    sketch = 1e6 * 4096 * 4
    yield "1M rows' projected gradients [4,096], float32", f"{sketch / GB:.0f} GB"
    yield "scoring all rows once (forward and backward)", f"{1.0:.0%} of the run"
    sampled = 1e6 * a.context / a.tokens
    yield "scoring 1M rows", f"{sampled:.2%} of the run"


def grid(a: Assumed) -> Iterator[Line]:
    """Yield what many workers ask of the lease store."""
    beats = 2 * a.nodes * BEATS / GRACE_SECONDS
    looks = a.nodes / POLL_SECONDS
    runs = 10 * 8
    proxies = runs * 6 * a.proxy * a.proxy_tokens / a.rate
    yield f"signs of life, {a.nodes} workers with 2 leases each", f"{beats:.0f} writes a second"
    yield "looks at others' leases, where all wait", f"{looks:.0f} cells a second"
    size = f"{a.proxy / 1e6:.0f}M and {a.proxy_tokens / 1e9:.0f}G tokens"
    yield "10 arms x 8 seeds of the main run", f"{runs * a.run_flops / a.rate / DAY:.0f} days"
    yield f"10 arms x 8 seeds at {size}", f"{proxies / 3600:.1f} hours"


PARTS = {
    "training": training,
    "data": data,
    "records and checkpoints": records,
    "overhead of methods": methods,
    "attribution": attribution,
    "grid": grid,
}


def main(a: Assumed | None = None) -> None:
    """Print the plan."""
    for title, part in PARTS.items():
        print(f"\n{title}")
        for what, figure in part(a or Assumed()):
            print(f"  {what:<58} {figure}")


if __name__ == "__main__":
    main()
