"""One trial in this process, for whoever proposes settings: W&B's agent, Optuna's commands, you.

Every seed of the study is trained at the given settings, and one line of JSON tells what came of
it. A loop without a worker of ours, of as many turns as a study has slots:

    url=sqlite:///runs/tuning/studies.db study=sweeps/studies/demo.toml arm=influence
    steelyard study create $study --out runs/tuning
    space=$(steelyard study space $study $arm)
    asked=$(optuna ask --storage $url --study-name demo.$arm --search-space "$space" -f json)
    number=$(echo $asked | jq .number)
    told=$(steelyard study trial $study $arm --out runs/tuning --number $number \
             --params "$(echo $asked | jq -c .params)")
    optuna tell --storage $url --study-name demo.$arm --trial-number $number \
             --values $(echo $told | jq .loss)

`--number` lets the trial's facts be stored with it, without which `best` could not choose it. Where
an agent has started the process, its run has the trial's rows; see sweeps/following.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SpecError
from harness.preflight import make_writable
from harness.trackers import AgentRun, Mirror, open_agent_run, take_agent_run
from sweeps.following import OBJECTIVE, Follower, Rows, Sink
from sweeps.options import read_settings
from sweeps.space import Value
from sweeps.stopping import StopRequest
from sweeps.studyfile import Study
from sweeps.trial import Bench, TrialResult

if TYPE_CHECKING:
    from harness.spec import RunSpec

OUT = "STEELYARD_OUT"
"""Environment variable: the default of --out, for commands that are written in a sweep's file."""


def run_trial(study: Study, command: Any, rest: list[str]) -> int:
    """Carry out one trial; return 0, 1 where it failed, 130 where it was stopped.

    SpecError, before any compute, for an arm that is not tuned and settings outside of its space.
    """
    agent = take_agent_run(os.environ)
    arm = command.arm
    study.check_arm(arm)
    values = read_settings(study.parameters(arm), command.params, rest)
    out = command.out or Path(os.environ.get(OUT) or "runs")
    asked = command.number is not None
    number = _Number(study, replace(command, out=out), values) if asked else None
    make_writable(out)
    bench = Bench(study, out, _say)
    specs = bench.specs(arm, values)
    bench.check()
    trial = _Trial(study, arm, values, bench, specs)
    with trial.stop:
        code = _follow(trial, out, agent)
    if code == 0:
        _tell(trial.result, number)
    if code == 130 and agent is not None and trial.stop.signal == signal.SIGTERM:
        _die_of(signal.SIGTERM)
    return code


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class _Trial:
    """What is carried out, and how far it is."""

    study: Study
    arm: str
    values: Mapping[str, Value]
    bench: Bench
    specs: Mapping[int, RunSpec]
    result: TrialResult = field(default_factory=TrialResult)
    stop: StopRequest = field(default_factory=StopRequest)

    def carry_out(self, follower: Follower) -> str:
        """Train the seeds; return how it ended: finished, failed or stopped."""
        from harness.loop import InterruptedRunError
        from harness.runner import one_line

        try:
            for one in self.bench.seeds(self.specs, None, follower, self.stop.__bool__):
                self.result.seeds.append(one)
                _say(f"{self.arm} seed {one.seed}: tuning loss {one.loss:.4f} at the end")
        except InterruptedRunError:
            _say("stopped; the same command goes on from what is saved")
            return "stopped"
        except Exception as error:  # of a plan, say
            _say(f"steelyard: the trial failed: {one_line(error)}")
            return "failed"
        return "finished"


