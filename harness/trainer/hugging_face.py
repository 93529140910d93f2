"""transformers.Trainer, taught to train on a mixture: a sampler, a callback and two overrides.

Accelerate's loader reads a batch ahead of the step, so a sampler would draw before the update that
its weights depend on. Here the loader hands out empty slots, as many as there are rows, and counts
epochs with them; get_batch_samples, which the Trainer calls once per optimizer step after all of
the last one is done, fills them with the rows that this step's weights draw. So accumulation,
epochs, prefetching and skipping batches on resume are the Trainer's own, and change no row.

The loss is the Trainer's own too, unless the mixer weighs rows: then it is the loop's, one sum
over all micro-batches divided by the sum of its scale.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from harness import checkpoint
from harness.cross_entropy import cross_entropy
from harness.errors import SpecError
from harness.files import write_json
from harness.model import token_losses
from harness.trainer.rows import collate, model_inputs
from harness.trainer.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch
    from harness.trainer.mixture import Mixture

    _Trainer = Trainer
else:
    _Trainer = object

STATE = "mixture.pt"  # in every checkpoint folder
SUMMARY = "mixture.json"  # in output_dir


def make_trainer(
    mixture: Mixture, trainer_class: Any, model: Any, args: Any, options: dict[str, Any]
) -> Any:
    """Return an instance of a subclass of `trainer_class` that trains on the mixture."""
    if not (isinstance(trainer_class, type) and issubclass(trainer_class, Trainer)):
        raise SpecError(f"trainer: {trainer_class!r} is no transformers.Trainer; give its class")
    if options.get("train_dataset") is not None:
        raise SpecError("train_dataset: the mixture brings it; leave it out")
    _check_arguments(mixture, args, options)
    kind = type(f"Mixing{trainer_class.__name__}", (_Mixing, trainer_class), {"mixture": mixture})
    slots = _Slots(sum(len(rows) for rows in mixture.train.values()))
    options = {"data_collator": collate} | options | {"train_dataset": slots}
    trainer = kind(model=model, args=args, **options)
    trainer.add_callback(_Callback(trainer))
    return trainer


def _check_arguments(mixture: Mixture, args: Any, options: dict[str, Any]) -> None:
    if args.world_size > 1 or args.n_gpu > 1 or args.deepspeed or args.fsdp:
        many = f"{args.world_size} processes, {args.n_gpu} GPUs"
        fix = "train in one process on one GPU (CUDA_VISIBLE_DEVICES=0), without DeepSpeed and FSDP"
        raise SpecError(f"args: a mixture is not trained by several workers ({many}); {fix}")
    strategy = getattr(args, "train_sampling_strategy", "random")
    if strategy not in ("random", "sequential"):
        fix = "leave it at 'random'"
        raise SpecError(f"train_sampling_strategy: is {strategy!r}, but the mixture draws; {fix}")
    if not mixture.mixer.reweights:
        return
    name = type(mixture.mixer).__name__
    for option, value in (
        ("compute_loss_func", options.get("compute_loss_func")),
        ("label_smoothing_factor", args.label_smoothing_factor),
        ("use_liger_kernel", args.use_liger_kernel),
    ):
        if value:
            raise SpecError(f"{option}: {name} weighs the plain loss of each row; leave it out")


def _check_model(model: Any) -> None:
    config = getattr(model, "config", None)
    name = type(model).__name__
    if getattr(config, "is_encoder_decoder", False) or "MaskedLM" in name:
        raise SpecError(f"model: {name} is no causal language model, which a mixture is trained on")


def _count(slots: list[int]) -> int:
    return len(slots)


class _Slots(torch.utils.data.Dataset[int]):
    """One slot per row of the trained domains: what an epoch is counted in."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> int:
        return index


