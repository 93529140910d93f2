"""Killed in any stage, a fit goes on where it was; what was whole is not made again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.attribution import fit
from harness.attribution.alone import LOCK, alone
from harness.attribution.fit_spec import Factors
from harness.attribution.nonfinite import UnsoundError, decide
from harness.attribution.opened import Opened
from harness.attribution.places import Places
from harness.attribution.rows import Pool
from harness.errors import SpecError
from tests.harness.attribution.test_fit import silence

FACTORS = Factors(fitter="hooks", modules=(r"h\.1\.mlp",), data_partitions=2)
STEP = 3  # the file at which a process is killed; the last two are written by one that is not


def killed(work: Callable[[], object], files: int) -> bool:
    """Run in a process of its own, SIGKILL before its n-th file gets its name; tell if it was."""
    child = os.fork()
    if child == 0:
        real, written = Path.replace, []

        def replace_and_die(path: Path, target: Path) -> Path:
            written.append(target)
            if len(written) == files:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(path, target)

        Path.replace = replace_and_die  # type: ignore[method-assign, assignment]
        try:
            work()
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_every_stage_outlives_a_kill_and_the_factors_are_the_same_bits(
    opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    """preflight, 2 covariances, 2 eigen, 2 moments, 2 lambda, rows, health, about: 12 files."""
    few, places = pool.only(range(12)), Places(tmp_path, "x")
    folder = places.factors(fit.key(opened, few, FACTORS))
    deaths, left = 0, set()

    def work() -> object:
        return fit.fit(opened, few, FACTORS, places, say=silence)

    assert killed(work, 1)
    assert not [p for p in folder.iterdir() if ".part" not in p.name and p.name != LOCK]
    while killed(work, STEP):
        deaths += 1
        left |= {path.name.split("-")[0].split(".")[0] for path in folder.iterdir()}
        assert deaths < 20

    assert deaths == 5  # two whole files each: none was made twice
    assert {"preflight", "covariances", "eigen", "moments", "lambda", "rows"} <= left
    assert not [path for path in folder.iterdir() if ".part" in path.name]
    found = fit.open_factors(opened, few, FACTORS, places)
    other = Places(tmp_path, "uninterrupted")
    fit.fit(opened, few, FACTORS, other, say=silence)
    wanted = fit.open_factors(opened, few, FACTORS, other)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_an_interrupted_fit_goes_on_with_what_was_decided(
    opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    """A row left out before the kill is left out after it."""
    few, places = pool.only(range(12)), Places(tmp_path, "x")
    masking = replace(FACTORS, on_nonfinite="mask", strategy="diagonal")
    folder = places.factors(fit.key(opened, few, masking))
    folder.mkdir(parents=True)
    from harness.attribution.nonfinite import Decisions

    error = UnsoundError("stage lambda: one is not finite", "lambda")
    pick = few.picks[3]
    told = decide(Decisions(), error, "mask", folder, False, lambda: [pick])

    fit.fit(opened, few, masking, places, say=silence)

    assert f"left out row {pick[1]} of '{pick[0]}'" in told
    state = fit.open_factors(opened, few, masking, places)
    assert state["fitted"].tolist() == [11, 1]


def test_two_processes_do_not_fit_into_one_folder(
    opened: Opened, pool: Pool, tmp_path: Path
) -> None:
    """Each would delete what the other sums; finished factors can be had by anyone."""
    few, places = pool.only(range(4)), Places(tmp_path, "x")
    factors = replace(FACTORS, strategy="kfac")
    folder = places.factors(fit.key(opened, few, factors))

    with alone(folder, "fits into it"), pytest.raises(SpecError, match="another process fits into"):
        fit.fit(opened, few, factors, places, say=silence)
    fit.fit(opened, few, factors, places, say=silence)

    with alone(folder, "fits into it"):
        assert fit.fit(opened, few, factors, places, say=silence) == folder
