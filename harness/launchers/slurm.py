"""Workers as Slurm jobs, by submitit; its local executor tries the same on one machine.

A job that comes to its time limit, or that is preempted, is queued again by submitit, and goes on
from its run's last checkpoint as any worker does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import submitit

from harness.errors import SpecError
from harness.fleet import Job
from harness.launchers.order import Order, work

if TYPE_CHECKING:
    from harness.run_forms import Slurm


def open_launcher(options: Slurm) -> Callable[[Order], list[Job]]:
    """Return what submits workers; SpecError where there is no Slurm."""
    if options.cluster == "slurm" and shutil.which("sbatch") is None:
        what = "--launcher: slurm needs sbatch, which is not on PATH"
        raise SpecError(f"{what}; go to a login node, or try --slurm.cluster=local")

    def launch(order: Order) -> list[Job]:
        executor = submitit.AutoExecutor(folder=order.folder, cluster=options.cluster)
        executor.update_parameters(**_parameters(options, order))
        given = (order.words, os.getcwd(), dict(order.environment))
        with executor.batch():  # one array
            jobs = [executor.submit(_Work(), *given) for _ in range(order.count)]
        return [_SlurmJob(job) for job in jobs]

    return launch


class _Work(submitit.helpers.Checkpointable):
    """A worker; it keeps nothing that a second one would need."""

    def __new__(cls) -> _Work:
        return object.__new__(cls)  # Checkpointable's own is untyped

    def __call__(self, *given: Any) -> int:
        return work(*given)


class _SlurmJob:
    def __init__(self, job: Any) -> None:
        self._job, self.name = job, f"job {job.job_id}"

    def ending(self) -> str | None:
        if not self._job.done():
            return None
        try:
            code = self._job.result()
        except Exception as error:  # of submitit, or whatever the job has raised
            lines = [line for line in str(error).splitlines() if line.strip()]
            return f"ended: {lines[-1].strip() if lines else type(error).__name__}"
        return f"ended with exit code {code}; see {self._job.paths.stdout}"

    def is_queued(self) -> bool:
        return str(self._job.state) == "PENDING"

    def cancel(self) -> None:
        with suppress(OSError):
            self._job.cancel()


def _parameters(options: Slurm, order: Order) -> dict[str, Any]:
    """Return what submitit's executors are asked for."""
    asked: dict[str, Any] = {"timeout_min": options.minutes, "cpus_per_task": order.cores}
    if order.gpus:
        asked["gpus_per_node"] = order.gpus
    if options.memory_gb is not None:
        asked["mem_gb"] = options.memory_gb
    if options.cluster == "slurm":
        named = {"partition": options.partition, "account": options.account, "qos": options.qos}
        asked |= {f"slurm_{key}": value for key, value in named.items() if value is not None}
        asked |= {"slurm_job_name": "steelyard"}
    return asked
