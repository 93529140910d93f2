"""Arms of one seed differ in what the method does and in nothing else, and all of it is billed."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import ARMS, Finished, Fork, Out, finish, timeless

SEEDS = (0, 1)


def batches(records: list[dict[str, Any]]) -> list[Any]:
    """Return what a run drew and how it fared on it, step by step."""
    keys = ("rows", "domain_losses", "loss", "grad_norm")
    return [[record[key] for key in keys] for record in records]


# ---- pairing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_weights_give_equal_runs(finished: Finished, seed: int) -> None:
    """Weights given by name are other settings and another run, with equal numbers throughout."""
    cells = [finished.out.cell("tiny", label, seed) for label in ("uniform", "equal")]

    assert cells[0]["run_id"] != cells[1]["run_id"]
    uniform, equal = (finished.out.main(label, seed) for label in ("uniform", "equal"))
    assert timeless(uniform) == timeless(equal)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_method_that_has_not_moved_yet_equals_uniform(finished: Finished, seed: int) -> None:
    """The influence arm is uniform until its first refresh, before the fifth step."""
    uniform = batches(finished.out.main("uniform", seed, "step"))
    influence = batches(finished.out.main("influence", seed, "step"))

    assert influence[:4] == uniform[:4]
    assert influence[4:] != uniform[4:]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_auxiliary_run_draws_the_rows_that_its_weights_give_any_arm(
    finished: Finished, seed: int
) -> None:
    """DoReMi's proxy draws uniformly: its first loss is uniform's, before its model differs."""
    out = finished.out
    proxy = out.records(out.auxiliary("doremi", seed)["proxy"], "step")
    uniform = out.main("uniform", seed, "step")

    assert [record["rows"] for record in proxy] == [record["rows"] for record in uniform]
    assert proxy[0]["domain_losses"] == uniform[0]["domain_losses"]
    assert proxy[-1]["domain_losses"] != uniform[-1]["domain_losses"]


@pytest.mark.parametrize("seed", SEEDS)
def test_all_arms_of_a_seed_start_from_one_model(finished: Finished, seed: int) -> None:
    """Their evaluations before the first step agree to the last digit; another seed's do not."""

    def start(label: str, seed: int) -> list[dict[str, Any]]:
        records = finished.out.main(label, seed, "eval")
        return timeless([record for record in records if record["step"] == 0])

    expected = start("uniform", seed)
    assert len(expected) == 3
    assert all(start(label, seed) == expected for label in ARMS)
    assert start("uniform", 1 - seed) != expected


@pytest.mark.parametrize("seed", SEEDS)
def test_an_a_a_arm_differs_in_order_alone(finished: Finished, seed: int) -> None:
    """Same method, same initialisation, same evaluation rows; other rows at every step."""
    uniform, again = (finished.out.main(label, seed, "step") for label in ("uniform", "again"))

    assert [r["weights"] for r in uniform] == [r["weights"] for r in again]
    assert all(a["loss"] != b["loss"] for a, b in zip(uniform, again, strict=True))


# ---- what stays hidden -----------------------------------------------------------------------


def strings_and_keys(value: Any) -> Iterator[str]:
    """Yield every string inside a JSON value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_and_keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_and_keys(item)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("role", ["reference", "proxy"])
def test_nothing_held_out_is_computed_on_an_auxiliary_run(
    finished: Finished, role: str, seed: int
) -> None:
    """Neither in its records, nor in its header, nor in any other file of its folder."""
    out, run_id = finished.out, finished.out.auxiliary("doremi", seed)[role]
    folder, header = out.folder / "runs" / run_id, out.header(run_id)

    files = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert files == {"run.json", "records.jsonl", "checkpoint.pt"}
    assert out.records(run_id, "eval") == []
    assert header["spec"]["evaluation"] is None
    assert header["costs"]["eval"] == {"seconds": 0, "flops": 0, "tokens": 0, "peak_bytes": 0}
    del header["spec"]["corpus"]["splits"]  # shares of the text, known before any of it was read
    # that a plan did not ask for the tuning set is said, and nothing came of it
    assert header.pop("tuning_losses") is None
    assert header["spec"].pop("measure_tuning") is False
    said = {*strings_and_keys(header), *strings_and_keys(out.records(run_id))}
    assert not {word for word in said if "heldout" in word or "tuning" in word}
    assert "heldout" in set(strings_and_keys(out.main("doremi", seed)))  # the check can fail


def test_no_document_is_in_two_splits(finished: Finished) -> None:
    """By an independent reading of the corpus's list of documents."""
    corpus = finished.out.folder / "corpora" / finished.out.ablation("tiny")["corpus_id"]
    lines = (corpus / "documents.jsonl").read_text().splitlines()
    documents = [json.loads(line) for line in lines]
    splits_of_text, splits_of_name = defaultdict(set), defaultdict(set)
    for document in documents:
        splits_of_text[document["sha256"]].add(document["split"])
        splits_of_name[document["domain"], document["name"]].add(document["split"])

    assert all(len(splits) == 1 for splits in splits_of_text.values())
    assert all(len(splits) == 1 for splits in splits_of_name.values())
    assert len(splits_of_text) == len(splits_of_name) == len(documents)
    counts = Counter((document["domain"], document["split"]) for document in documents)
    names = ("train", "probe", "tuning", "heldout")
    assert counts.keys() == {(domain, split) for domain in "abc" for split in names}
    assert all(counts[domain, "train"] > 30 for domain in "abc")


