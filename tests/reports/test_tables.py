"""The numbers and words of the tables, against the planted effects of the made-up ablation."""

from __future__ import annotations

import io
import json
import math
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.records import read_records
from reports import measures, notation, tables
from reports.arms import arms_table
from reports.build import build
from reports.contents import contents
from reports.effects import detectable_effect, seeds_for
from reports.headline import headline
from reports.load import load
from tests.reports.synthetic import EFFECTS, TARGET, TRAINED, edit, run_id_of, write_out


def arms(out: Path) -> dict[str, dict[str, Any]]:
    return {row["arm"]: row for row in arms_table(load(out)).to_dict("records")}


def sentences(out: Path) -> str:
    return "\n".join(statement.text for statement in headline(load(out)))


def bold(out: Path) -> dict[str, list[str]]:
    """Return by column the cells of the terminal's table that are in bold."""
    columns = tables.terminal_table(load(out)).columns
    cells = {str(column.header): [str(cell) for cell in column.cells] for column in columns}
    return {
        name: [cell[len("[bold]") : -len("[/]")] for cell in own if cell.startswith("[bold]")]
        for name, own in cells.items()
    }


def printed(out: Path, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(tables.terminal_table(load(out)))
    return console.export_text()


def test_the_planted_effects_are_in_the_table_and_judged(eight: Path) -> None:
    table = arms(eight)

    assert {arm: row["verdict"] for arm, row in table.items()} == {
        "uniform": "baseline",
        "influence": "better",
        "doremi": "undecided",
        "half": "control",
    }
    for arm in ("influence", "doremi", "half"):
        assert table[arm]["low"] <= EFFECTS[arm] <= table[arm]["high"]
    assert table["influence"]["corrected_p"] == pytest.approx(2 * table["influence"]["p"])
    assert math.isnan(table["half"]["corrected_p"])


def test_the_metrics_are_those_of_the_final_held_out_evaluation(eight: Path) -> None:
    evidence = load(eight)
    evals = evidence.evals
    last = evals[(evals["run_id"] == run_id_of("demo", "half", 5)) & (evals["step"] == 60)]
    bits = dict(zip(last["domain"], last["bits_per_byte"], strict=True))
    trained = [bits[domain] for domain in evidence.header["domains"]]
    row = measures.metrics(evidence).set_index(["arm", "seed"]).loc[("half", 5)]

    assert row["target"] == bits[TARGET]
    assert row["mean"] == pytest.approx(sum(trained) / 5)
    assert row["worst"] == max(trained)


def test_two_targets_are_weighted(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=1)
    edit(tmp_path / "ablations" / "demo.json", targets={"code": 0.25, "poetry": 0.75})
    evidence = load(tmp_path)
    final = measures.final_evals(evidence).set_index(["arm", "domain"])["bits_per_byte"]
    row = measures.metrics(evidence).set_index("arm").loc["half"]

    expected = 0.25 * final["half", "code"] + 0.75 * final["half", "poetry"]
    assert row["target"] == pytest.approx(expected)
    assert tables.metric_name(evidence, "target") == "target (0.25 code + 0.75 poetry)"


def test_the_primary_metric_is_the_one_that_is_compared(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    edit(tmp_path / "ablations" / "demo.json", primary="worst")
    values = measures.by_seed(load(tmp_path), "worst")
    expected = sum(values["half"][s] - values["uniform"][s] for s in (0, 1)) / 2

    assert arms(tmp_path)["half"]["difference"] == pytest.approx(expected)


def test_overhead_is_the_mixer_and_the_whole_of_every_auxiliary_run(eight: Path) -> None:
    table = arms(eight)

    assert table["influence"]["overhead_seconds_percent"] == pytest.approx(6)
    # A reference and a proxy of half the steps each: as much again as the main run.
    assert table["doremi"]["overhead_flops_percent"] == pytest.approx(100)
    assert table["half"]["overhead_flops_percent"] == 0


def test_an_auxiliary_run_that_is_gone_makes_the_bill_unknown_not_smaller(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    (tmp_path / "runs" / run_id_of("demo", "doremi-proxy", 0) / "run.json").unlink()

    assert math.isnan(arms(tmp_path)["doremi"]["overhead_seconds_percent"])
    assert "proxy" in set(tables.problems_table(load(tmp_path))["role"])


def test_three_seeds_get_no_verdict_and_the_reason(three: Path) -> None:
    assert arms(three)["influence"]["verdict"] == "no verdict"
    text = " ".join(printed(three).split())
    assert "No verdict for influence and doremi: with 3 paired seeds" in text
    assert "2^(1-3) = 0.25, which can never reach 0.05" in text


def test_no_verdict_is_given_while_a_seed_of_the_family_is_still_running(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=8, broken={("doremi", 7): ("running", None)})
    table = arms(tmp_path)

    assert table["influence"]["verdict"] == "no verdict yet"
    assert table["influence"]["reason"] == "still to finish: doremi seed 7"


def test_a_declared_margin_makes_equivalent_a_possible_verdict(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=8, margin=0.03)
    table = arms(tmp_path)

    assert table["doremi"]["verdict"] == "equivalent"
    assert table["doremi"]["equivalence_p"] <= 0.05
    assert table["influence"]["verdict"] == "better"
    assert math.isnan(table["half"]["equivalence_p"])
    assert "doremi is equivalent to uniform within the declared margin" in sentences(tmp_path)
    text = " ".join(printed(tmp_path).split())
    assert "equivalent" in text
    assert "Margin: a difference within 0.03 is not worth having." in text


def test_what_the_seeds_could_have_shown_stands_beside_each_verdict(eight: Path) -> None:
    """At Holm's first level for two methods; without a margin, half of it is wished for."""
    table = arms(eight)

    for arm in ("influence", "doremi"):
        row = table[arm]
        effect = detectable_effect(8, 0.025, 0.8) * row["sd"]
        assert row["detectable"] == pytest.approx(effect)
        assert row["wished_effect"] == pytest.approx(effect / 2)
        assert row["wished_seeds"] == seeds_for(effect / 2, row["sd"], 0.025, 0.8)
    assert math.isnan(table["half"]["detectable"])
    assert "8 seeds of this spread find a difference of 0.015" in sentences(eight)


def test_what_cannot_be_shown_is_not_spoken_of(three: Path) -> None:
    """No effect of any size is found at three seeds; a wish without a margin has no size."""
    row = arms(three)["influence"]

    assert math.isnan(row["detectable"])
    assert notation.power(row) == ""
    row |= {"wished_effect": 0.01, "wished_seeds": 12}
    assert notation.power(row) == "with this spread, a difference of 0.010 would need 12 seeds"


def test_the_margin_is_the_effect_that_is_wished_for(tmp_path: Path) -> None:
    row = arms(write_out(tmp_path, num_seeds=8, margin=0.01))["doremi"]

    assert row["wished_effect"] == 0.01
    assert row["wished_seeds"] == seeds_for(0.01, row["sd"], 0.025, 0.8)


def test_a_failed_seed_is_left_out_named_and_cautioned(lossy: Path) -> None:
    row = arms(lossy)["influence"]

    assert row["num_pairs"] == 7
    assert row["verdict"] == "better"
    assert "left out because not usable: influence seed 3" in row["reason"]
    assert "2 of 32 main runs are not in these numbers" in sentences(lossy)


def test_the_headline_names_the_free_mixture_that_beats_a_method(eight: Path) -> None:
    text = sentences(eight)

    assert "half has the lowest target (security)" in text
    assert "It is a control: descriptive, not tested." in text
    assert "The static mixture half, which nobody had to compute, beats influence (" in text
    assert "influence is better than uniform" in text
    assert "Whether doremi differs from uniform is undecided" in text


def test_the_headline_praises_a_method_that_the_control_does_not_reach(tmp_path: Path) -> None:
    effects = {"uniform": 0.0, "influence": -0.2, "half": -0.05}
    write_out(tmp_path, num_seeds=6, effects=effects)

    text = sentences(tmp_path)

    assert "influence has the lowest target (security)" in text
    assert (
        "half, the best static mixture here that nobody had to compute, is above influence" in text
    )


def test_the_headline_does_not_call_a_clear_difference_undecided_at_few_seeds(three: Path) -> None:
    text = sentences(three)

    assert "The static mixture half, which nobody had to compute, is below influence (" in text
    assert "too few seeds to call it more. Descriptive, not tested." in text
    assert "half, which nobody had to compute, is not told apart from influence" not in text


def test_a_long_label_takes_the_room_of_the_seeds(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=2)
    path = next((tmp_path / "ablations").glob("*.json"))
    path.write_text(path.read_text().replace('"half": {', '"half_of_everything": {', 1))
    console = Console(width=100, record=True, file=io.StringIO())

    console.print(tables.terminal_table(load(tmp_path)))

    lines = console.export_text().splitlines()
    assert any(line.startswith(" half_of_everything ") for line in lines)
    assert lines[0].rstrip().endswith(", 2 seeds")


def without_the_easiest(out: Path) -> Path:
    """Nine seeds, of which influence has lost the one that was easiest for all arms."""
    write_out(out, num_seeds=9, noise=0.0002, effects={"uniform": 0.0, "influence": -0.005})
    easiest = min(measures.by_seed(load(out), "target")["uniform"].items(), key=itemgetter(1))[0]
    path = out / "runs" / run_id_of("demo", "influence", easiest) / "run.json"
    edit(path, status="failed", reason="no memory")
    return out


def raise_losses(out: Path, arm: str, domain: str, by: float) -> None:
    """Raise the held-out losses of an arm's runs on a domain."""
    for seed in load(out).header["seeds"]:
        path = out / "runs" / run_id_of("demo", arm, seed) / "records.jsonl"
        records = read_records(path)
        for record in records:
            if record["kind"] == "eval" and record["domain"] == domain:
                record["bits_per_byte"] += by
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_what_is_higher_elsewhere_is_so_at_common_seeds(tmp_path: Path) -> None:
    """The means of influence are higher for want of an easy seed, the primary one too."""
    without_the_easiest(tmp_path)
    for domain in set(TRAINED) - {TARGET}:
        raise_losses(tmp_path, "influence", domain, -0.005)
    row = arms(tmp_path)
    for metric in measures.METRICS:
        assert row["influence"][metric] > row["uniform"][metric]
    assert "influence is better than uniform" in sentences(tmp_path)
    assert "elsewhere" not in sentences(tmp_path)

    raise_losses(tmp_path, "influence", "code", 0.5)

    evidence = load(tmp_path)
    pairs = {
        metric: measures.against_baseline(evidence, measures.by_seed(evidence, metric))["influence"]
        for metric in ("mean", "worst")
    }
    told = {
        m: f"{notation.signed(p.mean)} {notation.interval(p.low, p.high)}" for m, p in pairs.items()
    }
    assert pairs["mean"].num_pairs == 8
    assert 0.09 < pairs["mean"].mean < 0.1
    assert (
        f"Higher than uniform elsewhere, paired by seed: mean over domains {told['mean']}; "
        f"worst domain {told['worst']} (descriptive)."
    ) in sentences(tmp_path)


def test_the_lowest_in_bold_is_ranked_by_differences_at_common_seeds(tmp_path: Path) -> None:
    """In the terminal and on the page alike, and as the headline has it."""
    context = contents(load(without_the_easiest(tmp_path)))
    text = " ".join(printed(tmp_path).split())

    assert context["lowest"]["target"] == {"influence"}
    (security,) = [row for row in context["domains"] if row["domain"] == TARGET]
    assert [cell["arm"] for cell in security["cells"] if cell["is_lowest"]] == ["influence"]
    shown = {row["arm"]: notation.bits(row["target"]) for row in context["arms"]}
    assert shown["influence"] > shown["uniform"]
    page = build(tmp_path).html.read_text()
    assert f"<strong>{shown['influence']}</strong>" in page
    assert f"<strong>{shown['uniform']}</strong>" not in page
    assert [shown["influence"]] == bold(tmp_path)["target*"]
    assert "Bold: lowest by differences paired by seed; means of other seeds do not rank." in text


def test_where_all_seeds_are_there_the_lowest_means_are_in_bold(eight: Path) -> None:
    table = arms(eight)

    for metric, labels in tables.lowest(load(eight)).items():
        assert labels == {min(table, key=lambda arm: table[arm][metric])}
    assert "Bold" not in printed(eight)


def test_an_arm_without_a_seed_of_the_baselines_is_not_ranked(tmp_path: Path) -> None:
    broken = {(arm, seed): ("failed", "no memory") for seed, arm in enumerate(("uniform", "half"))}
    evidence = load(write_out(tmp_path, num_seeds=2, broken=broken))

    assert "half" not in set().union(*tables.lowest(evidence).values())
    assert measures.lowest(evidence, {"half": {0: 1.0}, "uniform": {1: 2.0}}) == set()
    assert measures.lowest(evidence, {"half": {0: 1.0, 1: 2.0}, "uniform": {1: 2.0}}) == {
        "half",
        "uniform",
    }


def test_the_baseline_can_win(tmp_path: Path) -> None:
    write_out(tmp_path, num_seeds=6, effects={"uniform": 0.0, "influence": 0.2})

    assert "It is the baseline: no arm is below it." in sentences(tmp_path)
    assert arms(tmp_path)["influence"]["verdict"] == "worse"


def test_results_have_a_row_for_each_arm_seed_split_and_domain(eight: Path) -> None:
    table = tables.results_table(load(eight))

    assert list(table.columns) == tables.RESULTS_COLUMNS
    assert len(table) == 4 * 8 * 6
    assert not table.isna().any().any()
    assert not table.duplicated(["arm", "seed", "split", "domain"]).any()


@pytest.mark.parametrize("num_seeds", [3, 8])
def test_the_terminal_table_fits_in_100_columns(
    num_seeds: int, request: pytest.FixtureRequest
) -> None:
    text = printed(request.getfixturevalue({3: "three", 8: "eight"}[num_seeds]))

    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "negative is better" in " ".join(text.split())
    for arm in EFFECTS:
        assert arm in text


def test_numbers_are_written_for_readers() -> None:
    assert notation.signed(-0.0466) == "\N{MINUS SIGN}0.047"
    assert notation.interval(math.nan, math.nan) == ""
    assert [notation.percent(v) for v in (0.0, 6.04, 99.7)] == ["0%", "6.0%", "100%"]
    assert [notation.quantity(v) for v in (0, 950, 123_000, 2.3e11)] == [
        "0",
        "950",
        "123 k",
        "230 G",
    ]
    assert [notation.seconds(v) for v in (0.02, 3, 300)] == ["0.02 s", "3.0 s", "5.0 min"]
    assert notation.listed(["a", "b", "c"]) == "a, b and c"
