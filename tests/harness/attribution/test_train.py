"""Fine-tuning through the command: the one loop, the checkpoint that is chosen, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import checkpoint
from harness.attribution.desk import load_attribution
from harness.attribution.places import Places
from harness.attribution.train import choose, open_chosen
from harness.cli import main
from harness.errors import SpecError
from harness.keeping import BEST
from harness.records import CHECKPOINT, read_records, tuning_losses
from tests.harness.attribution.conftest import FACTS

SPEC = """
name = "tiny"

[domains.qa]
kind = "files"
paths = ["{folder}/qa.jsonl"]
prompt = "Q: {{q}}\\nA:"
answer = " {{a}}"

[splits]
probe = 0.15
tuning = 0.1
heldout = 0.1

[tokenizer]
vocab_size = 320

[model]
config = {{ n_layer = 1, n_embd = 32, n_head = 2 }}

[batch]
rows = 8
tokens = 24
pack = false

[training]
epochs = {epochs}
validate_every = 2

[optimizer]
learning_rate = 1e-2
schedule = "cosine_with_restarts"
"""


def write_spec(folder: Path, epochs: float = 2.0) -> Path:
    """Write questions with answers and the attribution of them; return its path."""
    rows = (json.dumps({"q": q, "a": a}) + "\n" for q, a in FACTS.items())
    (folder / "qa.jsonl").write_text("".join(rows))
    path = folder / "tiny.toml"
    path.write_text(SPEC.format(folder=folder, epochs=epochs))
    return path


def test_the_command_trains_an_epoch_of_documents_and_chooses_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps follow from rows; a model that overfits has its best checkpoint attributed."""
    path, out = write_spec(tmp_path, epochs=30.0), tmp_path / "out"

    assert main(["attribute", "train", str(path), "--out", str(out)]) == 0

    printed = capsys.readouterr().out
    places = Places(out, "tiny")
    state = json.loads(places.state.read_text())
    folder = out / state["folder"]
    header = json.loads((folder / "run.json").read_text())
    rows = header["train_rows"]["qa"]
    assert header["num_steps"] == -(-30 * rows // 8)
    losses = tuning_losses(read_records(folder / "records.jsonl"), ("qa",))
    assert state["step"] == min(losses, key=lambda step: losses[step])
    assert state["step"] < header["num_steps"]  # or the test would show nothing
    assert f"attributed: step {state['step']}" in printed
    assert (places.pages / "curves.html").stat().st_size > 10_000

    opened = open_chosen(load_attribution(path, [], ""), places)
    best = checkpoint.load(folder / BEST)
    assert best is not None
    assert opened.checkpoint == BEST
    assert opened.view.step == state["step"]
    for name, value in opened.view.model.state_dict().items():
        assert torch.equal(value, best["model"][name])
    for shown in map(opened.pool().shown, range(3)):
        question = shown.prompt.removeprefix("Q: ").removesuffix("\nA:")
        assert f" {FACTS[question]}".startswith(shown.answer)

    assert main(["attribute", "train", str(path), "--out", str(out)]) == 0  # found, not trained
    assert json.loads((folder / "run.json").read_text())["finished"] == header["finished"]


def test_a_model_that_training_only_makes_worse_is_told_and_refused_before_compute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adam has no moments at step 0; ekfac, the other default, would be fitted and scored first."""
    path, out = write_spec(tmp_path, epochs=1.0), tmp_path / "out"
    worse = ["--out", str(out), "--optimizer.learning_rate=50.0", "--factors.fitter=hooks"]
    worse += ["--evaluate.parts", "tail_patch"]

    def do(stage: str, *options: str) -> tuple[int, str, str]:
        code = main(["attribute", stage, str(path), *worse, *options])
        return code, *capsys.readouterr()

    code, printed, _ = do("train")
    assert code == 0
    assert "WARNING: validation was lowest before the first step" in printed
    assert "attributed: step 0," in printed
    for stage in ("fit", "evaluate"):
        code, _, complaint = do(stage)
        assert code == 2
        assert "scores.estimators.grad_cos: " in complaint
        assert 'set preconditioner = "none" there, or training.attribute = "last"' in complaint
        assert complaint.count("\n") == 1
    folders = {found.name for found in (out / "attribution/tiny").iterdir()}
    assert folders.isdisjoint({"factors", "scores"})

    text = path.read_text()
    path.write_text(f"{text}[scores.estimators]\ng = {{ kind = 'grad_dot' }}\n")
    assert "of step 0, has none; set preconditioner" in do("score")[2]
    path.write_text(path.read_text().replace("'grad_dot'", "'grad_dot', preconditioner = 'none'"))
    assert do("score")[0] == 0
    path.write_text(f"{text}[scores.estimators]\ng = {{ kind = 'grad_dot' }}\n")
    assert "WARNING" not in do("train", "--training.attribute=last")[1]
    assert do("score", "--training.attribute=last")[0] == 0


def test_any_finished_run_can_take_the_place_of_training(
    tiny_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "of_a_run.toml"
    path.write_text(f'name = "of-a-run"\nrun = "{tiny_run.folder}"\n')

    assert main(["attribute", "train", str(path), "--out", str(tmp_path / "out")]) == 0

    # it looked at held-out rows and never at the tuning set, so the last checkpoint is all there is
    assert "attributed: step 40 of" in capsys.readouterr().out
    chosen = choose(tiny_run.folder, "best")
    assert (chosen.checkpoint, chosen.validation_loss) == (CHECKPOINT, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('name = "x"\n', "domains: is missing"),
        ('name = "x"\nrun = "nowhere"\n', "nowhere: holds no run"),
        ('name = "x"\nrun = "a"\n[domains.a]\nkind = "synthetic"\n', "run: belongs to"),
        ('name = "x"\n[domains.a]\nkind = "synthetic"\n[training]\nepoch = 1\n', "epochs"),
        ('name = "x"\n[domains.a]\nkind = "synthetic"\n[training]\nepochs = 0.0\n', "epochs"),
        (
            'name = "x"\n[domains.a]\nkind = "synthetic"\n[training]\nepochs = 1.0\nsteps = 2\n',
            "one of epochs and steps",
        ),
    ],
)
def test_a_mistake_is_one_line(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)

    assert main(["attribute", "train", str(path), "--out", str(tmp_path / "out")]) == 2

    complaint = capsys.readouterr().err
    assert told in complaint
    assert complaint.count("\n") == 1


def test_more_rows_than_there_will_be_are_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fit` would say so after the training, which is what costs."""
    words = ["attribute", "train", str(write_spec(tmp_path)), "--out", str(tmp_path / "out")]

    assert main([*words, "--factors.rows=70"]) == 2

    assert "factors.rows: 70, but the pool has" in capsys.readouterr().err
    assert not (tmp_path / "out/runs").exists()
    assert main([*words, "--scores.rows=70", "--training.epochs=.2"]) == 0
    assert "note: scores.rows: 70, but the pool has" in capsys.readouterr().out


def write_long(folder: Path, quarters: int) -> list[str]:
    """Write a spec in which so many quarters of the prompts fill their rows; return the command."""
    path = write_spec(folder, epochs=1.0)
    rows = ({"q": q, "a": a} for q, a in FACTS.items())
    long = " ".join(f"Consider {name}." for name in "abcdefghijklmnopqrst")
    lines = [
        json.dumps({**row, "q": f"{row['q']} {long}"} if i % 4 < quarters else row)
        for i, row in enumerate(rows)
    ]
    (folder / "qa.jsonl").write_text("\n".join(lines))
    return ["attribute", "train", str(path), "--out", str(folder / "out"), "--batch.rows=1"]


def test_answers_that_are_cut_away_are_told_and_their_steps_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(write_long(tmp_path, 1)) == 0

    printed = capsys.readouterr().out
    places = Places(tmp_path / "out", "tiny")
    folder = places.out / json.loads(places.state.read_text())["folder"]
    steps = [r for r in read_records(folder / "records.jsonl") if r["kind"] == "step"]
    silent = sum(step["loss"] == 0 for step in steps)
    assert silent > 2  # or the test would show nothing
    opened = open_chosen(load_attribution(tmp_path / "tiny.toml", ["--batch.rows=1"], ""), places)
    rows = opened.view.stream.train.num_rows("qa")
    cut = rows - len(opened.pool())
    assert f"WARNING: domains.qa: {cut} of {rows} train rows have no target" in printed
    note = f"{silent} of {len(steps)} steps had no target in their batch"
    assert note in printed
    assert note in (places.pages / "curves.html").read_text()


def test_training_is_refused_where_most_answers_are_cut_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = write_long(tmp_path, 3)

    assert main([*words, "--splits.near_duplicate=.99"]) == 2

    complaint = capsys.readouterr().err
    assert "the prompt fills them, and the answer is cut away; raise batch.tokens" in complaint
    assert not (tmp_path / "out/runs").exists()


def test_warnings_on_the_data_are_printed_and_stand_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noise is noise in every stage after this one; a run that is given is told of as well."""
    path, out = tmp_path / "noise.toml", tmp_path / "out"
    path.write_text(
        'name = "noise"\n[domains.a]\nkind = "synthetic"\nnum_words = 50\nbranching = 50\n'
        "[training]\nsteps = 2\n[tokenizer]\nvocab_size = 320\n[batch]\ntokens = 24\nrows = 4\n"
        "[model.config]\nn_layer = 1\nn_embd = 32\nn_head = 2\n"
    )

    assert main(["attribute", "train", str(path), "--out", str(out)]) == 0

    assert "WARNING: domains.a looks random" in capsys.readouterr().out
    page = (Places(out, "noise").pages / "curves.html").read_text()
    assert "Warnings on the data" in page
    assert "domains.a looks random" in page
    path.write_text(f'name = "given"\nrun = "{next((out / "runs").iterdir())}"\n')
    assert main(["attribute", "train", str(path), "--out", str(out)]) == 0
    assert "WARNING: domains.a looks random" in capsys.readouterr().out


def test_help_says_that_every_step_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who looks for a logging interval finds that there is none."""
    with pytest.raises(SystemExit):
        main(["attribute", "train", str(write_spec(tmp_path)), "--help"])

    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Every step's loss, learning rate and gradient norm are recorded" in shown


def test_a_later_stage_asks_for_training_first(tmp_path: Path) -> None:
    spec = load_attribution(write_spec(tmp_path), [], "")

    with pytest.raises(SpecError, match="nothing is trained yet"):
        open_chosen(spec, Places(tmp_path / "out", "tiny"))


@pytest.mark.parametrize(
    ("option", "name"),
    [("--training.validate_every=4", "training"), ("--model.config.n_layer=2", "model")],
)
def test_a_later_stage_refuses_the_run_of_another_spec(
    option: str, name: str, tmp_path: Path
) -> None:
    """Edited after training, or given other options: the old run is not what is asked for."""
    path, out = write_spec(tmp_path, epochs=1.0), tmp_path / "out"
    assert main(["attribute", "train", str(path), "--out", str(out)]) == 0
    places = Places(out, "tiny")
    open_chosen(load_attribution(path, [], ""), places)

    with pytest.raises(SpecError, match=rf"other settings \({name}\)"):
        open_chosen(load_attribution(path, [option], ""), places)


def test_a_masked_model_is_refused(tmp_path: Path) -> None:
    """Its rows have hidden tokens and no next one."""
    path = tmp_path / "masked.toml"
    path.write_text(
        'name = "m"\n[domains.a]\nkind = "synthetic"\n'
        '[model]\narchitecture = "bert"\nobjective = "masked"\n'
    )

    with pytest.raises(SpecError, match="choose a causal model"):
        load_attribution(path, [], "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_training_that_was_stopped_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C saves and says so, SIGKILL loses what came after the last checkpoint; both resume."""
    path, out = write_spec(tmp_path, epochs=60.0), tmp_path / "out"
    words = ["attribute", "train", str(path), "--out", str(out), "--checkpoint.steps=3"]
    command = [sys.executable, "-m", "harness.cli", *words]
    restore = "import signal, os, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    run_it = f"{restore}from harness.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", run_it, *words], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    records = _records(out, process)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)

    folder = records.parent
    header = json.loads((folder / "run.json").read_text())
    assert header["status"] in ("interrupted", "running")
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "goes on from what is saved" in printed
    assert checkpoint.load(folder / CHECKPOINT) is not None

    done = subprocess.run([*command], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    steps = [r["step"] for r in read_records(records) if r["kind"] == "step"]
    assert steps == list(range(1, json.loads((folder / "run.json").read_text())["num_steps"] + 1))


def _records(out: Path, process: subprocess.Popen[str]) -> Path:
    """Return the records of the run, once it has been under way for some steps."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        found = list(out.glob("runs/*/records.jsonl"))
        if found and found[0].read_text().count('"step"') > 20:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("the run has not begun")
