"""What `make setup` promises: exact versions for everything, and nothing to do the second time."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.lstrip().startswith("#")
]
PINS = dict(line.split("==") for line in LINES)

in_project_environment = pytest.mark.skipif(
    Path(sys.prefix).resolve() != ROOT / ".venv",
    reason="speaks of the .venv that `make setup` makes",
)


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    # two extras may ask for the same
    return [req for req in map(Requirement, dict.fromkeys(texts)) if req.name != PROJECT["name"]]


def test_a_constraint_is_a_name_and_a_version_that_any_registry_can_serve() -> None:
    odd = [line for line in LINES if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]

    assert odd == []
    assert len(PINS) == len(LINES), "a package is pinned twice"


@pytest.mark.parametrize("req", requirements(), ids=str)
def test_every_requirement_is_pinned_within_its_range(req: Requirement) -> None:
    pin = PINS.get(canonicalize_name(req.name))

    assert pin is not None, f"{req.name} is not in constraints.txt: run `make constraints`"
    assert req.specifier.contains(pin), f"{req.name} {pin} is outside {req.specifier}"


@in_project_environment
def test_what_is_installed_is_what_the_constraints_say() -> None:
    # A build's local version (2.13.0+cpu) is the machine's affair.
    installed = {
        canonicalize_name(dist.name): dist.version.split("+")[0]
        for dist in metadata.distributions(path=[p for p in sys.path if sys.prefix in p])
    }
    del installed[PROJECT["name"]]

    assert {n: v for n, v in installed.items() if PINS.get(n) != v} == {}


@in_project_environment
def test_a_second_setup_has_nothing_to_do() -> None:
    assert subprocess.run(["make", "--question", "setup"], cwd=ROOT, check=False).returncode == 0


def test_torchvision_stays_out() -> None:
    # kronfluence asks for it, and one built for another torch breaks transformers.
    assert "torchvision" not in PINS


def test_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    command = ["make", "--no-print-directory", "help"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert phony[1].split() == [line.split()[1] for line in answer.splitlines()]
