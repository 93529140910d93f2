"""The run that estimators look into: the tiny one after eight steps, so that AdamW has moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.loop import Loop
    from harness.view import RunView
    from tests.tiny import MakeSpec


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_spec: MakeSpec, store: Any) -> Loop:
    """Return the loop, shared by a file's tests: an estimator leaves a run as it was."""
    from tests import tiny

    loop = tiny.assemble_loop(make_spec(), store, tmp_path_factory.mktemp("run"))
    return tiny.stepped(loop, 8)


@pytest.fixture
def view(trained: Loop) -> RunView:
    """Return its view."""
    return trained.view
