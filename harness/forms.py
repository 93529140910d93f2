"""Every command's options and help, as tyro reads them: the words of the command line, no work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from harness.form_marks import Folder, Spec, WandbMode, positional
from harness.run_forms import Run, Work

HELP = """Referee of language-model data mixing: which mixture wins on your data, at your budget,
and what it cost.

Example: steelyard run sweeps/demo.toml --out runs/demo

steelyard COMMAND --help says more of each; steelyard --version; completion of commands and options
for your shell: eval "$(steelyard completion bash)", in ~/.bashrc to keep it"""


@dataclass(frozen=True)
class Init:
    """Write a commented spec for your own files or data sets of the hub, ready to run.

    Each path is one domain: a file, a folder, a quoted glob, or a hub name (owner/name). What the
    first rows look like decides the columns, the sizes and the budget; read it and change it.

    Example: steelyard init data/gsm8k data/wikitext2 --out mine.toml
    """

    paths: Annotated[tuple[str, ...], *positional("PATHS")]
    """What to mix: two or more."""
    out: Path = Path("spec.toml")
    """The spec to write."""
    name: str | None = None
    """Name of the ablation; by default the spec's file name."""
    target: str | None = None
    """The domain that the ablation is about; by default the first."""
    force: bool = False
    """Write over an existing file."""


@dataclass(frozen=True)
class Plan:
    """Show what `run` would do: runs, tokens, FLOPs, minutes, disk, and what the seeds can prove.

    Trains nothing and builds no corpus. Runs are found by their content, so what is done is not
    asked for again; any key of the spec can be overridden, as for `run`.

    Example: steelyard plan sweeps/demo.toml --out runs/demo --budget.steps=500
    """

    spec: Spec
    """The ablation, a TOML file."""
    out: Path = Path("runs")
    """Folder of runs and corpora, as given to `run`."""
    jobs: int | None = None
    """Runs that train at the same time; by default what the cores allow."""
    measure: bool = False
    """Time three steps, where no finished run of this shape gives a rate."""


@dataclass(frozen=True)
class Show:
    """List the ablations and runs in a folder, their state, and who is at which.

    Example: steelyard show runs/demo
    """

    folder: Folder = Path("runs")
    """The --out of a run."""
    leases: str | None = None
    """The database that says who trains what, where it is not the folder; as for run."""


@dataclass(frozen=True)
class Report:
    """Write report.html, report.md and results.csv.

    With --watch, again whenever a running ablation has something new, until all its runs have
    ended; the page need only be reloaded.

    Example: steelyard report runs/demo --watch
    """

    folder: Folder = Path("runs")
    """The --out of a run."""
    name: str | None = None
    """Which ablation, where the folder holds several; by default the latest."""
    wandb_mode: WandbMode | None = None
    """Where W&B is a tracker of the ablation and does not have this report yet; as for run."""
    watch: bool = False
    """Follow a running ablation."""
    every: float = 10.0
    """With --watch: seconds between looks."""


@dataclass(frozen=True)
class Compare:
    """Set two results side by side: two report folders, or the runs of two git commits.

    Arms are paired by label (runs of commits by their settings), then by seed: B - A in held-out
    bits per byte with its interval, overheads, verdicts, and what the specs differ in.

    Example: steelyard compare runs/demo/report/demo runs/demo/report/sharper
    """

    a: Annotated[str, *positional("A")]
    """A report's folder, an --out of a run, or a commit."""
    b: Annotated[str, *positional("B")]
    """The other."""
    out: Path = Path("runs")
    """Where the runs of commits lie."""


@dataclass(frozen=True)
class Export:
    """Write an arm's mixture as JSON, or as a fragment of another trainer's configuration.

    Example: steelyard export runs/demo influence --format llamafactory --to mixture.yaml
    """

    folder: Folder
    """The --out of a run."""
    arm: Annotated[str, *positional("ARM")]
    """Whose mixture."""
    name: str | None = None
    """Which ablation, where the folder holds several; by default the latest."""
    seed: int | None = None
    """One seed's mixture; by default the mean over all finished seeds."""
    what: Literal["final", "mean", "schedule"] = "mean"
    """Weights of the last step, their mean over the run, or how they went (JSON only)."""
    format: Literal["json", "interleave", "axolotl", "llamafactory", "nemo", "torchtitan"] = "json"
    """JSON, datasets.interleave_datasets, or the trainer whose configuration it is for."""
    to: Path | None = None
    """File to write; by default standard output."""


@dataclass(frozen=True)
class Doctor:
    """Check what runs need of this machine, and say how to fix what is wrong.

    Example: steelyard doctor --out runs/demo
    """

    out: Path = Path("runs")
    """Folder that runs would be written to."""


@dataclass(frozen=True)
class Methods:
    """List mixing methods and controls: paper, what each needs, what it costs.

    With a name: how it works, what it deviates in, and its settings, for `[arms.LABEL.settings]`.

    Example: steelyard methods doremi
    """

    name: Annotated[str | None, *positional("METHOD")] = None
    """A method of the list, or module:Class of your own."""


@dataclass(frozen=True)
class Completion:
    """Print what completes commands and options in your shell.

    Example: eval "$(steelyard completion bash)"   (in ~/.bashrc or ~/.zshrc to keep it)
    """

    shell: Annotated[Literal["bash", "zsh"], *positional("SHELL")]
    """bash or zsh."""


COMMANDS: dict[str, type] = {
    "init": Init,
    "plan": Plan,
    "run": Run,
    "work": Work,
    "methods": Methods,
    "show": Show,
    "report": Report,
    "compare": Compare,
    "export": Export,
    "doctor": Doctor,
    "completion": Completion,
}
OVERRIDING = (Plan, Run, Work)  # they take keys of the spec beside their own options


def one_of(commands: dict[str, type]) -> Any:
    """Return commands as one form, each with the first line of its docstring."""
    form: Any = None
    for name, command in commands.items():
        one = subcommand(name, command, (command.__doc__ or "").partition("\n")[0])
        form = one if form is None else form | one
    return form


def subcommand(name: str, form: Any, summary: str) -> Any:
    """Return a form as what follows the word `name`."""
    return Annotated[form, tyro.conf.subcommand(name, description=summary)]
