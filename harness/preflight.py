"""What is settled and refused before any compute is spent on an ablation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from harness.api import Mixer
from harness.errors import SpecError
from harness.files import read_json
from harness.identity import describe, to_json
from harness.pretrained import Say, fingerprint_model, model_folder, tokenizer_folder
from harness.ranks.launch import is_launched
from harness.spec import Ablation, Arm
from harness.trackers import Mirror, open_trackers, settle_wandb_mode

if TYPE_CHECKING:
    from harness.corpus import TokenStore


def settle_wandb(trackers: Sequence[str], flag: str | None, say: Say) -> str | None:
    """Return W&B's mode for all processes of an ablation; None where it is not among `trackers`."""
    if "wandb" not in trackers:
        if flag not in (None, "disabled"):
            raise SpecError("--wandb-mode: W&B is not among trackers; add --trackers='[\"wandb\"]'")
        return None
    try:
        return settle_wandb_mode(flag, say)
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


def check_ranks(ablation: Ablation, jobs: int | None) -> None:
    """Refuse what the ranks that torchrun has started, if it has, cannot do."""
    if not is_launched():
        return
    if jobs not in (None, 1):
        raise SpecError(f"--jobs: is {jobs}, and ranks do one run at a time; leave it out")
    sharded = ablation.parallel == "fsdp"
    for label, arm in ablation.arms.items():
        try:
            arm.settings.check_ranks(sharded)
        except ValueError as error:
            raise SpecError(f"arms.{label}.settings: {error}") from None


def check_buildable(ablation: Ablation) -> None:
    """Refuse a model that cannot be built; it imports torch, so only where something is to run."""
    tokenizer, model = ablation.tokenizer, ablation.model
    if not model.config and model.source is None:
        return  # presets are sound
    from harness import model_check
    from harness.corpus.ready_tokenizer import read_ready
    from harness.corpus.tokenizer import num_tokens

    vocab_size, mask = tokenizer.vocab_size, None
    if tokenizer.source is not None:
        ready = read_ready(Path(tokenizer.source))
        vocab_size, mask = num_tokens(ready.tokenizer), ready.mask
    model_check.check_model(model, vocab_size, ablation.batch.tokens, mask)


def check_name(ablation: Ablation, out: Path, text_id: str, model_id: str) -> None:
    """Refuse to overwrite an ablation of the same name that asked something else.

    Seeds and arms may be added. Anything else under the old name would hide what was tried before.
    `text_id` and `model_id` tell whether corpus and model are the same, wherever they lie now.
    """
    before = read_json(ablation_path(ablation, out))
    if before is None:
        return
    new = plain(ablation)
    # A margin that is set once results are seen is a verdict by choice, so it is kept like any key;
    # a file of before the key existed could not declare one, and may once.
    old = {"margin": new["margin"], **before["spec"]}
    if old.get("compile") is False and new["compile"] == "auto":  # what `auto` was called before
        old["compile"] = "auto"
    is_same_text = before["corpus_id"] == text_id
    if is_same_text:
        old = {**old, "domains": new["domains"], "tokenizer": new["tokenizer"]}
    if before.get("model_id", "") == model_id:
        places = {key: new["model"][key] for key in ("source", "revision")}
        old = {**old, "model": {**old["model"], **places}}
    # what adds runs or changes none; the baseline at more compute hides nothing that was tried
    free = ("seeds", "arms", "trackers", "checkpoint", "equal_compute", "parallel")
    changed = [key for key in new if key not in free and old.get(key) != new[key]]
    if not is_same_text and not {"domains", "splits", "tokenizer"} & set(changed):
        changed.append("the text of its domains, or the version of what cuts it into tokens")
    arms = {label: old["arms"][label] for label in new["arms"] if label in old["arms"]}
    apart = {"fixed": None}  # what the method's class says is not what was asked
    unset = {"provenance": None}  # of an arm that was written before this could be told
    changed += [
        f"arms.{i}" for i in arms if {**unset, **arms[i], **apart} != {**new["arms"][i], **apart}
    ]
    changed += [f"arms.{label} (gone)" for label in old["arms"] if label not in new["arms"]]
    changed += ["seeds (some gone)"] if set(old["seeds"]) - set(new["seeds"]) else []
    if changed:
        raise SpecError(
            f"name: {out} holds another ablation {ablation.name!r}, which differs in "
            f"{', '.join(changed)}; choose another name (--name={ablation.name}-2) or another --out"
        )


