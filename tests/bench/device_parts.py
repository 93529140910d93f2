"""What is measured on a device: training, influence, methods, scores.

Every part yields lines as it goes, each a plain dict, so that what was found is kept when the time
ends. `tests/bench/device.py` runs them.
"""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from scipy import stats

from baselines.ado import ADO
from baselines.aioli import Aioli
from baselines.chameleon import ChameleonMain
from baselines.doge import DoGEProxy
from baselines.doremi import DoReMiProxy
from baselines.influence import Influence
from baselines.odm import ODM
from baselines.shearing import ShearingMain
from baselines.skill_it import SkillItMain
from baselines.static import Static
from harness.influence.directional import row_losses
from harness.influence.directional_estimator import Directional
from harness.influence.ekfac import Ekfac
from harness.influence.estimators import ESTIMATORS
from harness.influence.flops import chunks
from harness.influence.gradients import GradDot, Group
from harness.influence.influcoder import Influcoder
from harness.influence.influcoder.lora_gradients import (
    Adapter,
    adapted,
    adapted_copy,
    row_features,
)
from harness.influence.landmark import HiddenLandmark, JvpLandmark
from harness.influence.rebalancing import refresh
from harness.loop import Loop
from harness.model import build_model, count_row_flops, token_losses
from tests.bench import device_kernels
from tests.bench.device_world import (
    DOMAINS,
    GPT2_SMALL,
    Device,
    Size,
    device_loop,
    floors,
    seconds_of,
    tiny,
)

Line = dict[str, Any]
GIB = 2**30


def free(device: str) -> None:
    """Forget what the last part held and compiled."""
    gc.collect()
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float | None:
    """Return the most memory that tensors took since `free`, where the device tells."""
    return round(torch.cuda.max_memory_allocated() / GIB, 2) if device == "cuda" else None


def training(
    size: Size, name: str, device: str, known: Device, steps: int, compiled: bool
) -> Iterator[Line]:
    """Time a static arm's steps, beside both floors; then the same steps twice, bit by bit."""
    loop = device_loop(size, device, compiled=compiled)
    first = seconds_of(loop.step, device, 1)
    for _ in range(3):
        loop.step()
    step = seconds_of(loop.step, device, 4, steps)
    flops, least = sum(loop.view.row_flops) * size.rows, floors(loop, known)
    yield {
        "what": f"{name}, {size.rows} x {size.tokens}, {'compiled' if compiled else 'eager'}",
        "parameters": sum(p.numel() for p in loop.view.model.parameters()),
        "step_ms": round(1e3 * step, 3),
        "tokens_per_second": round(size.rows * size.tokens / step),
        "mfu": round(flops / step / known.peak, 4) if known.peak else None,
        "of_a_large_product": round(least.operations / step, 4),
        "floor_operations_ms": round(1e3 * least.operations, 3),
        "floor_bytes_ms": round(1e3 * least.bytes, 3),
        "peak_gib": peak_gib(device),
        "first_step_s": round(first, 1),
    }
    yield {"what": f"{name}: equal bits of two runs", **_twice(loop, 8)}
    yield from device_kernels.of_steps(loop, name, 3)
    loop.close()


def _twice(loop: Loop, steps: int) -> Line:
    """Run the same steps from the same state twice, by the same compiled step."""
    state = copy.deepcopy(loop.view.model.state_dict())
    optimizer = copy.deepcopy(loop.view.optimizer.state_dict())
    seen, step = loop.view.seen.clone(), loop.view.step
    ends = []
    for _ in range(2):
        loop.view.model.load_state_dict(state)
        loop.view.optimizer.load_state_dict(copy.deepcopy(optimizer))
        loop.view.seen.copy_(seen)
        loop.view.step = step
        for _i in range(steps):
            loop.step()
        loop._catch_up()
        ends.append([p.detach().clone() for p in loop.view.model.parameters()])
    moved = max(float((a - b).abs().max()) for a, b in zip(ends[0], state.values(), strict=False))
    equal = all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    return {"steps": steps, "equal": equal, "moved": moved > 0}


