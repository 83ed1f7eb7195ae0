"""A real PostgreSQL server in a temporary folder, from the programs that Debian's package installs."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

PASSWORD = "s3cret/word@home"
_HBA = "local all guarded scram-sha-256\nlocal all all trust\n"


@dataclass(frozen=True)
class Server:
    """Listens only on a Unix socket in ``folder``; the role ``guarded`` needs PASSWORD, others are trusted."""

    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as superuser outside a transaction, and return its rows."""
        where = str(self.folder)
        with psycopg.connect(host=where, dbname=database, user="owner", autocommit=True) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def url(self, database: str, user: str = "owner") -> str:
        """Return the URL of a database; ``user`` may include a password."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """Return the name of a new, empty database."""
        name = f"results_{next(self.numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return name

    def settle(self, database: str) -> None:
        """Wait for all connections to end; the server may still execute the last statement of a killed client."""
        asked = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
        limit = time.monotonic() + 10
        while self.run(asked) != [(0,)]:
            assert time.monotonic() < limit, "a connection stays open"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[Server]:
    """Start a server for the module; skip if PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    programs = found[-1].parent if found else None
    if programs is None and (initdb := shutil.which("initdb")):
        programs = Path(initdb).resolve().parent
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="bpudeploy-pg-", dir="/tmp"))  # a socket's path must be short
    who: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:  # the server refuses to run as root
        other = pwd.getpwnam("nobody")
        os.chown(folder, other.pw_uid, other.pw_gid)
        who |= {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
    try:
        cluster = folder / "cluster"
        make: list[str | Path] = [programs / "initdb", "-D", cluster, "-U", "owner", "-A", "trust", "-N"]
        make += ["-E", "UTF8", "--locale=C.UTF-8"]
        subprocess.run(make, check=True, capture_output=True, timeout=60, **who)
        (cluster / "pg_hba.conf").write_text(_HBA)
        serve: list[str | Path] = [programs / "postgres", "-D", cluster, "-k", folder, "-F"]
        serve += ["-c", "listen_addresses="]
        with (folder / "log").open("wb") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                serve, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **who
            )
        try:
            yield _ready(Server(folder), process)
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown: disconnects clients
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready(server: Server, process: subprocess.Popen[bytes]) -> Server:
    limit = time.monotonic() + 30
    while True:
        try:
            server.run(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'")
            return server
        except psycopg.OperationalError:
            log = (server.folder / "log").read_text()
            assert process.poll() is None and time.monotonic() < limit, log
            time.sleep(0.05)
