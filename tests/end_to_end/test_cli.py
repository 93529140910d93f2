"""The command line from outside: what it prints, writes and returns, and what it survives."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from harness import cli
from harness.display import TerminalDisplay
from harness.worker import Outcome, Progress, Task

from .conftest import (
    ARMS,
    Finished,
    Out,
    command,
    environment,
    steelyard,
    timeless,
    write_spec,
)

IMPORTS = ("-X", "importtime")  # a line on standard error for every module that is imported


def imported(stderr: str) -> set[str]:
    """Return the modules that a process run with IMPORTS has imported."""
    return {line.rpartition("|")[2].strip() for line in stderr.splitlines() if "|" in line}


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Poll a condition; AssertionError, saying `what`, where it stays false."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


# ---- what a user reads -----------------------------------------------------------------------


def test_help_names_the_commands_and_imports_no_torch(tmp_path: Path) -> None:
    result = steelyard("--help", cwd=tmp_path, python=IMPORTS)

    assert result.returncode == 0
    assert {"run", "show", "report"} <= set(re.findall(r"\w+", result.stdout))
    assert "tyro" in imported(result.stderr)
    assert "torch" not in imported(result.stderr)


def test_help_of_a_spec_lists_its_keys_with_its_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path / "tiny.toml", ARMS)

    with pytest.raises(SystemExit) as exit_:
        cli.main(["run", str(spec), "--help"])

    text = capsys.readouterr().out
    assert exit_.value.code == 0
    for key in ("--budget.steps", "--seeds", "--domains.a.seed", "--arms.influence.settings.every"):
        assert key in text
    assert re.search(r"--batch\.tokens\s+INT.*\n?.*16", text)


def test_a_wrong_key_is_answered_without_importing_torch_and_writes_nothing(
    tmp_path: Path,
) -> None:
    write_spec(tmp_path / "tiny.toml", ARMS, head="budgett = 3")

    result = steelyard("run", "tiny.toml", cwd=tmp_path, python=IMPORTS)

    told = [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
    assert result.returncode == 2
    assert told == ["steelyard: tiny.toml: budgett: unknown key; did you mean 'budget'?"]
    assert "torch" not in imported(result.stderr)
    assert not (tmp_path / "runs").exists()


MISTAKES = {
    "no such spec": (["run", "none.toml"], "none.toml"),
    "spec is a folder": (["run", "."], "cannot be read"),
    "not TOML": (["run", "broken.toml"], "broken.toml: not valid TOML"),
    "no jobs": (["run", "tiny.toml", "--jobs", "0"], "--jobs: must be at least 1, got 0"),
    "unknown override": (["run", "tiny.toml", "--budget.stepz=3"], "--budget.stepz"),
    "override out of range": (["run", "tiny.toml", "--budget.steps=-3"], "greater than 0"),
    "override of a wrong type": (["run", "tiny.toml", "--budget.steps=few"], "few"),
    "out is a file": (["run", "tiny.toml", "--out", "file"], "file"),
    "out is below a file": (["run", "tiny.toml", "--out", "file/out"], "file/out"),
    "out cannot be made": (["run", "tiny.toml", "--out", "/proc/out"], "/proc/out"),
    "unknown method": (["run", "unknown.toml"], "arms.x.method: unknown method 'statik'"),
    "method from nowhere": (["run", "nowhere.toml"], "arms.x.method: 'no.where:Class'"),
    "method is no method": (["run", "stranger.toml"], "arms.x.method: 'json:JSONDecoder'"),
    "method does not compile": (["run", "syntax.toml"], "arms.x.method: 'uncompiled:Mixer'"),
    "method fails at import": (["run", "raising.toml"], "arms.x.method: 'raising:Mixer'"),
    "show nothing": (["show", "none"], "none: no such folder"),
    "report nothing": (["report", "none"], "none: no such folder"),
    "report an empty folder": (["report", "empty"], "empty"),
    "argument too many": (["show", ".", "--frob=1"], "--frob=1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_clear_line_and_exit_code_2(
    mistake: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each line names what was wrong; nothing else is printed, and no traceback."""
    arguments, expected = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_spec(tmp_path / "tiny.toml", ARMS)
    for name, method in {
        "unknown": "statik",
        "nowhere": "no.where:Class",
        "stranger": "json:JSONDecoder",
        "syntax": "uncompiled:Mixer",
        "raising": "raising:Mixer",
    }.items():
        arms = {"uniform": ARMS["uniform"], "x": f'method = "{method}"'}
        write_spec(tmp_path / f"{name}.toml", arms)
    (tmp_path / "broken.toml").write_text("name = ")
    (tmp_path / "uncompiled.py").write_text("class Mixer(:\n")
    (tmp_path / "raising.py").write_text("1 / 0\n")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()

    code = cli.main(arguments)

    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert re.fullmatch(r"steelyard: .*\n", told.err)
    assert expected in told.err