def waits(device: str, size: Size) -> Iterator[Line]:
    """Count host synchronisations in a step by torch's own watch, and name the attention kernel."""
    rows: dict[str, Any] = {"static": Static(), "odm": ODM(), "influence": Influence(every=10**6)}
    for name, mixer in rows.items():
        loop = device_loop(size, device, mixer)
        for _ in range(4):
            loop.step()
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for _ in range(5):
                loop.step()
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        told = {str(w.message).split(".")[0][:80] for w in found}
        where = {f"{w.filename.rsplit('/', 1)[-1]}:{w.lineno}" for w in found}
        line = {"what": f"host synchronisations in 5 steps ({name})", "count": len(found)}
        yield {**line, "told": sorted(told)[:3], "where": sorted(where)[:6]}
        if name == "static":
            yield {"what": "attention kernels of a step", "kernels": device_kernels.attention(loop)}
        loop.close()


def by_gradients() -> dict[str, Any]:
    """Return the estimators whose refresh is a pass or two over the rows."""
    return {
        "directional, by default": Directional(),
        "directional, bfloat16, central": Directional(difference="central", precision="bfloat16"),
        "grad_dot, bfloat16 (exact)": GradDot(precision="bfloat16"),
        "group, bfloat16 (exact)": Group(precision="bfloat16"),
        "group, float32 (exact)": Group(),
    }


def by_landmarks(is_tiny: bool) -> dict[str, Any]:
    """Return the estimators that embed rows and fit landmarks."""
    count = 4 if is_tiny else 64
    return {
        f"hidden_landmark, {count}": HiddenLandmark(landmarks=count),
        f"jvp_landmark, {count}": JvpLandmark(landmarks=count, chunk_rows=8),
    }


def influence(
    size: Size, name: str, device: str, step: float, is_tiny: bool, arms: dict[str, Any]
) -> Iterator[Line]:
    """Time a refresh by each estimator beside a training step of `step` seconds."""
    free(device)
    loop = device_loop(size, device)
    for _ in range(5):
        loop.step()
    loop._catch_up()
    for arm, estimator in arms.items():
        plan = Influence(estimator=estimator, fidelity_every=0, rows=4 if is_tiny else 16)
        try:
            free(device)
            before = loop.view.spent
            call = partial(refresh, loop.view, {}, plan, 0)
            about = call().about
            each = seconds_of(call, device, 2)
            line = {
                "what": f"{name}: refresh by {arm}, {plan.rows} rows a domain",
                "seconds": round(each, 4),
                "training_steps": round(each / step, 1),
                "share_every_100": round(each / step / 100, 4),
                "flops": (loop.view.spent - before) / 3,
                "peak_gib": peak_gib(device),
            }
            yield {**line, "form": about.get("form")}
        except (RuntimeError, ValueError, ImportError) as error:
            yield {"what": f"{name}: refresh by {arm}", "error": _short(error)}
    loop.close()


def overhead(
    size: Size, name: str, device: str, steps: int, compiled: bool = False
) -> Iterator[Line]:
    """Run the influence arm at its defaults, and read its bill."""
    free(device)
    loop = device_loop(size, device, Influence(), steps=steps, compiled=compiled)
    if compiled:  # the first step's minute is no part of what is compared
        loop.step()
        loop._catch_up()
        loop.meter.accounts["train"].seconds = 0.0
        steps -= 1
    for _ in range(steps):
        loop.step()
    loop._catch_up()
    loop.meter.close()
    train, mixer = (loop.meter.accounts[account] for account in ("train", "mixer"))
    yield {
        "what": f"{name}: influence at its defaults over {steps} steps, overhead",
        "of_seconds": round(mixer.seconds / train.seconds, 4),
        "of_flops": round(mixer.flops / train.flops, 4),
        "refreshes": int(loop.state["refreshes"]),
    }
    loop.close()


def methods(device: str) -> Iterator[Line]:
    """Take every method and estimator through 12 steps, beside the same run on the CPU."""
    size = tiny(GPT2_SMALL)
    for name, mixer in _mixers().items():
        try:
            ends = [_decided(size, place, mixer) for place in dict.fromkeys(("cpu", device))]
            apart = float((ends[0] - ends[-1]).abs().max())
            moved = float((ends[0] - ends[0][0]).abs().max()) > 0
            yield {"what": f"method {name}", "apart_from_cpu": apart, "weights_moved": moved}
        except TimeoutError:
            raise
        except Exception as error:  # each is told, and the next one tried
            yield {"what": f"method {name}", "error": _short(error)}