class _Mixing(_Trainer):
    """Put in front of a Trainer class; make_trainer sets `mixture`."""

    mixture: Mixture
    resume_folder: str | None = None
    _parts: list[Batch]  # micro-batches of the step that are still to come
    _losses: list[Tensor]  # token losses of those that are done
    _scale: Tensor | None  # [B, T] of the whole step, where the mixer weighs rows

    @property
    def session(self) -> Session:
        """The training in progress."""
        assert self.mixture.session is not None, "on_train_begin comes first"
        return self.mixture.session

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the class does, from its checkpoint and the mixture's state in it."""
        folder = resume_from_checkpoint or None
        if folder is True:
            folder = get_last_checkpoint(str(self.args.output_dir))  # type: ignore[no-untyped-call]
        self.resume_folder = folder
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> Any:
        """Return a loader of slots: its batches are their sizes."""
        theirs = self.data_collator
        self.data_collator = _count  # type: ignore[assignment]
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = theirs  # evaluation goes on with it

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Draw the rows of one optimizer step, in as many micro-batches as there are slots."""
        sizes = list(islice(epoch_iterator, num_batches))
        self._parts, self._losses, self._scale = [], [], None
        if sizes:
            batch, first = self.session.draw(sum(sizes)), 0
            for size in sizes:
                self._parts.append(batch.select(slice(first, first + size)))
                first += size
        samples = [model_inputs(part) for part in self._parts]
        return super().get_batch_samples(iter(samples), len(samples), device)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Train on a micro-batch; after the last one of a step, the mixer has seen all losses."""
        loss = super().training_step(*args, **kwargs)
        self._parts.pop(0)
        watches = self.session.watches and not self.mixture.mixer.reweights
        if not self._parts and watches:
            self.session.observe(torch.cat(self._losses))
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of the class, or that of weighed rows; evaluation is left alone."""
        if not model.training or not self.session.watches:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.mixture.mixer.reweights:
            return self._weighed_loss(model)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self._losses.append(_losses_of(outputs, self._parts[0]))
        return (loss, outputs) if return_outputs else loss

    def _weighed_loss(self, model: nn.Module) -> Tensor:
        """Return a micro-batch's share of the step's weighed mean loss."""
        batch, part = self.session.batch, self._parts[0]
        assert batch is not None, "get_batch_samples comes first"
        first = len(batch.rows) - sum(len(left.rows) for left in self._parts)
        if self._scale is None and len(self._parts) > 1:  # the weights depend on all rows' losses
            self._scale = self.session.observe(self.session.gather())[:, None] * batch.mask
        losses = token_losses(model, part)
        if self._scale is None:
            self._scale = self.session.observe(losses.detach())[:, None] * batch.mask
        scale = self._scale[first : first + len(part.rows)]
        return (scale * losses).sum() / self._scale.sum()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add weights and overhead to what the class logs of training."""
        if self.mixture.session is not None and ("loss" in logs or "train_loss" in logs):
            logs = logs | self.session.scalars()
        super().log(logs, *args, **kwargs)


def _losses_of(outputs: Any, part: Batch) -> Tensor:
    """Return the detached token losses [B, T] behind a model's outputs."""
    logits = outputs.get("logits") if isinstance(outputs, dict) else None
    if logits is None:
        raise SpecError("model: gives no logits (a fused loss?), which the mixer has to see")
    with torch.no_grad():
        flat = logits[:, :-1].detach().flatten(0, 1)  # the last position predicts nothing
        targets = part.targets.where(part.mask, 0)  # -100, say
        return cross_entropy(flat, targets.flatten()).view_as(targets) * part.mask


class _Callback(TrainerCallback):
    """Begins, counts and saves the mixture's session along with the trainer."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the session, from the checkpoint that the trainer resumes from if it does."""
        trainer = self.trainer
        _check_model(trainer.model)
        optimizer = trainer.optimizer
        session = Session(
            mixture=trainer.mixture,
            model=trainer.model,
            optimizer=getattr(optimizer, "optimizer", optimizer),  # without accelerate's wrapper
            num_steps=state.max_steps,
            chunk_rows=state.train_batch_size,
            precision="bfloat16" if args.bf16 else "float32",
        )
        trainer.mixture.session = session
        if trainer.mixture.mixer.reweights:
            trainer.loss_is_scaled_for_ga = True  # the weighed loss is divided by the step's scale
        if trainer.resume_folder is None:
            session.start()
            return
        path = Path(trainer.resume_folder) / STATE
        saved = checkpoint.load(path)
        if saved is None:
            raise SpecError(f"{path}: not there; resume from a checkpoint of a mixture's trainer")
        session.resume(saved, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step."""
        self.trainer.session.end_step(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the mixture's state into the checkpoint that was just written."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if folder.is_dir():  # a hyperparameter search saves elsewhere, and never resumes
            with self.trainer.session.meter.section("save"):
                checkpoint.save(folder / STATE, self.trainer.session.content())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the summary."""
        self.trainer.session.meter.close()
        write_json(Path(args.output_dir) / SUMMARY, self.trainer.session.summary())