def test_an_unknown_command_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rum"]) == 2
    assert capsys.readouterr().err == "steelyard: unknown command 'rum'; did you mean 'run'?\n"


# ---- what a run leaves -----------------------------------------------------------------------

NUMBER = (int, float)
HEADER = {
    "schema": int,
    "run_id": str,
    "spec": dict,
    "status": str,
    "reason": type(None),
    "domains": list,
    "probe_domains": list,
    "targets": dict,
    "num_steps": int,
    "tokens_per_step": int,
    "num_parameters": int,
    "repetitions": dict,
    "costs": dict,
    "versions": dict,
    "git_commit": (str, type(None)),
    "git_dirty": bool,
    "device": str,
    "device_name": str,
    "threads": int,
    "precision": str,
    "started": str,
    "finished": str,
    "corpus_id": str,
}
RECORDS = {
    "step": {
        "kind": str,
        "step": int,
        "tokens": int,
        "loss": float,
        "lr": float,
        "grad_norm": float,
        "weights": list,
        "rows": list,
        "domain_losses": list,
        "seconds": NUMBER,
    },
    "eval": {
        "kind": str,
        "step": int,
        "tokens": int,
        "split": str,
        "domain": str,
        "nats_per_token": float,
        "bits_per_byte": float,
        "num_tokens": int,
        "num_bytes": int,
        "seconds": NUMBER,
    },
    "probe": {
        "kind": str,
        "step": int,
        "tokens": int,
        "domain": str,
        "nats_per_token": float,
        "num_tokens": int,
        "seconds": NUMBER,
    },
    "documents": {
        "kind": str,
        "step": int,
        "tokens": int,
        "split": str,
        "domain": str,
        "documents": list,
        "nats": list,
        "bytes": list,
        "seconds": NUMBER,
    },
    "note": {"kind": str, "step": int, "name": str, "values": dict, "seconds": NUMBER},
}
CELL = {
    "seed": int,
    "status": str,
    "run_id": str,
    "reason": type(None),
    "auxiliary": list,
}


def test_a_run_reports_every_cell_and_writes_a_report(finished: Finished) -> None:
    """Standard output is no terminal here: one plain line a cell, and no escape codes."""
    report = finished.out.folder / "report/tiny"

    for label in ARMS:
        for seed in (0, 1):
            assert re.search(rf"\[\d+/12\] {label} seed {seed} finished", finished.stdout)
    assert "report: new/out/report/tiny/report.html" in finished.stdout
    assert "\x1b" not in finished.stdout
    names = {path.name for path in report.iterdir()}
    assert {name for name in names if not name.endswith(".svg")} == {
        "arms.csv",
        "figures.json",
        "report.html",
        "report.md",
        "results.csv",
        "results.parquet",
        "table.tex",
    }
    assert all(label in (report / "report.md").read_text() for label in ARMS)


def test_every_run_has_a_header_of_the_agreed_form(finished: Finished) -> None:
    """Six arms at two seeds, and two auxiliary runs for each of the DoReMi arm's cells."""
    out = finished.out

    assert len(out.run_ids()) == 12 + 4
    for run_id in out.run_ids():
        header = out.header(run_id)
        assert {k: type(header[k]) for k in HEADER if not isinstance(header[k], HEADER[k])} == {}
        assert (header["run_id"], header["status"], header["schema"]) == (run_id, "finished", 1)
        assert (header["domains"], header["num_steps"]) == (["a", "b", "c"], 12)
        assert (header["targets"], header["tokens_per_step"]) == ({"c": 1.0}, 8 * 16)
        assert set(header["costs"]) == {"train", "mixer", "eval", "save"}
        for cost in header["costs"].values():
            assert set(cost) == {"seconds", "flops", "tokens", "peak_bytes"}
        assert header["costs"]["train"]["tokens"] == 12 * 8 * 16
        assert {"python", "torch", "transformers", "steelyard"} <= set(header["versions"])
        assert header["repetitions"].keys() == set(header["domains"])
        assert [w["code"] for w in header["warnings"] if w["loud"]] == []


