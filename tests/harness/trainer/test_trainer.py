"""A mixer inside Hugging Face Trainer sees, draws and bills what it does in our own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from baselines.influence import Influence
from baselines.static import Static
from harness.api import Batch, Mixer, State, View
from harness.corpus import TokenStore
from harness.domains import domain_mean, uniform
from harness.errors import SpecError
from harness.influence.directional_estimator import Directional
from harness.loop import Loop
from harness.model import build_model, token_losses
from harness.optim import build_optimizer
from harness.spec import Batching, Model, Optimizer, RunSpec
from harness.stream import Stream
from harness.trainer import Mixture
from harness.trainer.session import plain
from tests.tiny import SHAPE, MakeLoop, MakeSpec, Onlooker

TOKENS = 32
Drawn = list[tuple[list[int], list[int]]]  # domains and rows, one pair a step


@dataclass(frozen=True)
class Watching(Mixer):
    """Keeps the mean loss of each domain in every batch it is shown."""

    def init(self, view: View) -> State:
        return {"seen": torch.zeros(0, len(view.domains), dtype=torch.float64)}

    def propose(self, view: View, state: State) -> Tensor:
        return uniform(len(view.domains))

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        num_domains = len(view.domains)
        nothing = torch.zeros(num_domains)
        means = domain_mean(losses, batch.domains, num_domains, nothing, batch.mask)
        state["seen"] = torch.cat([state["seen"], means[None]])
        return losses.new_ones(len(losses))


@dataclass(frozen=True)
class Weighing(Watching):
    """Trains domain 0 harder, and every row by its own rounded loss."""

    reweights: ClassVar[bool] = True

    def observe(self, view: View, state: State, batch: Batch, losses: Tensor) -> Tensor:
        super().observe(view, state, batch, losses)
        return 1.0 + 2.0 * (batch.domains == 0).to(losses) + losses.mean(1).round(decimals=1)


@dataclass(frozen=True)
class Probing(Mixer):
    """Does something with the view at step 1."""

    act: Callable[[View], Any] = field(repr=False)

    def propose(self, view: View, state: State) -> Tensor:
        if view.step == 1:
            return self.act(view)
        return uniform(len(view.domains))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Return the domains and rows of every step drawn from now on."""
    pairs: Drawn = []
    draw = Stream.draw_on_host

    def recording(*args: Any) -> Batch:
        batch = draw(*args)
        pairs.append((batch.domains.tolist(), batch.rows.tolist()))
        return batch

    monkeypatch.setattr(Stream, "draw_on_host", recording)
    return pairs


@pytest.fixture
def plainest(make_spec: MakeSpec) -> RunSpec:
    """Return the tiny run as a Trainer can repeat it: constant rate, no clipping, no evaluation."""
    optimizer = Optimizer(learning_rate=3e-3, schedule="constant", warmup=0.0, clip=None)
    model = Model(config=SHAPE | {"n_positions": TOKENS + 1})
    return make_spec(optimizer=optimizer, model=model, evaluation=None)


def rows_of(store: TokenStore, split: str, domains: tuple[str, ...]) -> dict[str, Any]:
    """Return a split of the tiny corpus as a user's data sets: rows of T + 1 tokens."""
    data = {}
    for domain in domains:
        stream = store.stream(domain, split)
        firsts = range(0, len(stream) - TOKENS, TOKENS)
        data[domain] = [{"input_ids": stream[i : i + TOKENS + 1]} for i in firsts]
    return data


@pytest.fixture
def mix(store: TokenStore) -> Callable[[Mixer], Mixture]:
    """Return a function from a mixer to the mixture of the tiny corpus, target d."""

    def make(mixer: Mixer) -> Mixture:
        train, probe = (
            rows_of(store, "train", store.trained),
            rows_of(store, "probe", store.domains),
        )
        return Mixture(mixer=mixer, train=train, probe=probe, targets={"d": 1.0}, seed=0)

    return make


