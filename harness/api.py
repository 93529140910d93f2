"""The contract: what a mixing method provides, and everything it may touch.

A method sees a run through one narrow, metered window, the View: it can look at training rows and
at the probe set, every look is billed, and tuning and held-out data cannot be reached from it. The
price is that a method cannot do what no View offers; the gain is that two methods are comparable.

Shapes: B rows, T tokens, K trained domains, S steps, N pool rows, Q query rows, M modules.
Units: losses are nats per token. Sign: influence > 0 means training on the row lowers the loss.

torch is imported for type checkers alone: a wrong key in a spec must be answered within a second,
and importing torch takes several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor, nn

State = dict[str, "Tensor"]  # all a mixer remembers; tensors only, so loading one runs no code
Direction = Mapping[str, "Tensor"]  # one tensor per parameter name
Note = float | int | list[float] | list[int] | str


@dataclass(frozen=True)
class Batch:
    """Packed rows and what is known of each."""

    inputs: Tensor  # [B, T] int64
    targets: Tensor  # [B, T] int64; causal: the next token
    mask: Tensor  # [B, T] bool, targets that count (packed rows: all; padding and prompts: none)
    domains: Tensor  # [B] int64, index into View.probe_domains (trained domains come first)
    rows: Tensor  # [B] int64, row index inside its domain and split

    def select(self, index: Tensor | slice) -> Batch:
        """Return the rows at `index` as a batch of their own."""
        return Batch(*(getattr(self, f.name)[index] for f in fields(self)))


class View(Protocol):
    """A run as a method may see it: read-only and billed, tuning and held-out out of reach."""

    @property
    def step(self) -> int:
        """Optimizer steps taken so far."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The K domains that are trained on."""

    @property
    def probe_domains(self) -> tuple[str, ...]:
        """Those, then domains that only have a probe set."""

    @property
    def targets(self) -> Tensor:
        """Weights of the declared target [len(probe_domains)], sum 1."""

    @property
    def prior(self) -> Tensor:
        """Natural token proportions [K], sum 1."""

    @property
    def train_rows(self) -> Tensor:
        """Train rows of each trained domain [K] int64; drawing more repeats some."""

    @property
    def seen(self) -> Tensor:
        """Rows drawn so far [K] int64."""

    @property
    def model(self) -> nn.Module:
        """The model, to read; whoever computes with it directly reports it through bill()."""

    @property
    def precision(self) -> str:
        """What the run trains in: "float32", or "bfloat16" by autocast."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, to read (rate, second moments), never stepped."""

    def rng(self, name: str) -> Generator:
        """Return a CPU generator keyed by (data_seed, name, step): nothing to save."""

    def candidates(self, per_domain: int) -> Batch:
        """Return `per_domain` train rows of each trained domain, off the training stream."""

    def probes(self, per_domain: int, fixed: bool = False) -> Batch:
        """Return probe rows of every probe domain: fresh at each step, or always the same."""

    def token_losses(
        self,
        batch: Batch,
        model: nn.Module | None = None,
        along: Direction | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        """Return losses [B, T], 0 where masked, at parameters + eps * along; the model stays."""

    def gradient(self, batch: Batch) -> Direction:
        """Return the gradient of the mean loss over the batch's counted targets."""

    def finished(self, run_id: str) -> nn.Module:
        """Return an earlier run's final model, frozen."""

    @property
    def spent(self) -> float:
        """Floating-point operations that the method has been billed so far."""

    def bill(self, flops: float, tokens: int = 0) -> None:
        """Report work done outside these services."""

    def note(self, name: str, values: Mapping[str, Note]) -> None:
        """Write the method's own numbers to the records, for reports to read."""


@dataclass(frozen=True)
class Mixer:
    """Inner loop. Subclasses are frozen dataclasses: hyperparameters only, no hidden state."""

    reweights: ClassVar[bool] = False
    """True: `observe` changes the loss, so it runs before backward."""
    is_control: ClassVar[bool] = False
    """True: an arm of it is descriptive unless the spec says otherwise."""
    is_fixed: ClassVar[bool] = False
    """True: its weights are written down, or follow from sizes: they cost nobody anything."""
    tunes: ClassVar[bool] = False
    """True: its plan chooses settings on the tuning set, as a sweep does, and may ask for that."""

    def bind(self, arms: Mapping[str, Mixer]) -> Mixer:
        """Return this mixer with labels of other arms replaced by those arms' mixers.

        Called when a spec is read; `arms` holds the other arms, bound. ValueError where a label is
        none of them. What is bound is part of a run's identity, the label is not.
        """
        return self

    def others(self) -> tuple[Mixer, ...]:
        """Return the mixers of other arms that the plan looks at: shown with it, never billed.

        Each must be an arm of the same spec, which pays for it, and this one is then a control.
        """
        return ()

    def check(self, domains: tuple[str, ...], targets: dict[str, float]) -> None:
        """Raise ValueError where the settings do not fit these trained domains and targets.

        Called when a spec is read, before anything is computed; it may not import torch.
        """

    def check_length(self, num_steps: int, domains: tuple[str, ...]) -> None:
        """Raise ValueError where a run of `num_steps` is too short for the settings to act in.

        Called when a spec is read, like `check`; no torch here.
        """

    def check_ranks(self, sharded: bool) -> None:
        """Raise ValueError for what cannot be done on several ranks.

        `sharded`: each holds a share of the model (FSDP), so that nothing but the View's services
        can compute with it. Called before anything is computed; no torch here.
        """

    def foresee(
        self, prior: Mapping[str, float], targets: Mapping[str, float]
    ) -> dict[str, float] | None:
        """Return the sampling weight of each trained domain, where training does not change it.

        For what is said before training, such as how often a domain repeats; `prior` holds the
        trained domains' natural proportions. None where it is not known yet. No torch here.
        """
        return None

    def init(self, view: View) -> State:
        """Return the state before step 0. Called once per run, never on resume."""
        return {}

    def propose(self, view: View, state: State) -> Tensor:
        """Return sampling weights [K] for the next batch. May update `state` in place."""
        return view.prior

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        """Return the loss weight [B] of each drawn row, from detached token losses [B, T]."""
        return losses.new_ones(len(losses))

    def plan(self, spec: Any, run: Callable[[Any], Any]) -> Any:
        """Outer loop: RunSpec -> RunResult of the main run, after any runs the method needs.

        `run` is memoized by content, so a restarted plan replays for free; every distinct run it
        asks for is billed to the method, but those of `others()`. Runs before the main one come
        from `spec.auxiliary(...)`: they are trained like any other, and nothing held out is
        computed on them. A result shows probe losses, mixer state, train rows and the weights
        [S, K] it sampled with; never held-out losses, and tuning losses where the mixer `tunes`.
        """
        return run(replace(spec, mixer=self))


@dataclass(frozen=True)
class Scores:
    """Influence of N rows on Q queries; positive: training on the row lowers the query's loss."""

    total: Tensor  # [N, Q], finite
    modules: Tensor | None = None  # [N, Q, M]
    tokens: Tensor | None = None  # [N, Q, T]
    about: Mapping[str, Note] = field(default_factory=dict)  # what was computed: reduction, ...


class Estimator(Protocol):
    """Per-row influence; one interface for the rebalancer and the attribution pipeline."""

    def fit(self, view: View, pool: Batch, queries: Batch | None = None) -> State:
        """Return what every later query reuses: factors, landmarks, an encoder."""

    def prepare(self, view: View, fitted: State, query: Batch) -> State:
        """Return query gradients, preconditioned, once for any number of row chunks."""

    def score(self, view: View, prepared: State, rows: Batch) -> Scores:
        """Return each row's influence on each query's loss; raise on non-finite values."""
