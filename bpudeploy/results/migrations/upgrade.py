"""Bring a results database to the revision that this bpudeploy writes: once, whoever opens it first."""

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
"""What this bpudeploy reads and writes; the last of ``versions``."""
REVISION_TABLE = "bpudeploy_revision"
WRITES = "bpudeploy_writes"
"""Execution option of a connection whose transactions begin with the right to write."""
_LOCK = 0x6270756465706C6F  # "bpudeplo": PostgreSQL's advisory locks are named by a number
_alembic = threading.Lock()  # it keeps its context in a global


def bring_up_to_date(engine: Engine, table: Table, shown: str, file: Path | None) -> None:
    """Migrate what is not at ``HEAD``, under a lock of the database's own; whoever comes second finds it done.

    All revisions are one transaction: a process killed in between leaves the database as it was. Before rows are
    migrated, a copy of a SQLite ``file`` is kept beside it.

    Raises:
        UsageError: a newer bpudeploy made it.
        StoreError: it holds something else. In both cases nothing was written.
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
    """Run the revisions up to ``revision`` in the transaction that ``connection`` is in."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    with _alembic:
        command.upgrade(config, revision)


def known_revisions() -> list[str]:
    """Return every revision that this bpudeploy knows, the first one first."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _revision(connection: Connection, shown: str) -> str | None:
    """Return the revision a database is at, None for one that holds nothing yet."""
    tables = set(inspect(connection).get_table_names())
    if REVISION_TABLE not in tables:
        # A SQLite file is ours alone; a PostgreSQL schema may hold other people's tables beside ours.
        others = tables if connection.dialect.name == "sqlite" else tables & {"measurements"}
        if others:
            raise StoreError(
                f"{shown} holds something else than results: the tables {', '.join(sorted(others)[:5])}",
                hint="nothing was written; name another database with $BPUDEPLOY_RESULTS",
            )
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {REVISION_TABLE}"))
    if found not in (None, HEAD) and found not in known_revisions():
        raise UsageError(
            f"{shown} was made by a newer bpudeploy: it is at revision {found}, this one knows {HEAD}",
            hint="install that bpudeploy, or name another database with $BPUDEPLOY_RESULTS; nothing was written",
        )
    return found


def _keep_copy(file: Path) -> None:
    """Copy the database as it is before this transaction; an older copy of that name is kept too."""
    beside = file.with_name(f"{file.name}.before-{HEAD}")
    number = 1
    while beside.exists():
        beside, number = file.with_name(f"{file.name}.before-{HEAD}.{number}"), number + 1
    with replacing(beside) as part, closing(sqlite3.connect(file)) as source:
        part.unlink(missing_ok=True)
        source.execute("VACUUM INTO ?", (str(part),))


def _write_ahead(engine: Engine) -> None:
    """Let readers and a writer of a SQLite file not wait for each other; it is remembered in the file.

    Only a matter of speed: where it cannot be had (another process is busy, a network drive, a read-only file) the
    next one to open it tries again.
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