Make = Callable[..., Any]


@pytest.fixture
def make(mix: Callable[[Mixer], Mixture], plainest: RunSpec, tmp_path: Path) -> Make:
    """Return make(mixer, **arguments): a Trainer on the tiny corpus, like `plainest` by default."""
    from transformers import Trainer, TrainingArguments

    def build(
        mixer: Mixer, model: nn.Module | None = None, options: Any = None, **changes: Any
    ) -> Any:
        arguments = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": plainest.num_steps,
            "per_device_train_batch_size": plainest.batch.rows,
            "lr_scheduler_type": "constant",
            "learning_rate": 3e-3,
            "max_grad_norm": 0.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        model = model if model is not None else build_model(plainest.model, 512, TOKENS, 0)
        optimizers = build_optimizer(model, plainest.optimizer), None
        arguments = TrainingArguments(**(arguments | changes))
        options = {"optimizers": optimizers} | (options or {})
        return mix(mixer).trainer(Trainer, model, arguments, **options)

    return build


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep the Trainer's tables out of the test's output."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def log_of(trainer: Any, name: str) -> list[float]:
    """Return one number of the Trainer's log, step by step."""
    return [line[name] for line in trainer.state.log_history if name in line]


def run_loop(make_loop: MakeLoop, spec: RunSpec) -> tuple[Loop, list[dict[str, Any]]]:
    """Return a finished loop and its step records."""
    onlooker = Onlooker()
    loop = make_loop(spec, watch=onlooker)
    loop.run()
    return loop, [record for record in onlooker.records if record["kind"] == "step"]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_static_draws_the_same_rows_and_learns_the_same(
    accumulate: int, make: Make, make_loop: MakeLoop, plainest: RunSpec, drawn: Drawn
) -> None:
    """Our loop and the Trainer: equal rows at every step, equal losses, equal bill."""
    loop, records = run_loop(make_loop, plainest)
    ours = drawn.copy()
    drawn.clear()
    trainer = make(
        Static(),
        per_device_train_batch_size=8 // accumulate,
        gradient_accumulation_steps=accumulate,
    )

    trainer.train()

    assert len(ours) == plainest.num_steps
    assert drawn == ours
    assert log_of(trainer, "loss") == pytest.approx([r["loss"] for r in records], rel=1e-5)
    session = trainer.mixture.session
    assert torch.equal(session.view.seen, loop.view.seen)
    for account in ("train", "mixer"):
        for unit in ("flops", "tokens"):
            expected = getattr(loop.meter.accounts[account], unit)
            assert getattr(session.meter.accounts[account], unit) == expected
    for (name, theirs), mine in zip(
        trainer.model.named_parameters(), loop.view.model.parameters(), strict=True
    ):
        assert_close(theirs, mine, rtol=1e-3, atol=1e-5, msg=name)


