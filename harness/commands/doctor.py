"""`steelyard doctor`: what runs need of this machine, each with what to do where it is wrong.

A doctor must not fall ill: every check is caught, and what imports torch, which may crash or hang
where an installation is broken, happens in one child process with a limit on its time. The child
tells of each step as it ends, so a crash is charged to the step that it happened in.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.text import Text

from harness.choices import BFLOAT16_UNITS, cpu_units, num_cores

SECONDS = 120  # for the child: torch and transformers on a cold, busy disk
NEEDED_BYTES = 2_000_000_000  # free in --out: the demo and its corpus, with room
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}

Level = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """One line: how it is, what was looked at, and how to fix it."""

    level: Level
    what: str
    fix: str = ""


# step: what the child runs; it prints nothing but what it leaves in `told`
STEPS = {
    "torch": "import torch; told = torch.__version__",
    "torchvision": """
import importlib.util
told = "not installed, and not needed"
if importlib.util.find_spec("torchvision"):
    import torchvision
    told = torchvision.__version__
""",
    "transformers": """
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
told = transformers.__version__
""",
    "attention": """
def works(kind):
    config = AutoConfig.for_model("gpt2", n_layer=1, n_embd=8, n_head=1, n_positions=8,
                                  vocab_size=16, bos_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kind).eval()
    parameters = dict(model.named_parameters())
    tokens = torch.zeros((1, 8), dtype=torch.int64)
    def loss(p):
        return torch.func.functional_call(model, p, (tokens,)).logits.sum()
    try:
        torch.func.jvp(loss, (parameters,), (parameters,))
    except (RuntimeError, NotImplementedError):
        return "fails"
    return "works"
told = ", ".join(f"{kind} {works(kind)}" for kind in ("eager", "sdpa"))
""",
    "gpu": """
told = "none; runs use the CPU"
if torch.cuda.is_available():
    free, total = torch.cuda.mem_get_info()
    bf16 = "with" if torch.cuda.is_bf16_supported() else "without"
    memory = f"{free / 1e9:.0f} of {total / 1e9:.0f} GB free"
    told = f"{torch.cuda.get_device_name()}, {memory}, {bf16} bfloat16"
""",
}  # fmt: skip
FIXES = {
    "torch": "pip install 'torch>=2.9,<2.14'",
    "torchvision": "pip uninstall torchvision (built for another torch, it breaks every model)",
    "transformers": "pip install 'transformers>=5.0,<6'",
    "attention": "reinstall torch and transformers",
    "gpu": 'install the torch build for your CUDA driver, or set device = "cpu"',
}
CHILD = """
import json, sys, warnings
warnings.simplefilter("ignore")
names = {}
for step, code in json.loads(sys.argv[1]).items():
    try:
        exec(code, names)
        print(json.dumps([step, True, str(names.get("told"))]), flush=True)
    except BaseException as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        print(json.dumps([step, False, reason]), flush=True)
"""


def examine(out: Path, console: Console, seconds: float = SECONDS) -> int:
    """Print a line for each check; return 1 where something fails that a run needs, else 0."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": _python,
        "imports": lambda: _imports(seconds),
        "cores": _cores,
        "disk": lambda: _disk(out),
        "packages": _packages,
        "W&B": _wandb,
        "hub": _hub,
    }
    counts = dict.fromkeys(STYLES, 0)
    for name, check in checks.items():
        for finding in _guarded(name, check):
            counts[finding.level] += 1
            line = Text(f"{finding.level:<5}", style=STYLES[finding.level])
            line.append(finding.what, style="default")
            line.append(f"\n     -> {finding.fix}" if finding.fix else "", style="default")
            console.print(line, soft_wrap=True)
    fine = "all that a run needs is there" if not counts["fail"] else "runs will fail until fixed"
    console.print(f"{counts['fail']} failed, {counts['warn']} warnings: {fine}", highlight=False)
    return 1 if counts["fail"] else 0


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # a check that breaks says nothing about the machine
        yield Finding("warn", f"{name}: could not be checked: {type(error).__name__}: {error}")


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if (3, 11) <= sys.version_info < (3, 14):
        yield Finding("ok", f"Python {version}")
    else:
        yield Finding("fail", f"Python {version}", "use Python 3.11, 3.12 or 3.13")


