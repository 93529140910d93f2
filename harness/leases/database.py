"""Leases as rows of a database, by the one step that every database has: update where unchanged.

Any URL that SQLAlchemy knows. The runs stay on the shared disk; only who has which is kept here.
SQLite is for one machine: its file is not to lie on a shared disk.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    func,
    select,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from harness.errors import SpecError
from harness.leases.holder import Holder
from harness.leases.sessions import keep_utc, without_driver
from harness.leases.store import Seen, SilentStoreError

_TABLE = Table(
    "steelyard_leases",
    MetaData(),
    Column("scope", String(40), primary_key=True),  # an output folder
    Column("key", String(200), primary_key=True),
    Column("number", Integer, nullable=False),
    Column("beat", Integer, nullable=False),
    Column("is_free", Boolean, nullable=False),
    Column("holder", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("renewed", DateTime, nullable=False),
)
_SQLITE_SECONDS = 30  # to wait for another that writes
_KNOWN = "sqlite:////FILE or postgresql://..."


@dataclass
class _Ticket:
    """A lease of ours."""

    key: str
    number: int


@dataclass(frozen=True)
class DatabaseStore:
    """Leases of one output folder in a database."""

    engine: Engine
    scope: str

    def look(self, key: str) -> Seen | None:
        """Return the last lease of a key; None where there has been none."""
        found = self._read(_TABLE.c.key == key)
        return found[0] if found else None

    def take(self, key: str, after: int, holder: Holder, about: str) -> _Ticket | None:
        """Return a ticket for lease number `after` + 1; None where somebody else has taken it."""
        values = {"number": after + 1, "beat": 0, "is_free": False, "about": about}
        values |= {"holder": json.dumps(holder.plain), "renewed": func.now()}
        if not after:
            row = _TABLE.insert().values(scope=self.scope, key=key, **values)
            try:
                with self.engine.begin() as connection:
                    connection.execute(row)
            except IntegrityError:
                return None
            except DBAPIError as error:
                raise SilentStoreError(_first_line(error)) from error
            return _Ticket(key, 1)
        return _Ticket(key, after + 1) if self._change(_Ticket(key, after), **values) else None

    def renew(self, ticket: _Ticket) -> bool:
        """Give a sign of life; false where the lease is another's, OSError where none got there."""
        return self._change(ticket, beat=_TABLE.c.beat + 1, renewed=func.now())

    def give_back(self, ticket: _Ticket) -> None:
        """Free a lease that is still ours."""
        self._change(ticket, is_free=True)

    def held(self) -> list[Seen]:
        """Return all leases that nobody has given back."""
        return self._read(_TABLE.c.is_free.is_(False))

    def _change(self, ticket: _Ticket, **values: Any) -> bool:
        is_ours = (_TABLE.c.key == ticket.key) & (_TABLE.c.number == ticket.number)
        change = _TABLE.update().where((_TABLE.c.scope == self.scope) & is_ours).values(**values)
        try:
            with self.engine.begin() as connection:
                return bool(connection.execute(change).rowcount)
        except DBAPIError as error:
            raise SilentStoreError(_first_line(error)) from error

    def _read(self, condition: Any) -> list[Seen]:
        wanted = select(*_TABLE.c, func.now().label("now"))
        rows = wanted.where((_TABLE.c.scope == self.scope) & condition).order_by(_TABLE.c.key)
        try:
            with self.engine.connect() as connection:
                return [_seen(row) for row in connection.execute(rows)]
        except DBAPIError as error:
            raise SilentStoreError(_first_line(error)) from error


def open_database(url: str, scope: str) -> DatabaseStore:
    """Return the store at `url`, with its table; SpecError where there is no answer."""
    try:
        patience = {"timeout": _SQLITE_SECONDS} if url.startswith("sqlite") else {}
        engine = create_engine(url, poolclass=NullPool, connect_args=patience)
        keep_utc(engine)
        try:
            _TABLE.create(engine, checkfirst=True)
        except DBAPIError:  # another worker has made it between the look and the making
            _TABLE.create(engine, checkfirst=True)
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        reason = _first_line(error)
        if isinstance(error, ModuleNotFoundError):
            reason = without_driver(error)
        raise SpecError(f"--leases: cannot be opened: {reason}; give {_KNOWN}") from None
    return DatabaseStore(engine, scope)


def shown(url: str) -> str:
    """Return a database's URL with its password, if it has one, as three stars."""
    from sqlalchemy import make_url

    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        raise SpecError(f"--leases: {url!r} is no URL of a database; give {_KNOWN}") from None


def _seen(row: Any) -> Seen:
    now, renewed = row.now, row.renewed
    is_timed = isinstance(now, datetime) and isinstance(renewed, datetime)
    age = _seconds(now, renewed) if is_timed else None
    holder = Holder.read(json.loads(row.holder))
    free = bool(row.is_free)
    return Seen(row.key, row.number, str(row.beat), free, holder, row.about, age)


def _seconds(now: datetime, then: datetime) -> float:
    return max(0.0, (now.replace(tzinfo=None) - then.replace(tzinfo=None)).total_seconds())


def _first_line(error: Exception) -> str:
    told = str(getattr(error, "orig", None) or error)
    return next(iter(told.splitlines()), type(error).__name__)
