"""Which mode W&B is used in, decided once for a whole ablation and before its package is imported.

The SDK decides for each run, asks on a terminal, and retries a server that does not answer for
seconds in every process. So the process that starts an ablation asks once, and tells the others.
"""

from __future__ import annotations

import configparser
import netrc
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from harness.trackers.mirror import LOG_WARNING, Warn, first_line

WandbMode = Literal["online", "offline", "disabled"]

# W&B's server moved; either name may be in an older netrc file.
_WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
_WANDB_MODES: dict[str, WandbMode] = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "run": "online",  # the SDK's older words, still accepted in WANDB_MODE
    "dryrun": "offline",
}
_PATIENCE_SECONDS = 8.0
UNREACHABLE = "W&B is not reachable"
"""How every warning begins that says so; the reason after it differs from process to process."""


def settle_wandb_mode(flag: str | None, warn: Warn = LOG_WARNING) -> WandbMode:
    """Return the mode that applies here; offline, with one warning, where no server answers.

    Takes 8 s at the most; ValueError where the mode is no such word.
    """
    mode, env = wandb_mode(flag), _with_base_url(os.environ)
    # What gets through a proxy of the SDK's own is not for us to judge.
    if mode != "online" or any(env.get(f"WANDB_{kind}_PROXY") for kind in ("HTTP", "HTTPS")):
        return mode
    url = env.get("WANDB_BASE_URL")
    reason = why_unreachable([url] if url else [f"https://{host}" for host in _WANDB_HOSTS])
    if reason is None:
        return mode
    warn(f"{UNREACHABLE} ({reason}); writing offline instead, `wandb sync` uploads it later")
    return "offline"


def wandb_mode(flag: str | None) -> WandbMode:
    """Return the mode for this process's environment; nobody is asked, nothing is reached."""
    env = _with_base_url(os.environ)
    return resolve_wandb_mode(flag, env, _netrc_path(env))


def resolve_wandb_mode(
    flag: str | None, env: Mapping[str, str], netrc_path: Path | None
) -> WandbMode:
    """Return `flag`, else WANDB_MODE, else online where there is a credential, else offline."""
    for source, word in (("the W&B mode", flag), ("WANDB_MODE", env.get("WANDB_MODE"))):
        if word:
            if word not in _WANDB_MODES:
                raise ValueError(f"{source} is {word!r}; use online, offline or disabled")
            return _WANDB_MODES[word]
    if env.get("WANDB_API_KEY"):
        return "online"
    base_url = env.get("WANDB_BASE_URL")
    hosts = (urlsplit(base_url).netloc,) if base_url else _WANDB_HOSTS
    try:
        known = netrc.netrc(netrc_path).hosts if netrc_path is not None else {}
    except (OSError, ValueError, netrc.NetrcParseError):
        known = {}  # unreadable is as good as absent: offline asks for nothing
    return "online" if any(host in known for host in hosts) else "offline"


def why_unreachable(urls: Sequence[str], seconds: float = _PATIENCE_SECONDS) -> str | None:
    """Return why none of `urls` answers a question; None where one does, even with a no."""
    reasons = [_silence(urls[0], seconds)]
    outcomes: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for url in urls:  # in threads, because looking up a name heeds no time limit
        ask = partial(_ask, url.rstrip("/"), seconds, outcomes)
        threading.Thread(target=ask, name="wandb-probe", daemon=True).start()
    deadline = time.monotonic() + seconds
    with suppress(queue.Empty):
        for _ in urls:
            outcome = outcomes.get(timeout=max(0.0, deadline - time.monotonic()))
            if outcome is None:
                return None
            reasons.append(outcome)
    return reasons[-1]


def _silence(url: str, seconds: float) -> str:
    return f"no answer from {url} within {seconds:g} s"


def _ask(url: str, seconds: float, outcomes: queue.SimpleQueue[str | None]) -> None:
    """Put None for an answer, or why there was none."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    question = b'{"query": "query Viewer { viewer { id } }"}'
    request = Request(f"{url}/graphql", question, {"Content-Type": "application/json"})
    try:
        urlopen(request, timeout=seconds).close()
    except HTTPError:
        outcomes.put(None)  # it answers; whether it lets us in is between it and the SDK
    except TimeoutError:  # a busy machine may hear of it before the deadline here
        outcomes.put(_silence(url, seconds))
    except Exception as error:
        # Certificates of a place of one's own may be known to the SDK and not to Python.
        outcomes.put(None if "CERTIFICATE" in str(error) else f"{url}: {first_line(error)}")
    else:
        outcomes.put(None)


def _with_base_url(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the server that the SDK's settings files name, if any."""
    if env.get("WANDB_BASE_URL"):
        return dict(env)
    files = configparser.ConfigParser(interpolation=None)
    folders = (env.get("WANDB_CONFIG_DIR", "~/.config/wandb"), env.get("WANDB_DIR", "."))
    paths = (Path(folders[0]) / "settings", Path(folders[1]) / "wandb" / "settings")
    try:
        files.read(path.expanduser() for path in paths)
        url = files.get("default", "base_url", fallback=None)
    except (OSError, ValueError, configparser.Error):
        url = None  # the SDK ignores such files too
    return {**env, "WANDB_BASE_URL": url} if url else dict(env)


def _netrc_path(env: Mapping[str, str]) -> Path | None:
    paths = [env.get("NETRC", "~/.netrc"), "~/.netrc", "~/_netrc"]
    existing = (Path(path).expanduser() for path in paths)
    return next((path for path in existing if path.is_file()), None)
