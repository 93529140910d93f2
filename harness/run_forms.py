"""Options and help of the commands that train: `steelyard run` and `steelyard work`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.form_marks import Spec, WandbMode


@dataclass(frozen=True)
class Slurm:
    """With --launcher slurm: what a job asks for."""

    partition: str | None = None
    """Of the cluster; by default its own default, as for account and qos."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """Quality of service."""
    minutes: int = 240
    """Time limit; a job that comes to it is queued again, and goes on."""
    cores: int = 1
    """Of each worker; it trains as many runs at once as have their threads."""
    gpus: int = 0
    """Of each worker."""
    memory_gb: float | None = None
    """Of each worker."""
    cluster: Literal["slurm", "local"] = "slurm"
    """local: submitit's processes on this machine, to try it."""


@dataclass(frozen=True)
class Ray:
    """With --launcher ray: where the cluster is, and what a worker asks for."""

    address: str | None = None
    """A cluster's address, or auto for the one of this machine; by default one of our own."""
    cores: int = 1
    """Of each worker; it trains as many runs at once as have their threads."""
    gpus: int = 0
    """Of each worker."""


@dataclass(frozen=True)
class Run:
    """Run an ablation: every arm at every seed, then a table and a report.

    Finished runs are found by their content, interrupted ones resume. Any key of the spec can be
    overridden; `steelyard run SPEC --help` lists them all.

    One run on several GPUs or nodes: start it with torchrun, and --out on a disk that all see. Runs
    then go one at a time, over all ranks; --parallel=fsdp for a model that one GPU cannot hold.

    Many runs on many machines: --launcher, or `steelyard work` on each.

    Example: steelyard run sweeps/demo.toml --out runs/demo --arms.influence.settings.every=10

    Example: torchrun --nproc-per-node 8 -m harness.cli run sweeps/demo.toml --out runs/demo
    """

    spec: Spec
    """The ablation, a TOML file."""
    out: Path = Path("runs")
    """Folder of runs, corpora and reports; it can be shared by many ablations."""
    jobs: int | None = None
    """Runs that train at the same time; by default what the cores allow. Changes no number.
    With another launcher: workers, by default 1."""
    wandb_mode: WandbMode | None = None
    """Where W&B is a tracker; by default WANDB_MODE, else online if logged in, else offline."""
    launcher: Literal["pool", "slurm", "ray"] = "pool"
    """Who starts workers: this command, Slurm or Ray; these need --out on a disk that all share."""
    detach: bool = False
    """With --launcher slurm: submit, and leave; `steelyard report --watch` follows."""
    slurm: Slurm = Slurm()
    ray: Ray = Ray()
    leases: str | None = None
    """A database that says who trains what: sqlite:////FILE, postgresql://...; by default
    STEELYARD_LEASES, else files in --out."""
    grace: float = 60.0
    """Seconds without a sign of life after which another machine's worker counts as dead."""


@dataclass(frozen=True)
class Work:
    """Take part in an ablation, beside any number of others on any number of machines.

    Leases what nobody has finished and nobody is at, until all is done; what a dead worker held is
    taken over from its checkpoint. Give all workers the same spec, overrides and --out, on a disk
    that they share. When all is done the report is written.

    Example: steelyard work sweeps/demo.toml --out /shared/demo
    """

    spec: Spec
    """The ablation, a TOML file."""
    out: Path = Path("runs")
    """Folder of runs, corpora and reports, on a disk that all workers share."""
    jobs: int | None = None
    """Runs that train at the same time here; by default what the cores allow."""
    wandb_mode: WandbMode | None = None
    """Where W&B is a tracker; by default WANDB_MODE, else online if logged in, else offline."""
    leases: str | None = None
    """A database that says who trains what: sqlite:////FILE, postgresql://...; by default
    STEELYARD_LEASES, else files in --out."""
    grace: float = 60.0
    """Seconds without a sign of life after which another machine's worker counts as dead."""
    no_report: bool = False
    """Leave the report to whoever started the workers."""
    settled: str | None = None
    """What `auto` stands for, where machines differ: cuda/bfloat16/4/plain, or /compiled."""
