"""The report of an ablation, handed to its trackers once for each content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.trackers.mirror import LOG_WARNING, Warn
from harness.trackers.opening import open_trackers
from harness.trackers.wandb_mode import settle_wandb_mode


def publish_report(
    out: Path,
    name: str,
    files: Sequence[Path],
    trackers: Sequence[str],
    mode: str | None = None,
    warn: Warn = LOG_WARNING,
) -> None:
    """Show the report of ablation `name` in those of `trackers` that do not have it as it is now.

    Never raises for a tracker's sake and takes a minute or so at the most: a report is written
    whether or not it can be shown elsewhere. `mode` is W&B's, as in `settle_wandb_mode`.
    """
    if "wandb" not in trackers and mode not in (None, "disabled"):
        warn(f"--wandb-mode is ignored: W&B is not among the trackers of {name!r}")
    report_id = _content_id(name, files)
    markers = {tracker: files[0].with_name(f".published-{tracker}") for tracker in trackers}
    missing = [t for t, marker in markers.items() if _read(marker) != report_id]
    if not missing:
        return
    try:
        settled = settle_wandb_mode(mode, warn) if "wandb" in missing else None
        mirror = open_trackers(missing, out, settled, warn)
    except (ValueError, OSError) as error:
        warn(f"the report is not published: {error}")
        return
    for tracker in mirror.report(name, report_id, files):
        with suppress(OSError):  # no marker: published twice, which loses nothing
            markers[tracker].write_text(report_id)


def _content_id(name: str, files: Sequence[Path]) -> str:
    """Hash what a report says; its HTML says the same, and when the records were last touched."""
    digest = hashlib.blake2b(name.encode(), digest_size=8)
    for path in (path for path in files if path.suffix != ".html"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _read(marker: Path) -> str | None:
    try:
        return marker.read_text()
    except OSError:
        return None
