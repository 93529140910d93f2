"""Every check ends in a line, whatever the machine is like, and no check can raise or hang."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness.commands import doctor
from harness.commands.doctor import Finding, examine


@pytest.fixture
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import nothing large: the steps of the child say only that they were there."""
    monkeypatch.setattr(doctor, "STEPS", {"torch": "told = 'torch 9'"})


def told(out: Path, seconds: float = 60) -> tuple[int, str]:
    """Return the exit code and what is printed, as one line."""
    console = Console(file=StringIO(), width=80)
    code = examine(out, console, seconds)
    return code, " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


@pytest.mark.slow
def test_this_machine_can_run(tmp_path: Path) -> None:
    """The real checks, torch and transformers among them: the tests could not run otherwise."""
    code, text = told(tmp_path / "new" / "out", seconds=120)

    assert code == 0
    for what in ("Python 3.", "torch 2.", "transformers 5.", "eager works", "sdpa fails", "GPU"):
        assert what in text
    for what in ("core", "bfloat16", "GB free", "extra [track]", "W&B", "Hugging Face hub"):
        assert what in text
    assert "0 failed" in text
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('operator torchvision::nms\\ndoes not exist')", "nms does not exist"),
        ("import os; os.abort()", "the process ended with -6"),
        ("import time; time.sleep(60)", "no answer within 2 s"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_broken_installation_is_a_line_and_exit_code_1(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "STEPS", {"torch": "told = '9'", "torchvision": code})
    started = time.monotonic()

    result, text = told(tmp_path, seconds=2)

    assert result == 1
    assert "ok torch 9" in text
    assert f"fail torchvision: {'RuntimeError: ' * ('nms' in reason)}" in text
    assert reason in text
    assert "pip uninstall torchvision" in text
    assert "1 failed" in text
    assert time.monotonic() - started < 20


@pytest.mark.usefixtures("_light")
def test_a_check_that_raises_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("ok", "began")
        raise OSError("no /proc")

    monkeypatch.setattr(doctor, "_cores", broken)

    code, text = told(tmp_path)

    assert code == 0
    assert "warn cores: could not be checked: OSError: no /proc" in text


@pytest.mark.usefixtures("_light")
def test_a_folder_that_cannot_be_written_to_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    code, text = told(tmp_path / "file" / "out")

    assert code == 1
    assert "cannot be written to" in text


@pytest.mark.usefixtures("_light")
def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

    code, text = told(tmp_path)

    assert (code, "0.01 GB free -> free some disk" in text) == (1, True)


@pytest.mark.usefixtures("_light")
def test_missing_packages_come_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["numpy>=2", "no-such-a>=1", "no-such-b>=1 ; extra == 'track'", "x; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: asked)

    code, text = told(tmp_path)

    assert code == 1
    assert "fail required packages: missing: no-such-a -> pip install no-such-a" in text
    assert 'extra [track]: missing no-such-b -> pip install "steelyard[track]"' in text
    assert "dev" not in text


@pytest.mark.usefixtures("_light")
def test_wandb_says_its_mode_and_never_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    assert "mode offline, credential no" in told(tmp_path)[1]
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    assert "mode online, credential yes" in told(tmp_path)[1]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "mode disabled, credential yes" in told(tmp_path)[1]
    assert "s3cret" not in told(tmp_path)[1]
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    assert "WANDB_MODE is 'sometimes'" in told(tmp_path)[1]


@pytest.mark.usefixtures("_light")
def test_hub_flags_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline by HF_HUB_OFFLINE" in told(tmp_path)[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "downloads allowed" in told(tmp_path)[1]
