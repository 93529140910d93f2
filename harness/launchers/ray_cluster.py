"""Workers as Ray tasks: one process each, on whichever node has the cores and GPUs.

A task whose node dies is started again by Ray, and picks up what its dead worker had leased.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray

from harness.errors import SpecError
from harness.fleet import Job
from harness.launchers.order import Order, work

if TYPE_CHECKING:
    from harness.run_forms import Ray

MAX_RETRIES = 3


def open_launcher(options: Ray) -> Callable[[Order], list[Job]]:
    """Return what starts workers in the cluster at an address, or in one of our own."""

    def launch(order: Order) -> list[Job]:
        if not ray.is_initialized():
            _connect(options, order)
        # max_calls: a process of its own, as anywhere
        needs = ray.remote(
            num_cpus=order.cores, num_gpus=order.gpus, max_retries=MAX_RETRIES, max_calls=1
        )
        task = needs(work)
        given = (order.words, os.getcwd(), dict(order.environment))
        return [_RayJob(task.remote(*given), i) for i in range(order.count)]

    return launch


def _connect(options: Ray, order: Order) -> None:
    own: dict[str, Any] = {"num_cpus": order.cores * order.count, "include_dashboard": False}
    if order.gpus:
        own["num_gpus"] = order.gpus * order.count
    where = {"address": options.address} if options.address else own
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        told = str(error).splitlines()[0]
        raise SpecError(f"--ray.address: {options.address!r} does not answer: {told}") from None


class _RayJob:
    def __init__(self, reference: Any, number: int) -> None:
        self._reference, self.name = reference, f"ray worker {number}"

    def ending(self) -> str | None:
        done, _ = ray.wait([self._reference], timeout=0)
        if not done:
            return None
        try:
            return f"ended with exit code {ray.get(self._reference)}"
        except Exception as error:  # of Ray, or whatever the task has raised
            lines = [line for line in str(error).splitlines() if line.strip()]
            return f"ended: {lines[-1].strip() if lines else type(error).__name__}"

    def is_queued(self) -> bool:
        return False  # Ray does not say

    def cancel(self) -> None:
        ray.cancel(self._reference, recursive=True)