def test_every_record_has_the_agreed_form(finished: Finished) -> None:
    out = finished.out

    for run_id in out.run_ids():
        for record in out.records(run_id):
            form = RECORDS[record["kind"]]
            assert record.keys() == form.keys()
            assert {k: record[k] for k in form if not isinstance(record[k], form[k])} == {}
        steps = out.records(run_id, "step")
        assert [record["step"] for record in steps] == list(range(1, 13))
        assert [record["tokens"] for record in steps] == [128 * n for n in range(1, 13)]
        for record in steps:
            assert sum(record["rows"]) == 8
            assert sum(record["weights"]) == pytest.approx(1)
            absent = [loss is None for loss in record["domain_losses"]]
            assert absent == [rows == 0 for rows in record["rows"]]


def test_a_main_run_is_evaluated_at_0_every_4_and_the_end(finished: Finished) -> None:
    expected = [(step, "heldout", domain) for step in (0, 4, 8, 12) for domain in "abc"]

    for label in ARMS:
        records = finished.out.main(label, 0, "eval")
        assert [(r["step"], r["split"], r["domain"]) for r in records] == expected


def test_the_probe_set_is_measured_once_at_the_end_of_a_main_run(finished: Finished) -> None:
    for label in ARMS:
        records = finished.out.main(label, 0, "probe")
        assert [(r["step"], r["domain"]) for r in records] == [(12, domain) for domain in "abc"]
        assert all(record["nats_per_token"] > 0 for record in records)


def test_the_last_evaluation_is_kept_by_document_and_adds_up(finished: Finished) -> None:
    """Every arm and seed has the same documents, which is what lets a report pair them."""
    kept = set()

    for label in ARMS:
        records = finished.out.main(label, 0, "documents")
        last = finished.out.main(label, 0, "eval")[-3:]
        assert [(r["step"], r["split"], r["domain"]) for r in records] == [
            (12, "heldout", domain) for domain in "abc"
        ]
        for record, evaluated in zip(records, last, strict=True):
            nats = evaluated["nats_per_token"] * evaluated["num_tokens"]
            assert sum(record["nats"]) == pytest.approx(nats, rel=1e-5)
            assert sum(record["bytes"]) == evaluated["num_bytes"]
        kept.add(json.dumps([(r["documents"], r["bytes"]) for r in records]))
    assert len(kept) == 1


def test_the_influence_arm_notes_its_refreshes(finished: Finished) -> None:
    """A refresh before the fifth and the ninth step; the weights are those of the next draw."""
    notes = finished.out.main("influence", 0, "note")
    assert [note["step"] for note in notes if note["name"] == "fidelity"] == [4]
    notes = [note for note in notes if note["name"] == "rebalance"]
    steps = finished.out.main("influence", 0, "step")

    assert [(note["name"], note["step"]) for note in notes] == [("rebalance", 4), ("rebalance", 8)]
    for note in notes:
        assert steps[note["step"]]["weights"] == pytest.approx(note["values"]["weights"])


def test_the_ablation_file_says_which_run_fills_which_cell(finished: Finished) -> None:
    out, content = finished.out, finished.out.ablation("tiny")

    assert (content["schema"], content["name"], content["baseline"]) == (1, "tiny", "uniform")
    assert (content["seeds"], content["targets"]) == ([0, 1], {"c": 1.0})
    assert (content["primary"], content["domains"]) == ("target", ["a", "b", "c"])
    assert content["command"] == "steelyard run tiny.toml --out new/out --jobs 2"
    assert content["created"] <= content["updated"]
    assert [w for w in content["warnings"] if w["loud"]] == []
    assert (out.folder / "corpora" / content["corpus_id"] / "manifest.json").exists()
    assert list(content["arms"]) == list(ARMS)
    for label, arm in content["arms"].items():
        assert arm["method"] == re.search('method = "(.*?)"', ARMS[label])[1]  # type: ignore[index]
        assert arm["control"] == (label == "half")
        assert [cell["seed"] for cell in arm["runs"]] == [0, 1]
        for cell in arm["runs"]:
            assert {k: cell[k] for k in CELL if not isinstance(cell[k], CELL[k])} == {}
            assert out.header(cell["run_id"])["spec"]["seed"] == cell["seed"]
            roles = [run["role"] for run in cell["auxiliary"]]
            assert roles == (["reference", "proxy"] if label == "doremi" else [])
    assert content["arms"]["influence"]["settings"]["every"] == 4


