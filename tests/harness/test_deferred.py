"""`import heavy` costs nothing until it is used, and then it is the real package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START = "import sys; from harness.deferred import deferred\n"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Return a folder with a package whose modules refer to each other, as torch's do."""
    heavy = tmp_path / "heavy"
    (heavy / "nn").mkdir(parents=True)
    (heavy / "__init__.py").write_text(
        "import sys\nprint('loaded')\nvalue = 5\nfrom heavy import nn\nready = True\n"
    )
    (heavy / "nn" / "__init__.py").write_text(
        "import heavy\nprint('loaded nn')\nfrom heavy.nn import functional\nbase = heavy.value\n"
    )
    (heavy / "nn" / "functional.py").write_text("def double(x):\n    return 2 * x\n")
    return tmp_path


def run(packages: Path, program: str) -> str:
    """Run a program in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", START + program],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{packages}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_happens_at_the_first_use(packages: Path) -> None:
    """Nothing is loaded in the block; the first attribute loads the package, once."""
    program = """
with deferred("heavy"):
    import heavy
print("before")
assert heavy.value == 5 and heavy.ready
import heavy as real
assert heavy.nn is real.nn
"""
    assert run(packages, program) == "before\nloaded\nloaded nn\n"


def test_the_stand_in_leaves_sys_modules_with_the_block(packages: Path) -> None:
    """Libraries look there to learn whether a package is in use."""
    program = """
before = list(sys.meta_path)
with deferred("heavy"):
    import heavy
    assert sys.modules["heavy"] is heavy
assert "heavy" not in sys.modules
assert sys.meta_path == before
"""
    assert run(packages, program) == ""


def test_an_error_in_the_block_takes_the_stand_in_away(packages: Path) -> None:
    """A method that fails to import leaves no trace of torch."""
    program = """
before = list(sys.meta_path)
try:
    with deferred("heavy"):
        import heavy
        raise KeyError
except KeyError:
    pass
assert "heavy" not in sys.modules
assert sys.meta_path == before
"""
    assert run(packages, program) == ""


@pytest.mark.parametrize(
    "statement",
    ["from heavy import value; assert value == 5", "from heavy import nn; assert nn.base == 5"],
)
def test_importing_from_it_imports_the_real_package(packages: Path, statement: str) -> None:
    """The package loads once and whole, with one copy of its modules."""
    program = f"""
with deferred("heavy"):
    {statement}
import heavy as real
from heavy.nn import functional
assert real.ready and real.nn.functional is functional
assert real.__spec__.origin.endswith("heavy/__init__.py")
"""
    assert run(packages, program) == "loaded\nloaded nn\n"


def test_a_submodule_is_refused_at_once(packages: Path) -> None:
    """Half an import of torch crashes the interpreter; an ImportError names the line."""
    program = """
try:
    with deferred("heavy"):
        import heavy.nn
except ImportError as error:
    print(error)
import heavy.nn
"""
    assert "'heavy' is not a package" in run(packages, program)


def test_a_package_that_is_loaded_stays_the_real_one(packages: Path) -> None:
    """There is nothing to defer."""
    program = """
import heavy as real
with deferred("heavy"):
    import heavy
assert heavy is real is sys.modules["heavy"]
"""
    assert run(packages, program) == "loaded\nloaded nn\n"


def test_what_is_missing_is_missing_as_ever(packages: Path) -> None:
    """A package or an attribute that does not exist gives Python's own error."""
    program = """
for wrong in ("import nowhere", "from heavy import nowhere"):
    try:
        with deferred("nowhere"), deferred("heavy"):
            exec(wrong)
    except ImportError as error:
        assert "nowhere" in str(error)
    else:
        raise AssertionError(wrong)
with deferred("heavy"):
    import heavy
try:
    heavy.nowhere
except AttributeError as error:
    assert "nowhere" in str(error)
else:
    raise AssertionError
"""
    assert run(packages, program) == "loaded\nloaded nn\n"


def test_the_real_torch_survives_a_method_that_imports_its_submodules(packages: Path) -> None:
    """A half-imported torch crashes the interpreter; a user's method may well say `torch.nn`."""
    (packages / "method.py").write_text(
        "import torch\nfrom torch.nn import functional as F\nimport torch.nn as nn\n"
        "from harness.api import Mixer\n\nclass Mine(Mixer):\n    x = F.relu(torch.ones(2))\n"
    )
    program = """
from harness.cli import find_method
assert find_method("method:Mine").x.sum() == 2
import torch
assert torch.nn.Linear(2, 2)(torch.ones(2)).shape == (2,)
"""
    assert run(packages, program) == ""