def test_influence_finds_the_same_weights(
    make: Make, make_loop: MakeLoop, plainest: RunSpec, drawn: Drawn
) -> None:
    """The gradient, the moments, the finite differences and the rows looked at are the same."""
    mixer = Influence(every=4, rows=4, probe_rows=4, estimator=Directional(check_rows=4))
    loop, records = run_loop(make_loop, replace(plainest, mixer=mixer))
    ours = drawn.copy()
    drawn.clear()
    trainer = make(mixer)

    trainer.train()

    assert drawn == ours
    weights = torch.tensor([log_of(trainer, f"weights/{d}") for d in "abc"]).T[: len(records)]
    assert_close(weights, torch.tensor([r["weights"] for r in records]), rtol=0, atol=2e-3)
    assert float(weights.std(0).max()) > 0.05  # they did move
    session = trainer.mixture.session
    assert session.meter.accounts["mixer"].flops == loop.meter.accounts["mixer"].flops > 0
    told = [(note["step"], note["name"]) for note in session.notes]
    assert told == [(4, "rebalance"), (4, "fidelity"), (8, "rebalance")]


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("mixer", [Watching(), Weighing()], ids=["watching", "weighing"])
def test_token_losses_and_loss_weights_are_the_loops(
    mixer: Mixer, accumulate: int, make: Make, make_loop: MakeLoop, plainest: RunSpec
) -> None:
    """`observe` sees the whole batch once a step, and its loss weights change the same loss."""
    rows = 8 // accumulate
    batching = Batching(rows=8, tokens=TOKENS, micro_rows=None if accumulate == 1 else rows)
    loop, records = run_loop(make_loop, replace(plainest, mixer=mixer, batch=batching))
    trainer = make(mixer, per_device_train_batch_size=rows, gradient_accumulation_steps=accumulate)

    trainer.train()

    session = trainer.mixture.session
    assert session.state["seen"].shape == (plainest.num_steps, 3)
    assert_close(session.state["seen"], loop.state["seen"], rtol=1e-3, atol=1e-3)
    assert log_of(trainer, "loss") == pytest.approx([r["loss"] for r in records], rel=1e-3)
    assert session.meter.accounts["mixer"].flops == loop.meter.accounts["mixer"].flops


def test_loader_workers_change_nothing(make: Make, drawn: Drawn) -> None:
    """They fetch slots ahead of time; rows are drawn when the step begins."""
    make(Static()).train()
    alone = drawn.copy()
    drawn.clear()

    make(Static(), dataloader_num_workers=1, dataloader_prefetch_factor=4).train()

    assert drawn == alone


@pytest.mark.parametrize("mixer", [Influence(every=3, rows=2, probe_rows=2), Weighing()], ids=type)
def test_a_resumed_training_ends_with_the_same_bits(
    mixer: Mixer, make: Make, plainest: RunSpec, drawn: Drawn, tmp_path: Path
) -> None:
    """With dropout, two epochs and accumulation: model, mixer state, weights, seen and rows."""
    settings = {"save_strategy": "steps", "save_steps": 5, "gradient_accumulation_steps": 2}
    settings |= {"per_device_train_batch_size": 15, "max_steps": 14}
    whole = make(mixer, model=dropped(build_model(plainest.model, 512, TOKENS, 0)), **settings)
    whole.train()
    rows_after_5 = drawn[5:]
    drawn.clear()

    resumed = make(mixer, model=dropped(build_model(plainest.model, 512, TOKENS, 0)), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))

    assert drawn == rows_after_5
    assert whole.state.epoch > 1
    a, b = whole.mixture.session, resumed.mixture.session
    assert a.view.step == b.view.step == 14
    assert all(torch.equal(a.state[name], b.state[name]) for name in a.state)
    assert torch.equal(a.view.seen, b.view.seen)
    assert torch.equal(a.weight_sum, b.weight_sum)
    for x, y in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(x, y)
    bills = [{k: v["flops"] for k, v in s.meter.to_json().items()} for s in (a, b)]
    assert bills[0] == bills[1]


