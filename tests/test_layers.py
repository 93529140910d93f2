"""The import rules of the project, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import those to its right and below, never above: cli first, api last.
LAYERS = [
    {"cli", "testing"},
    {"commands"},
    {"attribution", "launchers"},
    {"ablate", "display", "show"},
    {"labor"},
    {"specfile"},
    {"cells"},
    {"preflight"},
    {"rank_grid"},
    {"fleet", "grid", "resolve", "equal_compute"},
    {"settled"},
    {"worker"},
    {"opening"},
    {"runner"},
    {"run_header"},
    {"assemble"},
    {"loop", "plans", "trackers", "trainer"},
    {"queued"},
    {"view", "evaluate", "stream", "edited", "corpus", "data_warnings"},
    {"ranks"},
    {"checkpoint"},
    {"shards"},
    {"model_check"},
    {"model", "optim", "cost", "records", "keeping", "recompute"},
    {"pretrained", "influence", "allocator", "cross_entropy", "cross_entropy_node", "corruption"},
    {"attention", "packing", "transfer"},
    {"hashes", "leases", "choices"},
    {"files", "shapes"},
    {"spec", "domains", "rng"},
    {"identity", "binding"},
    {"study_forms", "attribution_forms"},
    {"arguments", "forms"},
    {"run_forms"},
    {"form_marks"},
    {"api", "errors", "deferred"},
]
ONE_DOOR = {
    "wandb": {"harness/trackers/weights_and_biases.py"},
    "tensorboard": {"harness/trackers/tensorboard.py"},
    "optuna": {
        "sweeps/local.py",
        "sweeps/search.py",
        "sweeps/storage.py",
        "sweeps/study.py",
        "sweeps/worker.py",
    },
    "kronfluence": {"harness/influence/ekfac.py"},
    "datasets": {"harness/corpus/sources/hub.py"},
    "pyarrow": {"harness/corpus/sources/arrow.py", "harness/commands/glance.py"},
    "datasketch": {"harness/corpus/near_duplicates.py"},
    "fastokens": {"harness/corpus/fast_encoding.py"},
    "tokenizers": {"harness/corpus/tokenizer.py"},
    "plotly": {
        "reports/attribution/curves.py",
        "reports/attribution/evaluation_figures.py",
        "reports/curve_figures.py",
        "reports/figures.py",
        "reports/pareto.py",
        "reports/tuning_figures.py",
        "reports/weight_figures.py",
    },
    "matplotlib": {"reports/attribution/inspect_pictures.py", "reports/pictures.py"},
    "rich": {
        "harness/attribution/health_table.py",
        "harness/cli.py",
        "harness/commands/doctor.py",
        "harness/commands/init.py",
        "harness/commands/methods.py",
        "harness/commands/plan_table.py",
        "harness/display.py",
        "harness/show.py",
        "reports/attribution/top_table.py",
        "reports/compare_table.py",
        "reports/tables.py",
        "reports/build.py",
        "sweeps/commands.py",
        "sweeps/display.py",
        "sweeps/tables.py",
    },
    "lightgbm": {"baselines/regmix.py"},
    "ray": {"harness/launchers/ray_cluster.py"},
    "sqlalchemy": {"harness/leases/database.py", "harness/leases/sessions.py"},
    "submitit": {"harness/launchers/slurm.py"},
    "tyro": {"harness/arguments.py", "harness/form_marks.py", "harness/forms.py"},
}


def imports(path: Path, at_run_time: bool = True) -> Iterator[str]:
    """Yield the dotted names that a file imports, without those for type checkers alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if at_run_time and id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(*folders: str) -> list[Path]:
    """Return the Python files of the given top-level folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def layer_of(module: str) -> int:
    """Return the height of a harness module."""
    for height, names in enumerate(LAYERS):
        if module in names:
            return height
    raise AssertionError(f"harness/{module} is in no layer; add it to LAYERS")


@pytest.mark.parametrize("path", sources("harness"), ids=str)
def test_harness_imports_only_its_own_layer_and_below(path: Path) -> None:
    """harness/ is a stack: data flows one way, and nothing reaches up."""
    module = path.relative_to(ROOT / "harness").parts[0].removesuffix(".py")
    if module == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "harness" and len(parts) > 1 and parts[1] != module:
            assert layer_of(parts[1]) >= layer_of(module), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sources("harness"), ids=str)
def test_harness_knows_no_method_and_no_report(path: Path) -> None:
    """Methods and reports are resolved by name at the command line's edge."""
    for name in imports(path, at_run_time=False):
        assert name.split(".")[0] not in ("baselines", "reports", "sweeps", "tests"), name


@pytest.mark.parametrize("path", sources("baselines"), ids=str)
def test_methods_see_the_contract_and_the_shared_arithmetic_alone(path: Path) -> None:
    """A method imports the contract, shared arithmetic, keyed draws, estimators, other methods."""
    allowed = ("harness.api", "harness.domains", "harness.influence", "harness.rng", "baselines")
    for name in imports(path):
        if name.split(".")[0] in ("harness", "reports", "sweeps"):
            assert name.startswith(allowed), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sources("reports"), ids=str)
def test_reports_read_records_and_never_torch(path: Path) -> None:
    """Reports can be made where nothing can be trained."""
    for name in imports(path, at_run_time=False):
        root = name.split(".")[0]
        assert root not in ("torch", "transformers", "baselines", "sweeps"), name
        if root == "harness":
            plain = (
                "harness.records",
                "harness.files",
                "harness.errors",
                "harness.attribution.store",
                "harness.attribution.matching",
            )
            assert name.startswith(plain), name


@pytest.mark.parametrize("package", ONE_DOOR)
def test_a_third_party_package_enters_through_its_own_door(package: str) -> None:
    """A replaced library touches the files named here and no other."""
    found = {
        str(path.relative_to(ROOT))
        for path in sources("harness", "baselines", "sweeps", "reports")
        if any(name.split(".")[0] == package for name in imports(path))
    }

    assert found <= ONE_DOOR[package]
