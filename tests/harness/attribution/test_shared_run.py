"""The run that the tests of attribution share is what they take it for."""

from __future__ import annotations

from harness.attribution.opened import Opened
from harness.attribution.rows import Pool, Queries
from tests.harness.attribution.conftest import FACTS


def test_its_rows_are_whole_questions_with_counted_answers(
    opened: Opened, pool: Pool, queries: Queries
) -> None:
    assert opened.view.step == opened.view.num_steps
    assert len(pool) >= 40
    for i in range(len(pool)):
        prompt, answer = pool.shown(i)
        question = prompt.removeprefix("Q: ").removesuffix("\nA:")
        assert f" {FACTS[question]}".startswith(answer.rstrip())
        assert answer
    assert len(queries) == 8
    assert queries.batch.mask.any(1).all()
    assert len(set(queries.names)) == 8