def dropped(model: nn.Module) -> nn.Module:
    """Return the model with dropout switched on."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    return model


def test_resuming_with_other_settings_is_refused(make: Make, tmp_path: Path) -> None:
    make(Static(), max_steps=2, save_strategy="steps", save_steps=2).train()
    folder = tmp_path / "out" / "checkpoint-2"

    with pytest.raises(SpecError, match=r"resume: mixer was .*'uniform'.* and is .*'natural'"):
        make(Static(weights="natural"), max_steps=4).train(resume_from_checkpoint=str(folder))
    (folder / "mixture.pt").unlink()
    with pytest.raises(SpecError, match=r"mixture\.pt: not there; resume from a checkpoint of a"):
        make(Static(), max_steps=4).train(resume_from_checkpoint=True)


def test_a_domain_that_runs_out_is_shuffled_anew(make: Make, drawn: Drawn) -> None:
    """Each pass has every row once; the order differs from pass to pass."""
    trainer = make(Static(weights={"a": 1.0}), max_steps=30)
    trainer.train()

    rows = [row for _, step_rows in drawn for row in step_rows]
    size = len(trainer.mixture.train["a"])
    passes = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
    assert len(passes) == 30 * 8 // size >= 2
    assert all(sorted(one) == list(range(size)) for one in passes)
    assert all(one != other for one, other in pairwise(passes))
    assert trainer.mixture.summary()["passes"] == {"a": 240 / size, "b": 0.0, "c": 0.0}


def test_epochs_are_as_long_as_the_data(make: Make, drawn: Drawn) -> None:
    """One epoch is one row drawn per row there is; its last step may be smaller."""
    trainer = make(Static(), max_steps=-1, num_train_epochs=1, per_device_train_batch_size=100)
    total = sum(len(rows) for rows in trainer.mixture.train.values())
    trainer.train()

    assert sum(len(rows) for _, rows in drawn) == total
    assert len(drawn[-1][1]) == total % 100
    assert trainer.state.global_step == -(-total // 100)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda view: 1 / 0, ZeroDivisionError, "in Probing.propose at step 1"),
        (
            lambda view: torch.ones(2),
            ValueError,
            "proposed at step 1: expected 3 weights, got (2,)",
        ),
        (lambda view: -uniform(3), ValueError, "at step 1: the weight of domain 'a' is -0.333"),
        (lambda view: view.finished("abc"), SpecError, "a Trainer has no earlier runs"),
    ],
)
def test_a_mixers_failure_says_where(
    act: Any, error: type[Exception], message: str, make: Make
) -> None:
    with pytest.raises(error) as caught:
        make(Probing(act)).train()

    assert message in "\n".join([str(caught.value), *caught.value.__notes__])


def test_methods_see_the_model_without_dropout_and_leave_it_training(make: Make) -> None:
    """Two looks agree to the bit, and the training step still drops out afterwards."""
    looks, modes = [], []

    def look(view: View) -> Tensor:
        batch = view.candidates(2)
        looks.extend([view.token_losses(batch), view.token_losses(batch)])
        modes.append(view.model.training)
        return uniform(len(view.domains))

    shape = Model(config=SHAPE | {"n_positions": TOKENS + 1})
    make(Probing(look), model=dropped(build_model(shape, 512, TOKENS, 0)), max_steps=2).train()

    assert torch.equal(*looks)
    assert modes == [False]
    model = dropped(build_model(Model(config=SHAPE), 512, TOKENS, 0)).train()
    with plain(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())


def test_under_bfloat16_a_step_along_a_direction_is_float32(make: Make) -> None:
    """The Trainer's autocast is taken off the model while a method looks, and put back."""
    found = {}

    def look(view: View) -> Tensor:
        batch = view.candidates(2)
        nowhere = {name: torch.zeros_like(p) for name, p in view.model.named_parameters()}
        found["along"] = view.token_losses(batch, along=nowhere, eps=1.0)
        found["coarse"] = view.token_losses(batch)
        with torch.no_grad():
            found["float32"] = token_losses(view.model, batch)
        return uniform(len(view.domains))

    trainer = make(Probing(look), bf16=True, max_steps=2)
    trainer.train()

    assert_close(found["along"], found["float32"], rtol=1e-6, atol=1e-6)
    assert float((found["coarse"] - found["float32"]).abs().max()) > 1e-4
    assert trainer.model.forward is not trainer.model._original_forward


def test_gradients_of_frozen_parameters_and_steps_in_half_precision_are_refused(make: Make) -> None:
    shape = Model(config=SHAPE | {"n_positions": 33})
    frozen = build_model(shape, 512, 33, 0)
    next(frozen.parameters()).requires_grad_(False)
    with pytest.raises(SpecError, match=r"model: transformer.wte.weight is frozen"):
        make(Influence(every=1, rows=2, probe_rows=2), model=frozen, max_steps=2).train()

    half = build_model(shape, 512, 33, 0).to(torch.bfloat16)
    with pytest.raises(SpecError, match=r"is torch\.bfloat16, in which a small step along"):
        make(Influence(every=1, rows=2, probe_rows=2), model=half, max_steps=2).train()


