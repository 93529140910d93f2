"""Sessions of a database: the driver they need, and times that are the same for every worker.

Columns hold times without a zone, and `now()` is in the session's own, which is that of a worker's
machine: a sign of life of another zone would be hours old, or hours ahead. So sessions are in UTC.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine

_UTC = {
    "postgresql": "SET TIME ZONE 'UTC'",
    "mysql": "SET time_zone = '+00:00'",
    "mariadb": "SET time_zone = '+00:00'",
}


def keep_utc(engine: Engine) -> None:
    """Let every session of a database be in UTC, also those that are open; SQLite's are."""
    from sqlalchemy import event

    if engine.dialect.name in _UTC:
        event.listen(engine, "connect", partial(_set, _UTC[engine.dialect.name]))
        engine.dispose()


def _set(statement: str, connection: Any, _: Any) -> None:
    connection.cursor().execute(statement)
    connection.commit()  # what is rolled back would take the zone with it


def without_driver(error: ModuleNotFoundError) -> str:
    """Return why a database cannot be opened whose driver is not installed, and what to install."""
    package = {"psycopg": "'steelyard[postgres]'"}.get(str(error.name), error.name)
    return f"its driver {error.name} is not installed; pip install {package}"
