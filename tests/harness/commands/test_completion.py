"""The completion script is one that the shell takes, and knows the commands."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from harness import cli


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_names_every_command_and_an_option(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", shell]) == 0

    text = capsys.readouterr().out
    assert all(command in text for command in cli.COMMANDS)
    assert "--jobs" in text


def test_bash_takes_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    cli.main(["completion", "bash"])
    script = capsys.readouterr().out + "\ncomplete -p steelyard\n"

    done = subprocess.run([bash], input=script, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("steelyard")


def test_bash_completes_files_where_a_command_takes_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SPEC, PATHS and DIR are what is typed most."""
    cli.main(["completion", "bash"])

    assert "complete -o bashdefault -o default -F _tyro_steelyard steelyard" in (
        capsys.readouterr().out
    )
