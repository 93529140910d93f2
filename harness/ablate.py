"""One ablation from spec to records: corpus, grid, and the file of which run fills which cell."""

from __future__ import annotations

import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from harness.api import Mixer
from harness.corpus import corpus_id, open_corpus
from harness.data_warnings import DataWarning, log, warnings_of
from harness.errors import SpecError
from harness.files import read_json, write_json
from harness.grid import Grid
from harness.identity import describe
from harness.plans import recall
from harness.pretrained import Say, fingerprint_model, model_folder, tokenizer_folder
from harness.records import SCHEMA
from harness.resolve import num_cores, resolve
from harness.spec import Ablation, Arm
from harness.trackers import UNREACHABLE, Mirror, open_trackers, settle_wandb_mode
from harness.worker import Outcome, Progress, Site, Task

if TYPE_CHECKING:
    from harness.corpus import TokenStore


@dataclass
class Cells:
    """The ablation's file: arms x seeds, each with its runs and their state."""

    path: Path
    content: dict[str, Any]

    def settle(self, label: str, seed: int, outcome: Outcome) -> None:
        """Write down how a cell ended."""
        cell = next(c for c in self.content["arms"][label]["runs"] if c["seed"] == seed)
        pairs = [{"run_id": run_id, "role": role} for run_id, role in outcome.auxiliary]
        cell |= {"status": outcome.status, "run_id": outcome.run_id, "reason": outcome.reason}
        cell["auxiliary"] = pairs
        self.save()

    def save(self) -> None:
        """Write the file, whole."""
        self.content["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.path, self.content)


class Display:
    """What a person sees of a grid; harness/display.py shows it in a terminal."""

    def say(self, text: str) -> None:
        """Show a line about the set-up."""

    def warn(self, warnings: list[DataWarning]) -> None:
        """Show what is to be known of the data, loud warnings loudly."""

    def open(self, total: int, found: int) -> None:
        """Begin a grid of `total` cells, of which `found` were finished before."""

    def progress(self, progress: Progress) -> None:
        """Show where a run is."""

    def outcome(self, task: Task, outcome: Outcome) -> None:
        """Show how a cell ended."""

    def close(self) -> None:
        """End the grid."""


class _Notices:
    """What trackers in worker processes have to say, each thing once."""

    def __init__(self, display: Display) -> None:
        self.told: set[str] = set()
        self._display = display

    def hear(self, text: str) -> None:
        # Every worker says what befalls them all, in words of its own.
        subject = UNREACHABLE if text.startswith(UNREACHABLE) else text
        if subject not in self.told:
            self.told.add(subject)
            self._display.say(text)


@dataclass(frozen=True)
class Summary:
    """How the ablation went."""

    finished: int
    num_failed: int
    interrupted: bool
    wandb_mode: str | None = None
    """W&B's, settled; None where it is no tracker of this ablation."""


def run_ablation(
    ablation: Ablation,
    out: Path,
    jobs: int | None,
    display: Display,
    command: list[str],
    warning: str | None = None,
    wandb_mode: str | None = None,
) -> Summary:
    """Run every (arm, seed) that is not finished yet; SpecError before any compute.

    `warning` is said before the work, and after what cannot be done at all is refused.
    """
    wandb_mode = _settle_wandb(ablation.trackers, wandb_mode, display)
    mirror = _open_mirror(ablation, out, wandb_mode, display)
    _make_writable(out)
    written, (ablation, model_id) = ablation, localized(ablation, out, display.say)
    text_id = corpus_id(ablation.corpus, out / "corpora")
    check_name(written, out, text_id, model_id)
    if warning is not None:
        display.say(f"warning: {warning}")
    specs = resolve(ablation, text_id, model_id)
    tasks = [Task(label, seed, spec) for (label, seed), spec in specs.items()]
    found = {task: carried for task in tasks if (carried := recall(out, task.spec)) is not None}
    missing = _longest_first([task for task in tasks if task not in found])
    if missing:
        _check_model(ablation)
    trackers = (ablation.trackers, ablation.name, wandb_mode)
    site = Site(out, ablation.corpus, ablation.checkpoint, *trackers)
    ended = Counter[str]()
    notices = _Notices(display)
    with _grid(site, _num_workers(missing, jobs), display, notices) as grid:
        store = open_corpus(ablation.corpus, out / "corpora", display.say)
        _check_rows(ablation, store)
        warnings = warnings_of(ablation, store.manifest)
        log(warnings)
        display.warn(warnings)
        cells = _cells(written, out, store, model_id, shlex.join(command))
        cells.content["warnings"] = [warning.to_json() for warning in warnings]

        def settle(task: Task, outcome: Outcome) -> None:
            cells.settle(task.label, task.seed, outcome)
            display.outcome(task, outcome)
            ended[outcome.status] += 1

        display.open(len(tasks), len(found))
        for task, carried in found.items():
            done = Outcome("finished", carried.main, carried.auxiliary)
            cells.settle(task.label, task.seed, done)
            mirror.replay(out / "runs" / carried.main, ablation.name, task.label)
            for run_id, _ in carried.auxiliary:
                mirror.replay(out / "runs" / run_id, ablation.name, "auxiliary")
        cells.save()
        completed = grid is None or grid.run(missing, settle)
    mode = "offline" if UNREACHABLE in notices.told else wandb_mode
    return Summary(len(found) + ended["finished"], ended["failed"], not completed, mode)


def _settle_wandb(trackers: Sequence[str], flag: str | None, display: Display) -> str | None:
    """Return W&B's mode for all processes of an ablation; None where it is not among `trackers`."""
    if "wandb" not in trackers:
        if flag not in (None, "disabled"):
            raise SpecError("--wandb-mode: W&B is not among trackers; add --trackers='[\"wandb\"]'")
        return None
    try:
        return settle_wandb_mode(flag, display.say)
    except ValueError as error:
        raise SpecError(str(error)) from None


def localized(ablation: Ablation, out: Path, say: Say) -> tuple[Ablation, str]:
    """Return the ablation with local folders as sources, and the fingerprint of its model's."""
    model, tokenizer, model_id = ablation.model, ablation.tokenizer, ""
    if model.source is not None:
        trust = model.trust_remote_code
        folder = model_folder(model.source, model.revision, trust, out, say)
        model_id = fingerprint_model(folder, out)
        model = replace(model, source=str(folder))
    if tokenizer.source is not None:
        folder = tokenizer_folder(tokenizer.source, tokenizer.revision, out, say)
        tokenizer = replace(tokenizer, source=str(folder))
    return replace(ablation, model=model, tokenizer=tokenizer), model_id


def _check_model(ablation: Ablation) -> None:
    """Refuse a model that cannot be built; it imports torch, so only where something is to run."""
    tokenizer, model = ablation.tokenizer, ablation.model
    if not model.config and model.source is None:
        return  # presets are sound
    from harness.corpus.ready_tokenizer import read_ready
    from harness.corpus.tokenizer import num_tokens
    from harness.model_check import check_model

    vocab_size, mask = tokenizer.vocab_size, None
    if tokenizer.source is not None:
        ready = read_ready(Path(tokenizer.source))
        vocab_size, mask = num_tokens(ready.tokenizer), ready.mask
    check_model(model, vocab_size, ablation.batch.tokens, mask)


def check_name(ablation: Ablation, out: Path, text_id: str, model_id: str) -> None:
    """Refuse to overwrite an ablation of the same name that asked something else.

    Seeds and arms may be added. Anything else under the old name would hide what was tried before.
    `text_id` and `model_id` tell whether corpus and model are the same, wherever they lie now.
    """
    before = read_json(_path(ablation, out))
    if before is None:
        return
    old, new = before["spec"], _plain(ablation)
    is_same_text = before["corpus_id"] == text_id
    if is_same_text:
        old = {**old, "domains": new["domains"], "tokenizer": new["tokenizer"]}
    if before.get("model_id", "") == model_id:
        places = {key: new["model"][key] for key in ("source", "revision")}
        old = {**old, "model": {**old["model"], **places}}
    free = ("seeds", "arms", "trackers", "checkpoint")
    changed = [key for key in new if key not in free and old.get(key) != new[key]]
    if not is_same_text and not {"domains", "splits", "tokenizer"} & set(changed):
        changed.append("the text of its domains, or the version of what cuts it into tokens")
    arms = {label: old["arms"][label] for label in new["arms"] if label in old["arms"]}
    changed += [f"arms.{label}" for label in arms if arms[label] != new["arms"][label]]
    changed += [f"arms.{label} (gone)" for label in old["arms"] if label not in new["arms"]]
    changed += ["seeds (some gone)"] if set(old["seeds"]) - set(new["seeds"]) else []
    if changed:
        raise SpecError(
            f"name: {out} holds another ablation {ablation.name!r}, which differs in "
            f"{', '.join(changed)}; choose another name (--name={ablation.name}-2) or another --out"
        )


def _plain(ablation: Ablation) -> dict[str, Any]:
    plain = TypeAdapter(Ablation).dump_python(ablation, mode="json")
    return {**plain, "arms": {label: _plain_arm(arm) for label, arm in ablation.arms.items()}}


def _plain_arm(arm: Arm) -> dict[str, Any]:
    plain = {f.name: getattr(arm, f.name) for f in fields(arm)}
    return {**plain, "settings": describe(arm.settings)["settings"]}


def _path(ablation: Ablation, out: Path) -> Path:
    return out / "ablations" / f"{ablation.name}.json"


def _num_workers(missing: list[Task], jobs: int | None) -> int:
    """Return how many runs go at once: one on a GPU, on a CPU as many as have their threads."""
    if not missing:
        return 0
    spec = missing[0].spec
    fitting = 1 if spec.device == "cuda" else max(1, num_cores() // spec.threads)
    return min(jobs or fitting, len(missing))


def _open_mirror(ablation: Ablation, out: Path, mode: str | None, display: Display) -> Mirror:
    try:
        return open_trackers(ablation.trackers, out, mode, display.say)
    except ValueError as error:
        raise SpecError(str(error)) from None


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        reason = error.strerror or error
        raise SpecError(f"{out}: cannot be written to: {reason}; give --out a folder") from None


def _check_rows(ablation: Ablation, store: TokenStore) -> None:
    """Refuse a corpus in which a split that will be read has no whole row."""
    tokens, splits = ablation.batch.tokens, ("probe", *ablation.evaluation.splits)
    needed = [(domain, split) for domain in store.domains for split in splits]
    for domain, split in [*((domain, "train") for domain in store.trained), *needed]:
        size = len(store.stream(domain, split))
        if size < tokens + 1:
            raise SpecError(
                f"domains.{domain}: its {split} split has {size} tokens "
                f"and a row needs {tokens + 1}; give it more text, or lower batch.tokens"
            )
        mask = store.mask(domain, split)
        if mask is not None and not mask[1 : (size - 1) // tokens * tokens + 1].any():
            raise SpecError(
                f"domains.{domain}: no answer lies in a whole row of its {split} split; "
                "give it more text, or lower batch.tokens"
            )


@contextmanager
def _grid(site: Site, workers: int, display: Display, notices: _Notices) -> Iterator[Grid | None]:
    """Yield a grid whose workers are already importing torch, or None where none is needed."""
    if not workers:
        yield None
        return
    grid = Grid(site, workers, display.progress, notices.hear)
    try:
        grid.warm_up()
        yield grid
    finally:
        display.close()
        grid.close()


def _longest_first(tasks: list[Task]) -> list[Task]:
    """Put plans of several runs before single runs, so that no core idles at the end."""

    def is_single(task: Task) -> bool:
        return type(task.spec.mixer).plan is Mixer.plan

    return sorted(tasks, key=is_single)


def _cells(ablation: Ablation, out: Path, store: TokenStore, model_id: str, command: str) -> Cells:
    path, spec = _path(ablation, out), _plain(ablation)
    path.parent.mkdir(exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    pending: dict[str, Any] = {"status": "pending", "run_id": None, "reason": None, "auxiliary": []}
    content = {
        "schema": SCHEMA,
        "name": ablation.name,
        "baseline": ablation.baseline,
        "primary": ablation.primary,
        "targets": ablation.targets,
        "domains": list(store.trained),
        "probe_domains": list(store.domains),
        "seeds": list(ablation.seeds),
        "corpus_id": store.id,
        "model_id": model_id,
        "command": command,
        "spec": spec,
        "created": (read_json(path) or {}).get("created", now),
        "updated": now,
        "arms": {
            label: {**arm, "runs": [{"seed": seed, **pending} for seed in ablation.seeds]}
            for label, arm in spec["arms"].items()
        },
    }
    return Cells(path, content)
