"""One training of a mixture, without the trainer: draw, observe, count, save.

The order of a step is the loop's (harness/loop.py): the mixer proposes, the rows of those weights
are drawn, it sees their losses, and the step ends. Methods see the model in evaluation mode and
without the trainer's own mixed precision around it, since the view brings its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.api import Mixer
from harness.cost import Meter
from harness.domains import row_weights, simplex
from harness.errors import SpecError
from harness.model import RowFlops
from harness.stream import Stream
from harness.trainer.rows import DataShelf
from harness.view import RunView

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch, Direction, State
    from harness.trainer.mixture import Mixture


class TrainerView(RunView):
    """A RunView that refuses what someone else's model may not allow."""

    def token_losses(
        self,
        batch: Batch,
        model: nn.Module | None = None,
        along: Direction | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        """Return losses [B, T]; along a direction, of float32 parameters alone."""
        for name, parameter in self.model.named_parameters() if along is not None else ():
            if parameter.dtype not in (torch.float32, torch.float64):
                why = f"{name} is {parameter.dtype}, in which a small step along a direction drowns"
                raise SpecError(f"model: {why}; load it in float32 and train with bf16=True")
        return super().token_losses(batch, model, along, eps)

    def gradient(self, batch: Batch) -> Direction:
        """Return the gradient of the mean loss, if all parameters have one."""
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                fix = "train all parameters, or choose a mixer that takes no gradient"
                raise SpecError(f"model: {name} is frozen and has no gradient to look at; {fix}")
        return super().gradient(batch)


class Session:
    """What changes while a mixture is trained; all of it but the cost is in a checkpoint."""

    def __init__(
        self,
        mixture: Mixture,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        num_steps: int,
        chunk_rows: int,
        precision: str,
    ) -> None:
        """Build the view; start() or resume() comes next."""
        self.mixer, self.domains = mixture.mixer, mixture.domains
        try:
            self.mixer.check_length(num_steps, self.domains)
        except ValueError as error:
            raise SpecError(f"mixer: {type(self.mixer).__name__}: {error}") from None
        self.tokens = mixture.count_tokens()
        num_rows = [len(mixture.train[domain]) for domain in self.domains]
        sizes = torch.tensor([self.tokens[d] for d in self.domains], dtype=torch.float64)
        device = next(model.parameters()).device
        self.meter = Meter(device.type)
        vocab_size = len(model.get_input_embeddings().weight)  # type: ignore[operator]
        self.stream = Stream(
            train=DataShelf("train", mixture.train, vocab_size),
            probe=DataShelf("probe", mixture.probe, vocab_size),
            domains=self.domains,
            probe_domains=mixture.probe_domains,
            data_seed=mixture.seed,
            device=str(device),
        )
        targets = mixture.target_weights()
        self.view = TrainerView(
            stream=self.stream,
            model=model,
            optimizer=optimizer,
            meter=self.meter,
            row_flops=count_row_flops(model, tokens=round(float(sizes.sum()) / sum(num_rows)) - 1),
            targets=torch.tensor(
                [targets.get(d, 0.0) for d in mixture.probe_domains], dtype=torch.float64
            ),
            prior=sizes / sizes.sum(),
            seen=torch.zeros(len(self.domains), dtype=torch.int64),
            num_steps=num_steps,
            chunk_rows=chunk_rows,
            precision=precision,
            open_model=_no_other_run,
        )
        self.state: State = {}
        self.notes = self.view.notes  # of this process; a resumed training starts a new list
        self.weights = torch.zeros(len(self.domains), dtype=torch.float64)  # of the last draw
        self.weight_sum = torch.zeros_like(self.weights)
        self.batch: Batch | None = None  # the rows of the step in progress
        self.watches = type(self.mixer).observe is not Mixer.observe  # asks for token losses
        self._step_time = ExitStack()
        self._setting = {
            "domains": list(self.domains),
            "num_rows": num_rows,
            "seed": mixture.seed,
            "mixer": repr(self.mixer),
        }

    def start(self) -> None:
        """Let the mixer make its first state."""
        with self._asking("init"):
            self.state = self.mixer.init(self.view)

    def resume(self, saved: dict[str, Any], step: int) -> None:
        """Take up a checkpoint's content; SpecError where it is of other data or settings."""
        for name, value in self._setting.items():
            if saved["setting"][name] != value:
                was = saved["setting"][name]
                raise SpecError(f"resume: {name} was {was!r} and is {value!r}; leave it as it was")
        if saved["step"] != step:
            where = f"the mixture is at step {saved['step']} and the trainer at {step}"
            raise SpecError(f"resume: {where}; take a checkpoint that was copied whole")
        self.view.step = saved["step"]
        self.view.seen.copy_(saved["seen"])
        self.weights, self.weight_sum = saved["weights"], saved["weight_sum"]
        self.state = saved["mixer"]
        self.meter.restore(saved["cost"])

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint holds: tensors and plain values."""
        return {
            "setting": self._setting,
            "step": self.view.step,
            "seen": self.view.seen,
            "weights": self.weights,
            "weight_sum": self.weight_sum,
            "mixer": self.state,
            "cost": self.meter.to_json(),
        }

    def draw(self, num_rows: int) -> Batch:
        """Begin a step: ask for weights, and return the rows they draw."""
        self._step_time.enter_context(self.meter.section("train"))
        with self._asking("propose"):
            proposed = self.mixer.propose(self.view, self.state)
            where = f"weights proposed at step {self.view.step}"
            self.weights = simplex(proposed, self.domains, where)
        self.weight_sum += self.weights
        self.batch = self.stream.draw(self.weights, self.view.seen, self.view.step, num_rows)
        self.meter.charge("train", sum(self.view.row_flops) * num_rows, self.batch.targets.numel())
        return self.batch

    def gather(self) -> Tensor:
        """Return the token losses [B, T] of the step's rows by a pass of their own, billed."""
        assert self.batch is not None, "draw() comes first"
        with self._asking("observe"):
            return self.view.token_losses(self.batch)

    def observe(self, losses: Tensor) -> Tensor:
        """Show the mixer the detached losses [B, T] of the step; return its loss weights [B]."""
        assert self.batch is not None, "draw() comes first"
        with self._asking("observe"):
            weights = self.mixer.observe(self.view, self.state, self.batch, losses).to(losses)
            where = f"{type(self.mixer).__name__}.observe at step {self.view.step}"
            return row_weights(weights, len(self.batch.rows), self.mixer.reweights, where)

    def end_step(self, step: int) -> None:
        """Close the step; `step` have been taken now."""
        self._step_time.close()
        self.view.step, self.batch = step, None

    def scalars(self) -> dict[str, float]:
        """Return what goes into the trainer's log: the current weights, and the overhead."""
        mixer, train = self.meter.accounts["mixer"], self.meter.accounts["train"]
        named = zip(self.domains, self.weights.tolist(), strict=True)
        return {f"weights/{domain}": weight for domain, weight in named} | {
            "overhead/seconds": round(mixer.seconds, 6),
            "overhead/share_of_train_seconds": round(mixer.seconds / max(train.seconds, 1e-9), 6),
        }

    def summary(self) -> dict[str, Any]:
        """Return what the training did so far, as plain values for JSON."""
        mean = self.weight_sum / max(self.view.step, 1)
        train = self.stream.train
        seen = dict(zip(self.domains, self.view.seen.tolist(), strict=True))
        return {
            "mixer": repr(self.mixer),
            "steps": self.view.step,
            "weights": dict(zip(self.domains, self.weights.tolist(), strict=True)),
            "mean_weights": dict(zip(self.domains, mean.tolist(), strict=True)),
            "rows": seen,
            "passes": {domain: rows / train.num_rows(domain) for domain, rows in seen.items()},
            "tokens": self.tokens,
            "cost": self.meter.to_json(),
        }

    @contextmanager
    def _asking(self, hook: str) -> Iterator[None]:
        """Bill what a hook does, show it the model as it is, and tell where it failed."""
        try:
            with self.meter.section("mixer"), plain(self.view.model):
                yield
        except Exception as error:
            error.add_note(f"in {type(self.mixer).__name__}.{hook} at step {self.view.step}")
            raise


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode and take accelerate's autocast off it, for a while."""
    modes = [(module, module.training) for module in model.modules()]
    wrapped = model.__dict__.get("forward")
    model.eval()
    if "_original_forward" in model.__dict__:
        model.forward = model.__dict__["_original_forward"]
    try:
        yield
    finally:
        if "_original_forward" in model.__dict__:
            model.forward = wrapped  # type: ignore[assignment]
        for module, mode in modes:
            module.training = mode


def count_row_flops(model: nn.Module, tokens: int) -> RowFlops:
    """Count one row's matrix products on tensors without values; the model stays as it is.

    A model that cannot run so (its path depends on values) is charged 2 FLOPs per parameter and
    token forward, and twice that backward.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    meta = {
        name: torch.empty_like(tensor, device="meta", requires_grad=tensor.is_floating_point())
        for name, tensor in tensors.items()
    }
    size = max(tokens, 1)
    inputs = {
        "input_ids": torch.zeros((1, size), dtype=torch.int64, device="meta"),
        "attention_mask": torch.zeros((1, 1, size, size), device="meta"),
        "use_cache": False,
    }
    try:
        with plain(model), torch.enable_grad():
            with FlopCounterMode(display=False) as forward:
                output = torch.func.functional_call(model, meta, kwargs=inputs)
            with FlopCounterMode(display=False) as backward:
                output.logits.sum().backward()
    except Exception:  # transformers and torch raise what they like
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return RowFlops(2.0 * parameters * size, 4.0 * parameters * size)
    return RowFlops(float(forward.get_total_flops()), float(backward.get_total_flops()))


def _no_other_run(run_id: str) -> Any:
    where = f"view.finished({run_id!r})"
    raise SpecError(f"{where}: a Trainer has no earlier runs; use `steelyard run`")