def check_settled(ablation: Ablation, out: Path, settled: str) -> None:
    """Refuse to join workers for whom `auto` stands for something else: their runs are others."""
    before = read_json(ablation_path(ablation, out)) or {}
    theirs = before.get("settled", settled)
    if theirs != settled:
        raise SpecError(
            f"device, precision, threads, compile: on this machine they are {settled}, {theirs} "
            f"for the others that are at {ablation.name!r}; set them in the spec, or give "
            f"--settled {theirs}"
        )


def plain(ablation: Ablation) -> dict[str, Any]:
    """Return an ablation as plain JSON values, as its file holds it."""
    values = TypeAdapter(Ablation).dump_python(ablation, mode="json")
    return {**values, "arms": {label: _plain_arm(arm) for label, arm in ablation.arms.items()}}


def _plain_arm(arm: Arm) -> dict[str, Any]:
    values = {f.name: getattr(arm, f.name) for f in fields(arm)}
    settled = {"control": arm.is_control, "fixed": arm.settings.is_fixed}
    settled |= {"provenance": to_json(arm.provenance)}
    settings = describe(arm.settings)["settings"]
    own = _defaults(arm.settings)
    changed = {k: v for k, v in settings.items() if k not in own or own[k] != v}
    return {**values, **settled, "settings": settings, "changed": changed}


def _defaults(mixer: Mixer) -> dict[str, Any]:
    """Return the settings that a method has of its own accord; {} where these do not go alone."""
    needed = {
        f.name: getattr(mixer, f.name)
        for f in fields(mixer)
        if f.default is MISSING and f.default_factory is MISSING
    }
    try:
        settings = describe(type(mixer)(**needed))["settings"]
    except ValueError:  # what it needs goes with other values alone
        return {}
    return {name: value for name, value in settings.items() if name not in needed}


def ablation_path(ablation: Ablation, out: Path) -> Path:
    """Return where an ablation's file lies."""
    return out / "ablations" / f"{ablation.name}.json"


def open_mirror(ablation: Ablation, out: Path, mode: str | None, say: Say) -> Mirror:
    """Return the mirror of the declared trackers; SpecError where one cannot be."""
    try:
        return open_trackers(ablation.trackers, out, mode, say)
    except ValueError as error:
        raise SpecError(str(error)) from None


def make_writable(out: Path) -> None:
    """Make the output folder, and refuse one that cannot be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        reason = error.strerror or error
        raise SpecError(f"{out}: cannot be written to: {reason}; give --out a folder") from None


def check_rows(ablation: Ablation, store: TokenStore) -> None:
    """Refuse a corpus in which a split that will be read has no whole row."""
    tokens, splits = ablation.batch.tokens, ("probe", *ablation.evaluation.splits)
    if not ablation.batch.pack:
        _check_documents(ablation, store)
        return
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


def _check_documents(ablation: Ablation, store: TokenStore) -> None:
    """Refuse a corpus in which a split that will be read has no document with a target."""
    from harness.assemble import open_shelf

    needed = [("train", store.trained), ("probe", store.domains)]
    needed += [(split, store.domains) for split in ablation.evaluation.splits]
    for split, domains in needed:
        shelf = open_shelf(store, split, domains, ablation.batch)
        for domain in domains:
            if not len(shelf.telling_rows(domain)):
                raise SpecError(
                    f"domains.{domain}: no document of its {split} split has a target within "
                    f"{ablation.batch.tokens} tokens; give it more text, or raise batch.tokens"
                )