def test_show_lists_cells_and_runs(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["show", str(finished.out.folder)])

    text = capsys.readouterr().out
    assert code == 0
    assert all(label in text for label in ARMS)
    assert text.count("2/2") == len(ARMS)
    assert all(run_id in text for run_id in finished.out.run_ids())
    assert text.count("12/12") == len(finished.out.run_ids())


def test_report_writes_the_same_bytes_again(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copied(finished, tmp_path)
    before = (finished.out.folder / "report/tiny/report.html").read_bytes()
    (copy.folder / "report/tiny/report.html").unlink()

    code = cli.main(["report", str(copy.folder), "--name", "tiny"])

    text = capsys.readouterr().out
    assert code == 0
    assert all(label in text for label in ARMS)
    assert (copy.folder / "report/tiny/report.html").read_bytes() == before


def test_a_run_says_first_that_its_seeds_cannot_decide(finished: Finished) -> None:
    assert "warning: 2 seeds and 4 tested methods cannot give a verdict" in finished.stdout


def test_plan_finds_what_is_done_and_foresees_the_id_of_what_is_not(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its main run, DoReMi's plan leads to the same id again, from the proxy on disk."""
    copy = copied(finished, tmp_path)
    command = ["plan", str(finished.spec), "--out", str(copy.folder)]

    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert "to do: 0 of" in text
    assert all(run_id in text for run_id in copy.run_ids())

    cell = copy.ablation("tiny")["arms"]["doremi"]["runs"][0]
    subprocess.run(["rm", "-r", copy.folder / "runs" / cell["run_id"]], check=True)
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert re.search(rf"doremi .* main .* {cell['run_id']} .* new", text)
    assert "to do: 1 of" in text
    assert not (copy.folder / "runs" / cell["run_id"]).exists()

    proxy = next(run["run_id"] for run in cell["auxiliary"] if run["role"] == "proxy")
    (copy.folder / "runs" / proxy / "checkpoint.pt").unlink()
    assert cli.main(command) == 0
    assert re.search(r"doremi .* main .* later .* later", capsys.readouterr().out)


def test_export_gives_what_the_last_batches_were_drawn_with(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["influence", "--seed", "1", "--what", "final"]

    assert cli.main(["export", str(finished.out.folder), *arguments]) == 0

    found = json.loads(capsys.readouterr().out)
    last = finished.out.main("influence", 1, "step")[-1]["weights"]
    assert list(found["weights"].values()) == pytest.approx(last)
    assert list(found["weights"]) == ["a", "b", "c"]


def copied(finished: Finished, tmp_path: Path) -> Out:
    """Return a copy of the finished ablation's folder, with the times of its files."""
    subprocess.run(["cp", "-a", finished.out.folder, tmp_path / "out"], check=True)
    return Out(tmp_path / "out")


# ---- running again ---------------------------------------------------------------------------


def test_running_again_trains_nothing_and_imports_no_torch(
    finished: Finished, tmp_path: Path
) -> None:
    """Every run is found by its content, whatever the number of jobs."""
    copy = copied(finished, tmp_path)

    def state() -> dict[Path, tuple[int, int]]:
        paths = [*(copy.folder / "runs").rglob("*"), *(copy.folder / "corpora").rglob("*")]
        return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in paths}

    before, cells = state(), copy.ablation("tiny")["arms"]
    result = steelyard(
        "run", finished.spec, "--out", copy.folder, "--jobs", 1, cwd=tmp_path, python=IMPORTS
    )

    assert result.returncode == 0
    assert "12 runs: arms x seeds, 12 found finished" in result.stdout
    assert state() == before
    assert copy.ablation("tiny")["arms"] == cells
    assert "numpy" in imported(result.stderr)
    assert "torch" not in imported(result.stderr)


def test_a_run_whose_checkpoint_was_deleted_is_still_finished(
    finished: Finished, tmp_path: Path
) -> None:
    """Checkpoints are most of a folder's size; deleting them costs nobody a result."""
    copy = copied(finished, tmp_path)
    for path in copy.folder.glob("runs/*/checkpoint.pt"):
        path.unlink()

    result = steelyard("run", finished.spec, "--out", copy.folder, cwd=tmp_path)

    assert result.returncode == 0
    assert not list(copy.folder.glob("runs/*/checkpoint.pt"))


def test_on_a_terminal_without_cursor_movement_every_cell_is_a_line() -> None:
    """TERM=dumb, as in an editor's shell: a bar that redraws itself would show nothing."""
    console = Console(file=StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    display = TerminalDisplay(console)
    task = Task("uniform", 3, None)  # type: ignore[arg-type]

    display.open(total=2, found=0)
    display.progress(Progress("uniform", 3, "main", 5, 10, 2.5))
    display.outcome(task, Outcome("finished", "0123456789abcdef"))
    display.outcome(task, Outcome("failed", reason="list index [0] is :x: out of [/red] range"))
    display.close()

    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "2 runs: arms x seeds",
        "[1/2] uniform seed 3 finished (0123456789abcdef)",
        "failed uniform seed 3: list index [0] is :x: out of [/red] range",
    ]


# ---- trouble ---------------------------------------------------------------------------------


def test_trouble_in_an_arm_loses_no_other(finished: Finished, tmp_path: Path) -> None:
    """Added to a finished ablation: an arm that raises, one whose process dies once, one whose
    process always dies, and one that trains beside it and outlives all its deaths."""
    copy, deaths = copied(finished, tmp_path), tmp_path / "deaths"
    arms = {
        "uniform": ARMS["uniform"],
        "always-dies": f'method = "misbehaving:Dies"\nsettings = {{ log = "{deaths}" }}',
        "beside": f'method = "misbehaving:Waits"\nsettings = {{ gate = "{deaths}", lines = 3 }}',
        "dies-once": 'method = "misbehaving:Dies"\n'
        f'settings = {{ log = "{tmp_path / "once"}", times = 1 }}',
        "raises": 'method = "misbehaving:Raises"',
    }
    spec = write_spec(tmp_path / "troubled.toml", arms, seeds=(0,))
    found = {path: path.stat().st_mtime_ns for path in (copy.folder / "runs").rglob("*")}

    result = steelyard("run", spec, "--out", copy.folder, "--jobs", 2, cwd=tmp_path)

    cells = {label: copy.cell("troubled", label, 0) for label in arms}
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert {label: cell["status"] for label, cell in cells.items()} == {
        "uniform": "finished",
        "always-dies": "failed",
        "beside": "finished",
        "dies-once": "finished",
        "raises": "failed",
    }

    # reasons, where a user looks for them
    reason = "ValueError: no weights [/bold] at step 5 and a second line"
    headers = {i: copy.header(i) for i in copy.run_ids()}
    assert cells["raises"]["reason"] == reason
    assert [h["reason"] for h in headers.values() if h["status"] == "failed"] == [reason]
    assert re.search(rf"failed raises seed 0: {re.escape(reason)}", result.stdout)
    assert re.search(r"failed always-dies seed 0: .* died 3 times", result.stdout)
    assert "died 3 times" in cells["always-dies"]["reason"]
    assert len(deaths.read_text().splitlines()) == 3

    # what had been trained was not touched, what survived trained as if nothing had happened
    assert {path: path.stat().st_mtime_ns for path in found} == found
    assert len(headers) == len(finished.out.run_ids()) + 4
    uniform = timeless(finished.out.main("uniform", 0))
    assert len((tmp_path / "once").read_text().splitlines()) == 1
    assert timeless(copy.records(cells["dies-once"]["run_id"])) == uniform
    assert timeless(copy.records(cells["beside"]["run_id"])) == uniform

    # and all of it is reported
    report = (copy.folder / "report/troubled/report.md").read_text()
    assert all(label in report for label in ("uniform", "dies-once", "beside", "raises"))
    assert "no weights" in report


@contextmanager
def started(*arguments: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `steelyard` in a process group of its own, as a terminal would; none outlives it."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for member in psutil.process_iter():
            try:
                if os.getpgid(member.pid) == process.pid:
                    member.kill()
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        process.communicate()


def group(leader: int) -> list[int]:
    """Return the living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_killed_then_interrupted_then_run_again_equals_an_uninterrupted_run(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kill -9 takes the command alone; its workers follow it, and hold no lock. Ctrl-C goes to
    all processes, as from a terminal; every run is saved, and the exit code is 130. Where a step
    takes too long for that, a second Ctrl-C ends the workers at once."""
    gate, waiting = tmp_path / "gate", tmp_path / "gate.waiting"
    arms = {
        "uniform": ARMS["uniform"],
        "waits": f'method = "misbehaving:Waits"\nsettings = {{ gate = "{gate}" }}',
        "never_begun": ARMS["half"],
    }
    spec = write_spec(tmp_path / "stopped.toml", arms, seeds=(0,))
    arguments = ("run", spec, "--out", tmp_path / "out", "--jobs", 1)
    out = Out(tmp_path / "out")

    with started(*arguments, cwd=tmp_path) as process:
        wait_until(waiting.exists, "the run to come to step 5")
        process.kill()
        process.wait()
        wait_until(lambda: group(process.pid) == [], "the workers to end with their parent")
    waiting.unlink()
    cli.main(["show", str(tmp_path / "out")])
    assert re.search(r"Waits +│ +0 │ killed +│ +5/12", capsys.readouterr().out)

    with started(*arguments, cwd=tmp_path) as process:
        wait_until(waiting.exists, "the run to come to step 5 again")
        os.killpg(process.pid, signal.SIGINT)
        gate.touch()
        stdout, stderr = process.communicate(timeout=30)
        wait_until(lambda: group(process.pid) == [], "all its processes to end")
    assert process.returncode == 130
    assert "the same command goes on from what is saved" in stdout
    assert stderr == ""
    run_id = next(i for i in out.run_ids() if "Waits" in out.header(i)["spec"]["mixer"]["class"])
    assert out.header(run_id)["status"] == "interrupted"
    assert [r["step"] for r in out.records(run_id, "step")] == [1, 2, 3, 4, 5, 6]
    statuses = [out.cell("stopped", label, 0)["status"] for label in arms]
    assert statuses == ["finished", "interrupted", "interrupted"]

    result = steelyard(*arguments, cwd=tmp_path)

    assert (result.returncode, result.stderr) == (0, "")
    for label, same in (("uniform", "uniform"), ("waits", "uniform"), ("never_begun", "half")):
        ours = out.records(out.cell("stopped", label, 0)["run_id"])
        assert timeless(ours) == timeless(finished.out.main(same, 0))


def test_ctrl_c_during_set_up_stops_without_a_traceback(tmp_path: Path) -> None:
    """The corpus is being built and workers are importing: there is nothing to save yet."""
    spec = write_spec(tmp_path / "tiny.toml", ARMS)

    with started("run", spec, "--out", tmp_path / "out", cwd=tmp_path) as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(3)]  # two of a warning about seeds
        assert "corpus: reading a" in first[2]
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        wait_until(lambda: group(process.pid) == [], "all its processes to end")

    assert (process.returncode, stderr) == (130, "")
    assert not list((tmp_path / "out/runs").glob("*/records.jsonl"))


def test_a_full_disk_is_told_in_one_line(finished: Finished, tmp_path: Path) -> None:
    """Here a limit on the size of a file stands in for the disk: no report fits under it."""
    copy = copied(finished, tmp_path)
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "-", *command("report", copy.folder)]

    result = subprocess.run(
        limited,
        cwd=tmp_path,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert result.returncode == 1
    assert re.fullmatch(r"steelyard: \[Errno 27\] File too large.*\n", result.stderr)


def test_compare_sets_two_results_side_by_side(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(finished.out.folder)

    assert cli.main(["compare", folder, f"{folder}/report/tiny"]) == 0

    told = capsys.readouterr().out
    assert "influence" in told
    assert "the specs are the same" in told
    assert cli.main(["compare", folder, "no/such/folder"]) == 2
    assert capsys.readouterr().err.startswith("steelyard: no/such/folder: is no folder and no")


def test_a_watched_report_of_a_finished_ablation_is_written_once(
    finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path).folder

    assert cli.main(["report", str(folder), "--watch"]) == 0
    assert "12 of 12 runs finished" in capsys.readouterr().out
    assert cli.main(["report", str(folder), "--watch", "--every=0"]) == 2
    assert "--every: must be above 0 seconds" in capsys.readouterr().err
