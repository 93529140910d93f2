"""What tyro complains about in a box becomes one line, and help stays help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import cli
from harness.arguments import check_command, one_line
from harness.errors import SpecError

ROOT = Path(__file__).parents[2]
SPEC = str(ROOT / "sweeps" / "demo.toml")

# arguments: what the line must say
MISTAKES = {
    "no command": ([], "a command is missing; choose one of init, plan, run"),
    "unknown command": (["rum"], "unknown command 'rum'; did you mean 'run'?"),
    "command far from any": (["qqqq"], "unknown command 'qqqq'; choose one of init, plan"),
    "option before a command": (["--frob", "run"], "unknown option --frob"),
    "no spec": (["run"], "run: SPEC is missing (The ablation, a TOML file); see steelyard run"),
    "no spec for plan": (["plan"], "plan: SPEC is missing"),
    "wrong type": (["run", "--jobs=x", SPEC], "--jobs: must be a whole number, got 'x'"),
    "no value": (["run", SPEC, "--jobs"], "--jobs"),
    "unknown option": (["show", "--frob"], "unknown option --frob"),
    "option with a value": (["doctor", "--frob=3"], "unknown option --frob=3"),
    "no such choice": (["export", ".", "a", "--format", "x"], "invalid choice 'x'"),
    "no such shell": (["completion", "fish"], "invalid choice 'fish'"),
    "arm missing": (["export", "."], "export: ARM is missing"),
    "override out of range": (
        ["run", SPEC, "--budget.steps=0"],
        "--budget.steps: Input should be greater than 0, got 0",
    ),
    "override of a wrong type": (
        ["plan", SPEC, "--budget.steps=few"],
        "--budget.steps: must be a whole number, got 'few'",
    ),
    "unknown override": (["plan", SPEC, "--budget.stepz=3"], "did you mean --budget.steps?"),
    "no jobs": (["plan", SPEC, "--jobs=0"], "--jobs: must be at least 1, got 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = MISTAKES[mistake]

    code = cli.main(arguments)

    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert re.fullmatch(r"steelyard: .*\n", told.err)
    assert expected in told.err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_every_command_has_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])

    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert re.search(rf"Example: .*steelyard {command}\b", text)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_help_of_a_spec_lists_the_options_of_the_command_too(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, SPEC, "--help"])

    text = capsys.readouterr().out
    assert exit_.value.code == 0
    for option in ("--out", "--jobs", "--budget.steps", "--arms.influence.settings.every"):
        assert option in text


def test_the_overview_names_every_command_and_how_to_complete(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])

    text = capsys.readouterr().out
    assert all(f"• {command} " in text for command in cli.COMMANDS)
    assert "steelyard completion bash" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"steelyard \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_a_complaint_keeps_the_value_and_drops_the_frame() -> None:
    lines = ["Error parsing --a: no good: 'x'", "───", "For full helptext, see y"]
    box = "\n".join(["╭─ Value error ─╮", *(f"│ {line} │" for line in lines), "╰──╯"])

    assert one_line(box) == "--a: no good: 'x'"


def test_an_option_is_no_unknown_command() -> None:
    check_command(["--help"], ["run"])
    with pytest.raises(SpecError):
        check_command(["help"], ["run"])
