"""Migrate a results database to the revision of this bpudeploy when it is first opened."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, Table, func, inspect, select, text

from bpudeploy.errors import StoreError, UsageError
from bpudeploy.files import replacing

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"
"""The newest of ``versions``."""
REVISION_TABLE = "bpudeploy_revision"
WRITES = "bpudeploy_writes"
"""Execution option of a connection whose transactions take the write lock when they begin."""
_LOCK = 0x6270756465706C6F  # "bpudeplo": PostgreSQL identifies advisory locks by a number
_alembic = threading.Lock()  # Alembic keeps its context in a global


def bring_up_to_date(engine: Engine, table: Table, shown: str, file: Path | None) -> None:
    """Migrate the database to ``HEAD`` unless it is already there, under a lock in the database.

    All revisions run in one transaction: if the process is killed, the database is unchanged. Before rows are
    migrated, a SQLite ``file`` is copied.

    Raises:
        UsageError: a newer bpudeploy created it.
        StoreError: it is not a results database. In both cases nothing was written.
    """
    with engine.connect() as connection:
        current = _revision(connection, shown) == HEAD
    if not current:
        with engine.execution_options(**{WRITES: True}).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            found = _revision(connection, shown)
            if found != HEAD:
                if file is not None and found is not None and connection.scalar(select(func.count(table.c.id))):
                    _keep_copy(file)
                upgrade(connection)
    if file is not None:
        _write_ahead(engine)


def upgrade(connection: Connection, revision: str = HEAD) -> None:
    """Run the revisions up to ``revision`` in the current transaction of ``connection``."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    with _alembic:
        command.upgrade(config, revision)


def known_revisions() -> list[str]:
    """Return all revisions, oldest first."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _revision(connection: Connection, shown: str) -> str | None:
    """Return the revision of a database, None if it is empty."""
    tables = set(inspect(connection).get_table_names())
    if REVISION_TABLE not in tables:
        # A PostgreSQL schema may contain other tables; a SQLite file may not.
        others = tables if connection.dialect.name == "sqlite" else tables & {"measurements"}
        if others:
            raise StoreError(
                f"{shown} is not a results database: it has the tables {', '.join(sorted(others)[:5])}",
                hint="nothing was written; set $BPUDEPLOY_RESULTS to another database",
            )
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {REVISION_TABLE}"))
    if found not in (None, HEAD) and found not in known_revisions():
        raise UsageError(
            f"{shown} was created by a newer bpudeploy: it is at revision {found}, this version supports {HEAD}",
            hint="nothing was written; upgrade bpudeploy, or set $BPUDEPLOY_RESULTS to another database",
        )
    return found


def _keep_copy(file: Path) -> None:
    """Copy the database as of before this transaction; does not replace an older copy."""
    beside = file.with_name(f"{file.name}.before-{HEAD}")
    number = 1
    while beside.exists():
        beside, number = file.with_name(f"{file.name}.before-{HEAD}.{number}"), number + 1
    with replacing(beside) as part, closing(sqlite3.connect(file)) as source:
        part.unlink(missing_ok=True)
        source.execute("VACUUM INTO ?", (str(part),))


def _write_ahead(engine: Engine) -> None:
    """Enable WAL mode, in which the readers and the writer of a SQLite file do not block each other.

    Only for speed: if it fails (file in use, network drive, read-only file), the next process to open it tries again.
    """
    raw = engine.raw_connection()
    try:
        for _ in range(40):
            try:
                raw.cursor().execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                    return
                time.sleep(0.05)
    finally:
        raw.close()
