"""A mixer and the data it mixes, to be trained by someone else's loop.

    mixture = Mixture(mixer=Influence(every=50), train={"code": code, "prose": prose},
                      probe={"prose": unseen}, targets={"prose": 1.0})
    trainer = mixture.trainer(Trainer, model, args)
    trainer.train()

The mixer sees that training through the View it sees in ours, and the same weights draw the same
rows. Refused, each in one line:
- methods that plan other runs (DoReMi): `steelyard run` does, and what it finds goes into Static;
- more than one process or GPU, DeepSpeed and FSDP;
- masked and encoder-decoder models;
- `view.finished`, for want of earlier runs;
- `view.gradient` of a model with frozen parameters, `view.token_losses` along a direction where
  the weights are not float32;
- a target without a probe set, where there are any; `view.probes` gives rows of those there are.
Not refused, but to be known:
- of a row, `input_ids`, `labels` and `attention_mask` are read, in the main process, whatever
  `dataloader_num_workers` says;
- a Trainer class that tokenizes or packs `train_dataset` itself must be told not to: it gets slots;
- Influence wants the moments of an Adam, and fails at its first refresh with another optimizer;
- methods see the model without dropout;
- sizes of data sets over 1000 rows are estimates; FLOPs are those of a row of mean length;
- the notes of a resumed training are those since it resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.api import Mixer
from harness.errors import SpecError
from harness.trainer.rows import DataShelf

if TYPE_CHECKING:
    from harness.trainer.session import Session


@dataclass(kw_only=True)
class Mixture:
    """Settings, checked when they are made; SpecError says in one line what does not fit."""

    mixer: Mixer
    train: Mapping[str, Any]
    """Domain -> tokenized data set: len() and [i], which gives `input_ids` and maybe `labels`."""
    probe: Mapping[str, Any] = field(default_factory=dict)
    """Rows that the method may look at, by domain: never the ones you evaluate on."""
    targets: Mapping[str, float] | None = None
    """What the mixture is for, as weights; unset for all domains with a probe set, equally."""
    tokens: Mapping[str, int] | None = None
    """Tokens of each trained domain, for the natural proportions; unset to count or estimate."""
    seed: int = 0
    """Keys the draws: the same seed and weights give the same rows."""
    session: Session | None = field(default=None, init=False, repr=False)
    """The training in progress, or the last one: weights, notes, cost."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained on, before anything is loaded onto a device."""
        if not isinstance(self.mixer, Mixer):
            raise SpecError(f"mixer: {self.mixer!r} is no Mixer; give one, such as Static()")
        name = type(self.mixer).__name__
        if type(self.mixer).plan is not Mixer.plan:
            fix = "use `steelyard run`, and give the weights that it finds to Static"
            raise SpecError(f"mixer: {name} plans other runs, which a Trainer cannot do; {fix}")
        self._check_data()
        self._check_targets()
        if self.tokens is not None:
            self._check_tokens(self.tokens)
        try:
            self.mixer.check(self.domains, self.target_weights())
        except ValueError as error:
            raise SpecError(f"mixer: {name}: {error}") from None

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that are trained on."""
        return tuple(self.train)

    @property
    def probe_domains(self) -> tuple[str, ...]:
        """Trained domains, then those that only have a probe set."""
        return self.domains + tuple(name for name in self.probe if name not in self.train)

    def target_weights(self) -> dict[str, float]:
        """Return the declared targets, scaled to sum 1."""
        named = self.targets or dict.fromkeys(self.probe or self.train, 1.0)
        total = sum(named.values())
        return {domain: weight / total for domain, weight in named.items()}

    def count_tokens(self) -> dict[str, int]:
        """Return the size of each trained domain in tokens: as given, counted, or estimated."""
        if self.tokens is not None:
            return dict(self.tokens)
        shelf = DataShelf("train", self.train)
        return {domain: shelf.count_tokens(domain, self.seed) for domain in self.domains}

    def trainer(self, trainer_class: Any, model: Any, args: Any, **options: Any) -> Any:
        """Return a trainer_class(model, args, **options) that trains on this mixture.

        `trainer_class` is transformers.Trainer or a subclass of it; `train_dataset` is ours to
        give. Saves and resumes with the Trainer's own checkpoints, and writes weights and overhead
        to its log and a summary into its output_dir.
        """
        from harness.trainer.hugging_face import make_trainer

        return make_trainer(self, trainer_class, model, args, options)

    def summary(self) -> dict[str, Any]:
        """Return what the last training did: weights, rows, passes, and the method's bill."""
        if self.session is None:
            raise SpecError("summary: nothing has been trained yet; call trainer.train() first")
        return self.session.summary()

    def _check_data(self) -> None:
        if not self.train:
            raise SpecError("train: no domain; give at least one data set by name")
        for split, data in (("train", self.train), ("probe", self.probe)):
            for domain, rows in data.items():
                where = f"{split}[{domain!r}]"
                if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
                    kind = type(rows).__name__
                    raise SpecError(f"{where}: a {kind} has no len() and [i]; give a map-style one")
                if len(rows) == 0:
                    raise SpecError(f"{where}: the data set is empty")
        for domain, rows in self.probe.items():
            if any(rows is other for other in self.train.values()):
                raise SpecError(f"probe[{domain!r}]: is trained on as well; split it first")

    def _check_targets(self) -> None:
        for domain, weight in (self.targets or {}).items():
            if domain not in self.probe_domains:
                known = ", ".join(self.probe_domains)
                raise SpecError(f"targets: {domain!r} is no domain; choose from {known}")
            if not 0 <= weight < math.inf:
                raise SpecError(f"targets: the weight of {domain!r} is {weight}; give 0 or more")
            if weight and self.probe and domain not in self.probe:
                raise SpecError(f"targets: {domain!r} has no probe set; add probe[{domain!r}]")
        if self.targets is not None and not sum(self.targets.values()):
            raise SpecError("targets: no weight is positive; leave targets out for equal ones")

    def _check_tokens(self, tokens: Mapping[str, int]) -> None:
        if set(tokens) != set(self.train) or not all(size > 0 for size in tokens.values()):
            raise SpecError(f"tokens: {dict(tokens)} is not a positive number for each of train's")
