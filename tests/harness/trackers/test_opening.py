"""Trackers are found by name, built in or installed, and imported no earlier than they must be."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from harness.trackers import open_trackers
from tests.tracked_run import RUN_ID, mirror_all, records, write_run

ROOT = Path(__file__).parents[3]


def test_opening_refuses_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = importlib.machinery.ModuleSpec("wandb", None)  # ./wandb of earlier runs looks so
    for found in (None, folder):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _, found=found: found)
        for name in ("wandb", "tensorboard"):
            with pytest.raises(
                ValueError, match=rf"{name} is not .*; pip install steelyard\[track\]"
            ):
                open_trackers((name,), tmp_path)
        mirror_all(open_trackers(("wandb",), tmp_path, "disabled"))


def test_importing_and_opening_cost_no_tracker_and_no_torch(tmp_path: Path) -> None:
    code = """
import importlib.util, sys
from pathlib import Path
from harness.trackers import open_trackers
present = [n for n in ("wandb", "tensorboard") if importlib.util.find_spec(n)]
open_trackers(present, Path(sys.argv[1]), "offline")
print({"wandb", "tensorboard", "torch", "urllib.request"} & set(sys.modules))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.stdout.strip() == "set()", done.stderr


def test_an_installed_tracker_gets_everything(tmp_path: Path, third_party: str) -> None:
    run_dir, warnings = write_run(tmp_path), list[str]()
    mirror = open_trackers(("memory",), tmp_path, warn=warnings.append)
    mirror_all(mirror)
    ((out, warn, tracker),) = sys.modules[third_party].opened
    warn("seen")

    logged = [("log", record["kind"], record["step"]) for record in records()]
    assert tracker.calls == [("start", RUN_ID, "demo", "uniform"), *logged, ("finish", "finished")]
    assert out == tmp_path
    assert warnings == ["seen"]
    assert (run_dir / ".mirrored-memory").exists()


def test_an_unknown_name_lists_what_there_is(tmp_path: Path, third_party: str) -> None:
    known = "wandb, tensorboard, absent, broken, failing, memory, nothing, raising"
    with pytest.raises(ValueError, match=f"'memorie' is unknown; use {known} or none"):
        open_trackers(("memorie",), tmp_path)
    assert third_party not in sys.modules


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("broken", "ModuleNotFoundError: No module named 'third_party_trackers.none'"),
        ("absent", "AttributeError: module 'third_party_trackers' has no attribute 'open_absent'"),
        ("raising", "RuntimeError: no license"),
        ("nothing", "TypeError: what it opens has no method start"),
    ],
)
def test_a_package_that_cannot_be_opened_is_one_line(
    tmp_path: Path, third_party: str, name: str, what: str
) -> None:
    with pytest.raises(ValueError, match="trackers") as raised:
        open_trackers((name,), tmp_path)

    text = str(raised.value)
    assert text.startswith(f"trackers: {name!r} of third-party 1.2 cannot be opened: {what}")
    assert "\n" not in text
