"""A PostgreSQL server of a test session's own, where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

NOBODY = "postgres"  # the server refuses root; its package brings this user


def _programs() -> Path | None:
    """Return the folder of initdb and pg_ctl: on the path, or where Debian has them."""
    found = shutil.which("initdb")
    known = [Path(found).resolve().parent] if found else []
    known += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in known if (folder / "initdb").exists()), None)


def _is_there(user: str) -> bool:
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False


@contextmanager
def server() -> Iterator[Callable[[], str]]:
    """Start a server and give a function that makes a database in it and returns its URL."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    if os.geteuid() == 0 and not _is_there(NOBODY):
        pytest.skip(f"the server refuses root, and there is no user {NOBODY}")
    pytest.importorskip("psycopg", reason="its driver is not installed")
    with tempfile.TemporaryDirectory(prefix="steelyard-pg-") as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        folder = Path(name)
        who: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(folder, NOBODY, NOBODY)
            who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}

        def run(program: str, *options: str) -> None:
            command = [programs / program, *options]
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder, **who)
            assert done.returncode == 0, done.stderr

        data, log = folder / "data", folder / "log"
        run("initdb", "-D", str(data), "-A", "trust", "-U", "tester", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "start", "-w", "-D", str(data), "-l", str(log), "-o", options)
        try:

            def database() -> str:
                name = f"steelyard_{uuid4().hex}"
                run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "tester", name)
                return f"postgresql://tester@127.0.0.1:{port}/{name}"

            yield database
        finally:
            run("pg_ctl", "stop", "-w", "-D", str(data), "-m", "immediate")