def _decided(size: Size, device: str, mixer: Any) -> torch.Tensor:
    """Return the method's weights, of sampling or of the loss, after each of six steps [6, K]."""
    loop = device_loop(
        size, device, mixer, precision="float32", steps=12, open_model=partial(_other, size, device)
    )
    found = []
    for _ in range(6):
        loop.step()
        state = loop.state
        found.append(state.get("alpha", state.get("weights", torch.zeros(5))).double().clone())
    loop.close()
    return torch.stack(found)


def _mixers() -> dict[str, Any]:
    by = {"every": 2, "rows": 3, "probe_rows": 3, "fidelity_every": 1, "fidelity_rows": 2}
    special: dict[str, Any] = {
        "ekfac": Ekfac(fitter="hooks", check_rows=2),
        "jvp_landmark": JvpLandmark(landmarks=6, dims=64),
        "hidden_landmark": HiddenLandmark(landmarks=6, dims=64),
    }
    found: dict[str, Any] = {"static": Static()}
    for kind, make in ESTIMATORS.items():
        if kind == "influcoder":  # last: it trains
            continue
        found[f"influence by {kind}"] = Influence(estimator=special.get(kind) or make(), **by)  # type: ignore[arg-type, operator]
    found["influence, second order"] = Influence(rule="qp", second_order=True, **by)  # type: ignore[arg-type]
    found["odm"] = ODM()
    found["ado"] = ADO(start=3, every=3, ignore=0, stride=1, starts=2)
    found["aioli"] = Aioli(every=12, lp_rounds=1, lp_steps=1, probe_rows=2)
    found["doge"] = DoGEProxy(objective="target", mu=0.05, probe_rows=2)
    found["doremi"] = DoReMiProxy(eta=1.0, c=1e-3, reference="other")
    goals = dict.fromkeys(DOMAINS, 4.0)
    found["shearing"] = ShearingMain(reference=goals, every=3, clip=True, c=1e-4, probe_rows=2)
    graph = {a: {b: 0.5 + 0.1 * (a == b) for b in DOMAINS} for a in DOMAINS}
    found["skill_it"] = SkillItMain(graph=graph, eta=0.2, window=2, rounds=3, probe_rows=2)
    found["chameleon"] = ChameleonMain(
        proxy="other", form="pretraining", regularization=10.0, temperature=1.0, rows=3
    )
    found["influence by influcoder"] = Influence(estimator=Influcoder(epochs=1), **by)  # type: ignore[arg-type]
    return found


def _other(size: Size, device: str, run_id: str) -> Any:
    """Return the model of another run, frozen, and what its rows cost."""
    model = build_model(size.model, size.vocab_size, size.tokens, seed=1)
    cost = count_row_flops(size.model, size.vocab_size, size.tokens)
    return model.to(device).requires_grad_(False), cost


