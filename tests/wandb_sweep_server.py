"""The part of the tests' W&B server that serves sweeps: `wandb sweep`, and any number of agents.

Grids go through their points in order, everything else is drawn at random: what W&B's own engine
would make of `bayes` is not ours to test.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import dataclass, field
from typing import Any

import yaml

Json = dict[str, Any]


@dataclass
class ReceivedSweep:
    """What the server has of one sweep, and what it has handed out."""

    name: str
    project: str
    config: Json
    handed_out: dict[str, Json] = field(default_factory=dict)
    """Run id to settings, in order."""
    by_agent: dict[str, list[str]] = field(default_factory=dict)
    """Agent to the ids of the runs that it was given."""
    running: set[str] = field(default_factory=set)
    """Runs that some agent said it is at, when it was last heard."""

    def draw(self) -> Json | None:
        """Return the settings of the next run; None where there is none any more."""
        number, parameters = len(self.handed_out), self.config["parameters"]
        if number >= self.config.get("run_cap", math.inf):
            return None
        if self.config["method"] == "grid":
            points = [p.get("values", [p.get("value")]) for p in parameters.values()]
            grid = list(itertools.product(*points))
            found = dict(zip(parameters, grid[number], strict=True)) if number < len(grid) else None
            return found
        rng = random.Random(number)
        return {name: draw_value(parameter, rng) for name, parameter in parameters.items()}


def draw_value(parameter: Json, rng: random.Random) -> Any:
    """Return one value as a server might, for any distribution of ours."""
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return rng.choice(parameter["values"])
    low, high, kind = parameter["min"], parameter["max"], parameter["distribution"]
    if kind == "int_uniform":
        return rng.randint(low, high)
    if kind.endswith("log_uniform_values"):
        drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
    else:
        drawn = rng.uniform(low, high)
    # a quantized number arrives as 20.0 from some servers, and so here
    return float(round(drawn / parameter["q"]) * parameter["q"]) if kind[0] == "q" else drawn


class SweepOperations:
    """GraphQL operations on sweeps, by name, for `tests.wandb_server.WandbServer`."""

    sweeps: dict[str, ReceivedSweep]
    stop_asked: set[str]
    """Ids of runs that agents are told to stop."""

    def _on_UpsertSweep(self, asked: Json) -> Json:
        name = f"sweep{len(self.sweeps)}"
        config = yaml.safe_load(asked["config"])
        self.sweeps[name] = ReceivedSweep(name, asked["projectName"], config)
        project = {
            "id": "p",
            "name": asked["projectName"],
            "entity": {"id": "e", "name": asked["entityName"]},
        }
        sweep = {"name": name, "project": project}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _on_SweepWithRuns(self, asked: Json) -> Json:
        sweep = self.sweeps.get(asked["sweep"])
        if sweep is None:
            return {"project": {"sweep": None}}
        found = {
            "id": sweep.name,
            "name": sweep.name,
            "method": sweep.config["method"],
            "state": "RUNNING",
            "config": yaml.safe_dump(sweep.config),
            "runs": {"edges": []},
        }
        return {"project": {"sweep": found}}

    def _on_CreateAgent(self, asked: Json) -> Json:
        sweep = self.sweeps[asked["sweep"]]
        agent = f"{sweep.name}:agent{len(sweep.by_agent)}"
        sweep.by_agent[agent] = []
        return {"createAgent": {"agent": {"id": agent}}}

    def _on_Heartbeat(self, asked: Json) -> Json:
        agent = asked["id"]
        sweep = self.sweeps[agent.partition(":")[0]]
        running = [run for run, is_on in json.loads(asked["runState"]).items() if is_on]
        sweep.running = sweep.running - {*sweep.by_agent[agent]} | {*running}
        commands: list[Json] = [
            {"type": "stop", "run_id": run} for run in running if run in self.stop_asked
        ]
        if not running:
            commands.append(self._next(sweep, agent))
        return {"agentHeartbeat": {"agent": {"id": agent}, "commands": json.dumps(commands)}}

    def _next(self, sweep: ReceivedSweep, agent: str) -> Json:
        settings = sweep.draw()
        if settings is None:
            return {"type": "exit"}
        run_id = f"{sweep.name}-run{len(sweep.handed_out)}"
        sweep.handed_out[run_id] = settings
        sweep.by_agent[agent].append(run_id)
        return {
            "type": "run",
            "run_id": run_id,
            "program": sweep.config.get("program", ""),
            "args": {name: {"value": value} for name, value in settings.items()},
        }