def _follow(trial: _Trial, out: Path, agent: AgentRun | None) -> int:
    """Carry a trial out before the eyes of an agent, if there is one; return the exit code."""
    study, arm = trial.study, trial.arm
    group = study.optuna_name(arm)
    run, members, path = Mirror({}), Mirror({}), None
    if agent is not None:
        group, path = agent.group or group, agent.rows
        run, members = open_agent_run(out, agent.run_id, _say)
        facts = {"study": study.asked.name, "arm": arm, "method": study.spaces[arm].method}
        config = {**trial.values, **facts, "seeds": list(study.asked.seeds)}
        opening = {"run_id": agent.run_id, "sweep_id": agent.sweep_id, "config": config}
        run.start(opening, group, arm)
    sink = Sink(run, path, _say)
    rows = Rows(trial.bench.weights, sink)
    follower = Follower(rows, members, group, arm, study.asked.seeds[0])
    status = trial.carry_out(follower)
    if status == "finished":
        sink.put(rows.step + 1, {"tokens": rows.tokens, OBJECTIVE: trial.result.loss})
        _say(f"{arm}: tuning loss {trial.result.loss:.4f}, mean of {len(study.asked.seeds)} seeds")
    run.finish(status, _summary(trial.result))
    return {"finished": 0, "stopped": 130}.get(status, 1)


def _summary(result: TrialResult) -> dict[str, Any]:
    """Return what the agent's run has beside its rows; means over seeds, as in every table."""
    if not result.seeds:
        return {}
    facts = {f"trial/{name}": fact for name, fact in result.facts().items()}
    overhead = {
        "overhead/seconds": result.mean_overhead_seconds,
        "overhead/share_of_train_seconds": result.overhead_share,
    }
    return {**facts, **overhead}


def _tell(result: TrialResult, number: _Number | None) -> None:
    """Print the trial's result as one line of JSON, and store its facts where it has a number."""
    facts = result.facts()
    means = {"loss": result.loss, "mean_overhead_seconds": result.mean_overhead_seconds}
    print(json.dumps({**means, "overhead_share": result.overhead_share, **facts}), flush=True)
    if number is not None:
        number.note(facts)


class _Number:
    """A trial of Optuna's that someone has asked for, by its number."""

    def __init__(self, study: Study, command: Any, values: Mapping[str, Value]) -> None:
        """Find it; SpecError where it is not running, has no slot or has other settings."""
        from sweeps.storage import open_existing, storage_url
        from sweeps.study import load, rows

        fix = f"steelyard study create {command.study} --out {command.out}"
        self._storage = open_existing(storage_url(command.storage, command.out), fix)
        found = {row.number: row for row in rows(load(study, command.arm, self._storage))}
        name, number = study.optuna_name(command.arm), command.number
        if number not in found or found[number].state != "running":
            state = found[number].state if number in found else "not there"
            fix = f"ask for one by optuna ask --study-name {name}"
            raise SpecError(f"--number: trial {number} of {name} is {state}; {fix}")
        if found[number].slot is None:
            fix = f"{study.asked.trials} trials are all that the study allows"
            raise SpecError(f"--number: trial {number} of {name} has no slot: {fix}")
        _check_same(number, found[number].params, values)
        study_id = self._storage.get_study_id_from_name(name)
        self._id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def note(self, facts: Mapping[str, Any]) -> None:
        """Store facts with the trial, as a worker does."""
        from sweeps.storage import store_facts

        if (why := store_facts(self._storage, self._id, facts)) is not None:
            _say(f"the facts of the trial are not stored with it: {why}")


def _check_same(number: int, asked: Mapping[str, Value], given: Mapping[str, Value]) -> None:
    """Refuse to store with a trial what other settings than its own have found."""
    for name, value in given.items():
        if name not in asked:
            fix = "ask with the --search-space that `steelyard study space` prints"
            raise SpecError(f"--number: {name} is none of trial {number}'s settings; {fix}")
        if asked[name] != value:
            told = f"{name} is {asked[name]} in trial {number}, got {value}"
            raise SpecError(f"--number: {told}; give the settings that `optuna ask` printed")


def _die_of(number: int) -> None:
    """End by the signal itself: the agent counts any other end as a failure of the settings."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