def test_evaluation_is_the_trainers_own(make: Make, store: TokenStore) -> None:
    """During and after training it gives what a plain Trainer gives on the same model."""
    from transformers import Trainer

    from harness.trainer import collate

    held_out = rows_of(store, "heldout", ("a",))["a"]
    trainer = make(
        Watching(), options={"eval_dataset": held_out}, eval_strategy="steps", eval_steps=6
    )
    before = trainer.evaluate()["eval_loss"]  # a session is not needed for it
    trainer.train()

    alone = Trainer(trainer.model, trainer.args, data_collator=collate, eval_dataset=held_out)
    after = alone.evaluate()["eval_loss"]
    halfway, end = log_of(trainer, "eval_loss")
    assert end == after < halfway < before
    assert trainer.mixture.session.state["seen"].shape[0] == 12  # evaluation was not observed


def test_weights_and_overhead_are_logged_and_summed_up(make: Make, tmp_path: Path) -> None:
    from harness.files import read_json

    trainer = make(Static(weights={"a": 0.25, "b": 0.75}), max_steps=4, logging_steps=2)
    trainer.train()

    line = trainer.state.log_history[0]
    assert (line["weights/a"], line["weights/b"], line["weights/c"]) == (0.25, 0.75, 0.0)
    assert 0 < line["overhead/share_of_train_seconds"] < 1
    assert line["overhead/seconds"] > 0
    summary = read_json(tmp_path / "out" / "mixture.json")
    assert summary == trainer.mixture.summary()
    assert summary["steps"] == 4
    assert sum(summary["rows"].values()) == 32
    assert summary["mean_weights"] == {"a": 0.25, "b": 0.75, "c": 0.0}
    assert summary["cost"]["train"]["tokens"] == 4 * 8 * TOKENS


@pytest.mark.parametrize(
    ("mixer", "changes", "options", "message"),
    [
        (Static(), {}, {"train_dataset": [1]}, "train_dataset: the mixture brings it"),
        (
            Static(),
            {"train_sampling_strategy": "group_by_length"},
            {},
            "train_sampling_strategy: is",
        ),
        (
            Weighing(),
            {"label_smoothing_factor": 0.1},
            {},
            "label_smoothing_factor: Weighing weighs",
        ),
        (Weighing(), {}, {"compute_loss_func": print}, "compute_loss_func: Weighing weighs the"),
    ],
)
def test_arguments_that_do_not_fit(
    mixer: Mixer, changes: Any, options: Any, message: str, make: Make
) -> None:
    with pytest.raises(SpecError) as caught:
        make(mixer, options=options, **changes)

    assert message in str(caught.value)


def test_several_workers_are_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 2))

    with pytest.raises(SpecError, match=r"not trained by several workers.*2 processes"):
        make(Static())


def test_a_masked_language_model_is_refused(make: Make) -> None:
    from transformers import BertConfig, BertForMaskedLM

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForMaskedLM(BertConfig(vocab_size=512, intermediate_size=64, **shape))

    with pytest.raises(SpecError, match="BertForMaskedLM is no causal language model"):
        make(Static(), model=model).train()


def test_only_a_trainer_class_is_taken(mix: Callable[[Mixer], Mixture]) -> None:
    with pytest.raises(SpecError, match=r"is no transformers\.Trainer"):
        mix(Static()).trainer(dict, None, None)


def test_a_training_that_ends_before_the_first_refresh_is_refused(make: Make) -> None:
    """As `steelyard run` refuses it: the method could never act."""
    with pytest.raises(SpecError, match=r"mixer: Influence: every: no refresh comes in 10 steps"):
        make(Influence(every=50), max_steps=10).train()