def scores(size: Size, name: str, device: str, is_tiny: bool) -> Iterator[Line]:
    """Compare scores with a training step's passes on as many rows; the issue's own ratios."""
    free(device)
    loop = device_loop(size, device, precision="float32")
    for _ in range(10 if is_tiny else 60):
        loop.step()
    loop._catch_up()
    view = loop.view
    many, few, chunk = (10, 4, 4) if is_tiny else (1024, 32, 128)
    rows = view.candidates(-(-many // 5)).select(slice(0, many))
    queries = view.probes(13).select(slice(0, 64))
    some = rows.select(slice(0, few))
    steps = {
        (precision, part): seconds_of(
            partial(passes, loop, rows, part, precision), device, 3
        )
        / many
        for precision in ("float32", "bfloat16")
        for part in (size.rows, chunk)
    }  # fmt: skip
    single = seconds_of(partial(one_by_one, loop, some), device, 3) / few
    kept: dict[str, Any] = {}
    for precision in ("float32", "bfloat16"):
        for part in (size.rows, chunk):
            estimator = GradDot(
                preconditioner="none", biases=False, precision=precision, chunk_rows=part  # type: ignore[arg-type]
            )  # fmt: skip
            state = estimator.prepare(view, {}, queries)
            kept[precision] = estimator.score(view, state, rows).total
            took = seconds_of(partial(estimator.score, view, state, rows), device, 3) / many
            yield {
                "what": f"{name}: grad_dot, {len(queries.rows)} queries x {many} rows, {precision},"
                f" {part} rows a pass",
                "steps_per_row": round(took / steps[precision, part], 3),
                "steps_per_row_of_batch": round(took / steps[precision, size.rows], 3),
                "one_backward_per_row": round(single / took, 2),
                "us_per_row": round(1e6 * took, 2),
                "peak_gib": peak_gib(device),
            }
    rank = stats.spearmanr(kept["float32"].flatten(), kept["bfloat16"].flatten())[0]
    yield {"what": f"{name}: Spearman of bfloat16 with float32", "figure": round(float(rank), 6)}
    yield from _features(loop, name, rows.select(slice(0, min(many, 256))), some, chunk)
    yield from _directions(
        loop, name, rows.select(slice(0, min(many, 512))), steps["float32", size.rows]
    )
    loop.close()


def passes(loop: Loop, rows: Any, size: int, precision: str) -> None:
    """Run a training step's forward and backward passes on the rows."""
    parameters = list(loop.view.model.parameters())
    for chunk in chunks(rows, size):
        with torch.autocast(loop.spec.device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = token_losses(loop.view.model, chunk).mean()
        torch.autograd.grad(loss, parameters)


def one_by_one(loop: Loop, rows: Any) -> None:
    """Run one backward pass for each row."""
    passes(loop, rows, 1, "float32")


def _features(loop: Loop, name: str, rows: Any, some: Any, chunk: int) -> Iterator[Line]:
    """Compare Influcoder's features with one backward pass per row through the same adapter."""
    view, adapter, device = loop.view, Adapter(), loop.spec.device
    try:
        on, plain = adapted(view.model, adapter), adapted_copy(view.model, adapter)
        matrices = [p for n, p in plain.named_parameters() if ".lora_B." in n]
        for parameter in matrices:
            parameter.requires_grad_(True)

        def one_at_a_time() -> None:
            for i in range(len(some.rows)):
                loss = token_losses(plain, some.select(slice(i, i + 1))).mean()
                torch.autograd.grad(loss, matrices)

        for part in (16, chunk):
            together = partial(row_features, view, adapter, on, rows, part)
            together()
            took = seconds_of(together, device, 3) / len(rows.rows)
            single = seconds_of(one_at_a_time, device, 3) / len(some.rows)
            yield {
                "what": f"{name}: one backward per row / Influcoder features, {part} rows a pass",
                "figure": round(single / took, 2),
                "us_per_row": round(1e6 * took, 2),
            }
    except (ImportError, RuntimeError, ValueError) as error:
        yield {"what": f"{name}: Influcoder features", "error": _short(error)}


def _directions(loop: Loop, name: str, rows: Any, step: float) -> Iterator[Line]:
    view, device, query = loop.view, loop.spec.device, loop.view.probes(8)
    calls: dict[str, Callable[[], Any]] = {}
    estimator = Directional(queries="target")
    state = estimator.prepare(view, {}, query)
    base = row_losses(view, rows, {}, 0.0)
    calls["directional, base loss at hand"] = partial(estimator.score, view, state, rows, base)
    calls["directional, without"] = partial(estimator.score, view, state, rows)
    curved = Ekfac(queries="mean", fitter="hooks", route="directional")
    fitted = curved.fit(view, rows.select(slice(0, 96)))
    prepared = curved.prepare(view, fitted, query.select(slice(0, 4)))
    calls["EKFAC, one query, base loss at hand"] = partial(
        curved.score, view, prepared, rows, base=base
    )
    calls["EKFAC, one query, without"] = partial(curved.score, view, prepared, rows)
    form = estimator.score(view, state, rows.select(slice(0, 4))).about["form"]
    for what, call in calls.items():
        call()
        took = seconds_of(call, device, 3) / len(rows.rows)
        yield {"what": f"{name}: {what}", "steps_per_row": round(took / step, 3), "form": form}
    took = seconds_of(partial(curved.fit, view, rows.select(slice(0, 96))), device, 2) / 96
    yield {"what": f"{name}: EKFAC fit by hooks", "steps_per_row": round(took / step, 2)}


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
