"""The mirror for TensorBoard; the only file that imports its package, and torch is not needed.

Event files lie in OUT/tensorboard/ABLATION/ARM-seedN, so `tensorboard --logdir OUT/tensorboard`
shows every ablation. TensorBoard's step is training tokens, as everywhere here: arms are compared
at equal tokens, whatever their batch. The spec is there as text, costs at the last step.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.trackers.mirror import Tracker, Warn
from harness.trackers.scalars import cost_scalars, is_auxiliary, run_name, scalars

_FLUSH_SECONDS = 5


class TensorBoardTracker:
    """One folder with one event file for each run."""

    def __init__(self, out: Path) -> None:
        """Write below `out`/tensorboard."""
        self._folder = out.resolve() / "tensorboard"
        self._header: Mapping[str, Any] = {}
        self._writer: Any = None
        self._tokens = 0

    def start(self, header: Mapping[str, Any], group: str, label: str) -> None:
        """Begin an event file in place of an earlier one, whose records all come again."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        # An arm may have several auxiliary runs, and may share them with another arm.
        name = run_name(header, label) + (f"-{header['run_id']}" if is_auxiliary(header) else "")
        folder = self._folder / group / name
        if self._writer is not None:  # of a run without an end: its thread would write on
            self._writer.close()
        for earlier in folder.glob("events.out.tfevents.*"):
            earlier.unlink()
        self._header, self._tokens = header, 0
        self._writer = EventFileWriter(str(folder), flush_secs=_FLUSH_SECONDS)
        self._write_text("spec", {"run_id": header["run_id"], **header["spec"]})

    def log(self, record: Mapping[str, Any]) -> None:
        """Write a record's numbers as they come; one call takes some 40 us of this thread."""
        self._write(scalars(record, self._header))

    def finish(self, status: str, costs: Mapping[str, Any]) -> None:
        """Write the costs and close the file."""
        self._write(cost_scalars(costs))
        self._write_text("status", status)
        self._writer.close()
        self._writer = None

    def report(self, group: str, report_id: str, files: Sequence[Path]) -> None:
        """Do nothing: TensorBoard shows no files."""

    def _write(self, numbers: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._tokens = int(numbers.get("tokens", self._tokens))
        values = [
            Summary.Value(tag=name, simple_value=number)
            for name, number in numbers.items()
            if name != "tokens"
        ]
        if values:
            self._add(Summary(value=values))

    def _write_text(self, tag: str, value: Any) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        # Indented by four, as Markdown shows text that it leaves alone.
        lines = json.dumps(value, indent=1, default=str).splitlines()
        text = "\n".join(f"    {line}" for line in lines)
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        self._add(Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)]))

    def _add(self, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=self._tokens, summary=summary))


def open_tensorboard(out: Path, warn: Warn) -> Tracker:
    """Return the tracker; ValueError where the package is not installed."""
    package = importlib.util.find_spec("tensorboard")
    # Without an origin it is a mere folder called tensorboard, such as earlier runs leave behind.
    if package is None or package.origin is None:
        raise ValueError("trackers: tensorboard is not installed; pip install steelyard[track]")
    return TensorBoardTracker(out)