def _imports(seconds: float) -> Iterator[Finding]:
    """Import what runs import, in a child that may crash or hang."""
    command = [sys.executable, "-c", CHILD, json.dumps(STEPS)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    ending = ""
    try:
        child = subprocess.run(
            command, capture_output=True, timeout=seconds, env=environment, check=False
        )
        printed, ending = child.stdout, f"the process ended with {child.returncode}"
    except subprocess.TimeoutExpired as error:
        printed, ending = error.stdout or b"", f"no answer within {seconds:g} s"
    lines = [line for line in printed.decode(errors="replace").splitlines() if line[:1] == "["]
    told = {step: (went, text) for step, went, text in map(json.loads, lines)}
    for step in STEPS:
        went, text = told.get(step, (False, ending))
        yield _judged(step, went, text)
        if step not in told:
            return  # nothing behind it was reached


def _judged(step: str, went: bool, text: str) -> Finding:
    if not went:
        return Finding("fail", f"{step}: {text}", FIXES[step])
    if step == "attention":
        level: Level = "ok" if "eager works" in text else "warn"
        used = "runs use sdpa, and score influence without forward mode"
        return Finding(level, f"attention in forward mode (torch.func.jvp): {text}; {used}")
    if step == "gpu" and text.startswith("none") and Path("/proc/driver/nvidia").exists():
        return Finding("warn", "GPU: there is one, and torch finds none", FIXES[step])
    return Finding("ok", f"{'GPU' if step == 'gpu' else step} {text}")


def _cores() -> Iterator[Finding]:
    cores = num_cores()
    limit = os.environ.get("OMP_NUM_THREADS")
    capped = f"; OMP_NUM_THREADS={limit}, which runs override" if limit else ""
    level: Level = "ok" if cores > 1 else "warn"
    fix = "" if cores > 1 else "small runs go one at a time; give the process more cores"
    yield Finding(
        level, f"{cores} core{'s' * (cores > 1)}: as many small runs at once{capped}", fix
    )
    found = cpu_units(BFLOAT16_UNITS)
    units = f"with bfloat16 units ({', '.join(found)})" if found else "without bfloat16 units"
    precision = "bfloat16" if found else "float32"
    yield Finding("ok", f'CPU {units}: precision = "auto" means {precision}')


def _disk(out: Path) -> Iterator[Finding]:
    there = next(p for p in (out, *out.absolute().parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        what = f"{out}: cannot be written to: {error.strerror}"
        yield Finding("fail", what, "give --out a folder that you may write to")
        return
    free = shutil.disk_usage(there).free
    if free < NEEDED_BYTES / 20:
        yield Finding(
            "fail", f"{out}: {free / 1e9:.2f} GB free", "free some disk, or another --out"
        )
    elif free < NEEDED_BYTES:
        yield Finding("warn", f"{out}: {free / 1e9:.2f} GB free", "larger models need more")
    else:
        yield Finding("ok", f"{out}: writable, {free / 1e9:.0f} GB free")


def _packages() -> Iterator[Finding]:
    """Check the packages that steelyard needs, and those of each extra."""
    wanted: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("steelyard") or []:
        package = re.split(r"[^A-Za-z0-9_.-]", requirement)[0]
        marker = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        wanted.setdefault(marker[1] if marker else "", []).append(package)
    for extra, packages in wanted.items():
        if extra in ("all", "dev"):
            continue
        missing = [p for p in packages if not _is_installed(p)]
        if not extra:
            fix = f"pip install {' '.join(missing)}"
            what = f"missing: {', '.join(missing)}" if missing else f"all {len(packages)} there"
            yield Finding(
                "fail" if missing else "ok", f"required packages: {what}", fix * bool(missing)
            )
        elif missing:
            fix = f'pip install "steelyard[{extra}]"'
            yield Finding("warn", f"extra [{extra}]: missing {', '.join(missing)}", fix)
        else:
            yield Finding("ok", f"extra [{extra}]: {', '.join(packages)}")


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _wandb() -> Iterator[Finding]:
    from harness.trackers import resolve_wandb_mode

    paths = (os.environ.get("NETRC", "~/.netrc"), "~/.netrc", "~/_netrc")
    files = (Path(path).expanduser() for path in paths)
    netrc = next((path for path in files if path.is_file()), None)
    try:
        mode = resolve_wandb_mode(None, os.environ, netrc)
        without = {k: v for k, v in os.environ.items() if k != "WANDB_MODE"}
        has = "yes" if resolve_wandb_mode(None, without, netrc) == "online" else "no"
    except ValueError as error:
        yield Finding("warn", f"W&B: {error}", "correct it, or unset it")
        return
    installed = importlib.metadata.version("wandb") if _is_installed("wandb") else "not installed"
    fix = "" if mode != "offline" else "to upload: wandb login, or wandb sync afterwards"
    yield Finding("ok", f"W&B {installed}: mode {mode}, credential {has}", fix)


def _hub() -> Iterator[Finding]:
    flags = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    on = [flag for flag in flags if os.environ.get(flag, "0").lower() in ("1", "true", "yes", "on")]
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = f"cache {home}" + ("" if home.exists() else " (empty)")
    if on:
        fix = f"unset {' '.join(on)} to download; local files and the cache work as they are"
        yield Finding("ok", f"Hugging Face hub: offline by {', '.join(on)}; {cache}", fix)
    else:
        yield Finding("ok", f"Hugging Face hub: downloads allowed; {cache}")