def test_the_list_of_documents_is_what_the_streams_hold(finished: Finished) -> None:
    """Otherwise the test above would prove nothing of what is trained on and evaluated."""
    import numpy as np

    corpus = finished.out.folder / "corpora" / finished.out.ablation("tiny")["corpus_id"]
    sizes: Counter[tuple[str, str]] = Counter()
    for line in (corpus / "documents.jsonl").read_text().splitlines():
        document = json.loads(line)
        sizes[document["domain"], document["split"]] += document["tokens"]

    for (domain, split), size in sizes.items():
        assert len(np.load(corpus / f"{domain}.{split}.tokens.npy")) == size


# ---- what is billed --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_doremi_is_billed_its_reference_and_its_proxy(finished: Finished, seed: int) -> None:
    """2.33 runs: 3F for the reference, 3F for the proxy, 1F for the reference's look at each of
    the proxy's rows, against 3F for the main run, where F is the forward pass of a run's rows."""
    out = finished.out
    main = out.header(out.cell("tiny", "doremi", seed)["run_id"])["costs"]
    roles = {role: out.header(i)["costs"] for role, i in out.auxiliary("doremi", seed).items()}

    overhead = main["mixer"]["flops"] + sum(
        costs[account]["flops"] for costs in roles.values() for account in ("train", "mixer")
    )
    assert overhead / main["train"]["flops"] == pytest.approx((3 + 3 + 1) / 3, rel=0.01)
    assert roles["reference"]["train"]["flops"] == main["train"]["flops"]
    assert roles["proxy"]["train"]["flops"] == main["train"]["flops"]
    assert roles["reference"]["mixer"]["flops"] == main["mixer"]["flops"] == 0
    assert roles["proxy"]["mixer"]["tokens"] == main["train"]["tokens"] == 12 * 8 * 16


def test_the_report_bills_doremi_the_same(finished: Finished) -> None:
    """results.csv agrees with the headers that it was made from."""
    import pandas as pd

    out = finished.out
    table = pd.read_csv(out.folder / "report/tiny/results.csv")
    for seed in SEEDS:
        costs = [out.header(i)["costs"] for i in out.auxiliary("doremi", seed).values()]
        costs.append(
            {"mixer": out.header(out.cell("tiny", "doremi", seed)["run_id"])["costs"]["mixer"]}
        )
        rows = table[(table["arm"] == "doremi") & (table["seed"] == seed)]
        for unit in ("seconds", "flops"):
            total = sum(
                cost[account][unit]
                for cost in costs
                for account in cost
                if account in ("train", "mixer")
            )
            if unit == "seconds":  # what the plan did beside its runs
                total += out.cell("tiny", "doremi", seed)["plan_seconds"]
            assert set(rows[f"overhead_{unit}"].round(6)) == {round(total, 6)}
    uniform = table[table["arm"] == "uniform"]
    assert set(uniform["overhead_flops"]) == {0}


def test_an_influence_arm_pays_for_every_look(finished: Finished) -> None:
    """Two refreshes. Each: a gradient (3F a row) on 4 probe rows of the one target; F for each of
    6 candidates, twice; and F for each of 2 rows checked at 0 and at two of five steps or more. The
    first also scores the rows that it is compared on, and says what the exact scores cost."""
    out = finished.out
    costs = out.header(out.cell("tiny", "influence", 0)["run_id"])["costs"]
    forward = costs["train"]["flops"] / (3 * 12 * 8)
    (told,) = [n["values"] for n in out.main("influence", 0, "note") if n["name"] == "fidelity"]

    looks = (costs["mixer"]["flops"] - told["exact_flops"]) / forward
    least = 2 * (3 * 4 + 2 * 6 + 3 * 2) + 2 * told["rows"]
    assert told["rows"] == 3 * 4
    assert looks == pytest.approx(round(looks))
    assert least <= looks <= least + 2 * 2 * 3
    assert (looks - least) % 2 == pytest.approx(0, abs=1e-6)


def test_the_accounts_of_a_run_add_up_to_the_time_of_its_loop(
    finished: Finished, fork: Fork, tmp_path: Path
) -> None:
    """By a clock of our own around the loop; what is between the accounts is a few per cent."""
    from harness.cli import find_method
    from harness.resolve import resolve
    from harness.specfile import load_ablation

    from . import single

    corpus_id = finished.out.ablation("tiny")["corpus_id"]
    shutil.copytree(finished.out.folder / "corpora", tmp_path / "corpora")
    ablation = load_ablation(finished.spec, ["--budget.steps=40"], find_method)
    spec = resolve(ablation, corpus_id)["influence", 0]

    finish(fork(single.ensure_timed, tmp_path, spec, tmp_path / "told"))

    wall = json.loads((tmp_path / "told").read_text())
    costs = Out(tmp_path).header(spec.run_id)["costs"]
    assert 0.9 * wall < sum(cost["seconds"] for cost in costs.values()) <= wall
    assert all(cost["seconds"] > 0 for cost in costs.values())
