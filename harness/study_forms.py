"""Options and help of the commands that tune: `steelyard study ...` and `steelyard sweep ...`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from harness.form_marks import ONCE_EACH, positional

StudyPath = Annotated[Path, *positional("STUDY")]
Arm = Annotated[str, *positional("ARM")]


@dataclass(frozen=True, kw_only=True)
class _OfStudy:
    """What names a study and where Optuna has it."""

    study: StudyPath
    """The study, a TOML file such as sweeps/studies/rebalancing.toml."""
    storage: str | None = None
    """Where Optuna keeps the study: sqlite:///FILE, postgresql://..., journal:FILE on a shared
    disk, or grpc://HOST:PORT. By default OPTUNA_STORAGE, else OUT/studies.db."""


@dataclass(frozen=True)
class _OnStudy(_OfStudy):
    """What every command on a study takes but the one that an agent calls."""

    out: Path = Path("runs")
    """Folder of runs and corpora; it can be shared by many studies and ablations."""


@dataclass(frozen=True)
class StudyCreate(_OnStudy):
    """Make the Optuna studies of a file, one for each arm, with their slots.

    Trains nothing. `run` does it too; on many machines do it once, before the workers.

    Example: steelyard study create sweeps/studies/rebalancing.toml --out runs/tuning
    """


@dataclass(frozen=True)
class StudyRun(_OnStudy):
    """Carry out trials until every arm has had its number of them.

    Give it as often and on as many machines as you like: all work on the same slots. A trial whose
    worker is killed is tried again; the same command goes on after an interruption.

    Example: steelyard study run sweeps/studies/rebalancing.toml --out runs/tuning --workers 2
    """

    workers: int | None = None
    """Trials at the same time; by default what the cores allow."""
    grace: int = 60
    """Seconds without a sign of life after which a worker counts as dead."""


@dataclass(frozen=True)
class StudyStatus(_OnStudy):
    """Show how many trials have completed, were pruned, failed, run or wait.

    Example: steelyard study status sweeps/studies/rebalancing.toml --out runs/tuning
    """


@dataclass(frozen=True)
class StudyBest(_OnStudy):
    """Show the best settings of every arm beside the spec's own, and what mattered.

    With two objectives it is the front: no trial on it is worse than another in both.

    Example: steelyard study best sweeps/studies/rebalancing.toml --out runs/tuning
    """


@dataclass(frozen=True)
class StudyRetry(_OnStudy):
    """Queue the failed trials again, with their settings, and those that were asked and never told.

    Example: steelyard study retry sweeps/studies/rebalancing.toml --out runs/tuning
    """


@dataclass(frozen=True)
class StudyPromote(_OnStudy):
    """Write a spec with the best settings as arms of their own, for the held-out comparison.

    Their provenance is written with them, and a seed that a trial has used is refused there.

    Example: steelyard study promote sweeps/studies/rebalancing.toml --out runs/tuning
    """

    to: Path = Path("tuned.toml")
    """The spec to write."""
    trial: Annotated[tuple[str, ...], ONCE_EACH] = ()
    """ARM=NUMBER of another trial than the best, such as one of the front; once for each arm."""
    force: bool = False
    """Write over an existing file, and though some arms have had fewer trials than others."""


@dataclass(frozen=True, kw_only=True)
class StudyTrial(_OfStudy):
    """Carry out one trial of an arm at given settings, and print its result as JSON.

    What `wandb agent` calls, and what a loop of `optuna ask` and `optuna tell` needs. Settings are
    options, one for each parameter of the arm's space; progress goes to standard error.

    Example: steelyard study trial sweeps/studies/methods.toml temperature --settings.tau=5
    """

    arm: Arm
    """Which arm."""
    params: str | None = None
    """All settings as one JSON object, as `optuna ask` prints them, in place of options."""
    out: Path | None = None
    """Folder of runs and corpora; by default STEELYARD_OUT, else runs."""
    number: int | None = None
    """The trial's number, as `optuna ask` prints it: what it cost is then stored with it."""


@dataclass(frozen=True)
class StudySpace:
    """Print an arm's search space as JSON, as `optuna ask --search-space` takes it.

    Example: steelyard study space sweeps/studies/rebalancing.toml influence
    """

    study: StudyPath
    """The study, a TOML file."""
    arm: Arm
    """Which arm."""


@dataclass(frozen=True)
class SweepWrite:
    """Write a study's arms as W&B sweep files, for `wandb sweep` and `wandb agent`.

    The files name the study by its path from here: agents are to be started here too.

    Example: steelyard sweep write sweeps/studies/rebalancing.toml --to sweeps/wandb
    """

    study: StudyPath
    """The study, a TOML file."""
    to: Path = Path("sweeps/wandb")
    """Folder of the files, STUDY.ARM.yaml each."""


@dataclass(frozen=True)
class SweepLocal:
    """Run a W&B sweep file without a server: Optuna draws, runs are logged offline.

    Grid, random and bayes (as TPE), hyperband as a pruner; `wandb sync` uploads the runs later. The
    same command goes on where one was stopped.

    Example: steelyard sweep local sweeps/wandb/rebalancing.influence.yaml --runs 8
    """

    file: Annotated[Path, *positional("FILE")]
    """The sweep, a YAML file as `wandb sweep` takes it."""
    out: Path = Path("runs")
    """Folder of the offline W&B runs, and of what Optuna knows of them: OUT/studies.db."""
    runs: int | None = None
    """Most runs, in place of the file's run_cap; a grid ends by itself."""
    seed: int = 0
    """Of what is drawn."""


GROUPS: dict[str, tuple[str, dict[str, type]]] = {
    "study": (
        "Tune arms by Optuna on the tuning set, and write the best settings as arms.",
        {
            "create": StudyCreate,
            "run": StudyRun,
            "status": StudyStatus,
            "best": StudyBest,
            "retry": StudyRetry,
            "promote": StudyPromote,
            "trial": StudyTrial,
            "space": StudySpace,
        },
    ),
    "sweep": (
        "W&B sweep files: write them from a study, run them without a server.",
        {"local": SweepLocal, "write": SweepWrite},
    ),
}
