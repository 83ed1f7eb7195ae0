"""The results store: an append-only table of all measurements, in SQLite or PostgreSQL."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.dialects import postgresql
from sqlalchemy.pool import NullPool

from bpudeploy.digest import canonical
from bpudeploy.errors import StoreError, UsageError
from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.migrations.upgrade import WRITES, bring_up_to_date

_DEFAULT_URL = "sqlite:///.bpudeploy/results.sqlite"
_URL_VARIABLE = "BPUDEPLOY_RESULTS"
SCHEMA_VERSION = 2
"""Of the documents; 2 added ``build`` and ``night``. The table has a revision of ``migrations`` instead."""
_WAIT_S = 30
_LAST = "\U0010ffff"  # sorts after every text with the same prefix

_TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
MEASUREMENTS = sa.Table(
    "measurements",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    *(sa.Column(name, _TEXT, nullable=False, index=True) for name in ("made", "session", "board", "board_id")),
    *(sa.Column(name, _TEXT, nullable=False) for name in ("recipe", "target", "march", "backend", "release", "binary")),
    *(sa.Column(name, _TEXT, nullable=False) for name in ("device", "runtime", "provenance")),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("samples", sa.LargeBinary, nullable=False),
    sa.Column("answers", sa.LargeBinary),
    sa.Index("ix_measurements_release", "release", "made"),
    sa.Index("ix_measurements_recipe", "recipe", "target", "made"),
    sqlite_autoincrement=True,
)
_C = MEASUREMENTS.c


@dataclass(frozen=True)
class Query:
    """A filter: measurements that match every field that is not None."""

    release: str | None = None
    """A digest, or a unique prefix of one."""
    recipe: str | None = None
    target: str | None = None
    board: str | None = None
    """An address or a ``board_id``."""
    provenance: Provenance | None = None
    session: str | None = None
    since: datetime | None = None
    """Started then or later; UTC if it has no time zone."""
    limit: int | None = None
    with_samples: bool = True
    """If False, raw samples and answers are not loaded."""


class Results:
    """An open database; thread-safe. Holds a connection only during a call, as a benchmark takes minutes."""

    def __init__(self, engine: sa.Engine, location: _Location) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{WRITES: True})
        self._location = location

    def append(self, measurements: Sequence[Measurement]) -> None:
        """Add all measurements, or none if that fails.

        Raises:
            StoreError: the database cannot be written, or a value is not finite.
        """
        rows = [row_of(one) for one in measurements]
        if rows:
            with self._location.convert_errors(), self._writing.begin() as connection:
                connection.execute(sa.insert(MEASUREMENTS), rows)

    def find(self, query: Query) -> list[Measurement]:
        """Return the measurements that match ``query``, newest first.

        Raises:
            UsageError: ``query.release`` is ambiguous; the hint lists the releases.
            StoreError: a row cannot be read.
        """
        if query.limit is not None and query.limit < 0:
            raise UsageError(f"a limit of {query.limit} measurements", hint="0 or more")
        texts = ("recipe", "target", "provenance", "session")
        conditions = [_C[name] == _storable(value) for name in texts if (value := getattr(query, name)) is not None]
        if query.board is not None:
            conditions.append(sa.or_(*(column == _storable(query.board) for column in (_C.board, _C.board_id))))
        if query.since is not None:
            conditions.append(_C.made >= _utc_text(query.since))
        raw = (_C.samples, _C.answers) if query.with_samples else ()
        with self._location.convert_errors(), self._engine.connect() as connection:
            if query.release is not None:
                conditions.append(_C.release == _one_release(connection, query.release))
            found = connection.execute(
                sa.select(_C.id, _C.schema_version, _C.document, *raw)
                .where(*conditions)
                .order_by(_C.made.desc(), _C.id.desc())
                .limit(query.limit)
            ).all()
        return [measurement_of(row._asdict(), self._location.shown) for row in found]


@contextmanager
def open_results(url: str | None = None) -> Iterator[Results]:
    """Open the database; create or migrate it if necessary.

    Args:
        url: a SQLite file, or ``sqlite:///FILE``, or ``postgresql://USER@HOST/DATABASE``. By
            default $BPUDEPLOY_RESULTS, else ``.bpudeploy/results.sqlite``. Keep passwords in ~/.pgpass or
            $PGPASSWORD rather than in the URL.

    Raises:
        UsageError: an unsupported kind of database, its driver is not installed, or a newer bpudeploy created it.
        StoreError: it cannot be opened, or is not a results database.
    """
    location = _parse(url or os.environ.get(_URL_VARIABLE) or _DEFAULT_URL)
    with location.convert_errors():
        if location.file is not None:
            location.file.parent.mkdir(parents=True, exist_ok=True)
        engine = _engine(location)
        bring_up_to_date(engine, MEASUREMENTS, location.shown, location.file)
    try:
        yield Results(engine, location)
    finally:
        engine.dispose()


def row_of(one: Measurement) -> dict[str, Any]:
    """Return a row: the document without raw samples and answers, those compressed, and the indexed copies."""
    samples = one.samples_ms
    document = one.model_dump(exclude={"rounds": {"__all__": {"samples_ms"}}, "answers": True})
    for stored, measured in zip(document["rounds"], one.rounds, strict=True):
        stored["samples"] = len(measured.samples_ms)
    try:
        text = canonical(document)
        made = _utc_text(datetime.fromisoformat(one.made))
    except (ValueError, OverflowError) as error:
        raise StoreError(f"cannot keep the measurement of session {one.session}: {error}") from error
    if not all(map(math.isfinite, samples)):
        raise StoreError(f"cannot keep the measurement of session {one.session}: a latency is not finite")
    copies = {"session": one.session, "board": one.board, "board_id": one.board_id, "device": one.device}
    copies |= {"runtime": one.runtime, "provenance": one.provenance.value} | one.subject.model_dump()
    answers = None if one.answers is None else zlib.compress(canonical(one.answers.model_dump()).encode())
    return {name: _storable(value) for name, value in copies.items()} | {
        "made": made,
        "schema_version": SCHEMA_VERSION,
        "document": text,
        "samples": zlib.compress(struct.pack(f"<{len(samples)}d", *samples)),
        "answers": answers,
    }


def measurement_of(row: Mapping[str, Any], shown: str) -> Measurement:
    """Return the measurement of a row, whatever the version of its document.

    Args:
        row: without ``samples`` the measurement has no raw samples and answers.
        shown: the database's name in errors.
    """
    where = f"measurement {row['id']} in {shown}"
    if not 1 <= row["schema_version"] <= SCHEMA_VERSION:  # fields that 1 lacks have defaults
        raise StoreError(
            f"{where} has version {row['schema_version']}; this bpudeploy reads up to {SCHEMA_VERSION}",
            hint="written by a newer bpudeploy: upgrade",
        )
    try:
        document = json.loads(row["document"])
        samples: tuple[float, ...] | None = None
        if "samples" in row:
            packed = zlib.decompress(row["samples"])
            samples = struct.unpack(f"<{len(packed) // 8}d", packed)
            document["answers"] = None if row["answers"] is None else json.loads(zlib.decompress(row["answers"]))
        start = 0
        for stored in document["rounds"]:
            count = stored.pop("samples")
            stored["samples_ms"] = () if samples is None else samples[start : start + count]
            start += count
        if samples is not None and start != len(samples):
            raise ValueError(f"{start} samples expected, {len(samples)} found")
        return Measurement.model_validate(document, strict=False)  # JSON has no tuples and enums
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, zlib.error, ValidationError) as error:
        raise StoreError(
            f"{where} cannot be read: {error}", hint="the row is corrupt, or another program changed it"
        ) from error


def _storable(text: str) -> str:
    """Return ``text`` without NUL and lone surrogates, which not every database can store."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "backslashreplace").decode()


def _utc_text(when: datetime) -> str:
    """Return a time in UTC as text that sorts chronologically."""
    aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="microseconds")


def _one_release(connection: sa.Connection, prefix: str) -> str:
    prefix = _storable(prefix)
    matches = sa.and_(_C.release >= prefix, _C.release < prefix + _LAST)
    found = list(connection.scalars(sa.select(_C.release).where(matches).distinct().order_by(_C.release).limit(10)))
    if len(found) > 1 and prefix not in found:
        raise UsageError(f"several releases begin with {prefix!r}", hint=f"one of {', '.join(found)}")
    return prefix if prefix in found or not found else found[0]


@dataclass(frozen=True)
class _Location:
    """The address of a database; ``shown`` is its name in errors, without a password."""

    url: sa.URL
    file: Path | None
    shown: str

    @contextmanager
    def convert_errors(self) -> Iterator[None]:
        """Convert errors of the database and the file system to ones with a hint."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
            cause = getattr(error, "orig", None) or error
            message = " ".join(str(cause).split())
            for secret in (self.url.password, self.url.query.get("password")):
                message = message.replace(str(secret), "***") if secret else message
            code = getattr(cause, "sqlite_errorname", "")
            hint = next((hint for start, hint in _HINTS.items() if code.startswith(start)), _HINT)
            raise StoreError(f"the results in {self.shown}: {message}", hint=hint) from error


_HINT = "check the address, the permissions and the free space, or set $BPUDEPLOY_RESULTS to another database"
_HINTS = {
    "SQLITE_NOTADB": "not a SQLite file, left unchanged: set $BPUDEPLOY_RESULTS to another file",
    "SQLITE_CORRUPT": "keep the file, and recover its contents with `sqlite3 FILE .recover`",
    "SQLITE_BUSY": f"another process has been writing for {_WAIT_S} s: try again when it has finished",
    "SQLITE_FULL": "nothing was added: free some space, or set $BPUDEPLOY_RESULTS to another file",
}


def _parse(text: str) -> _Location:
    """Parse a URL or a file name. Errors do not show ``text``, as it may contain a password."""
    if "://" not in text:
        return _sqlite(Path(text))
    url = _url(text)
    if url is None:
        raise UsageError(
            "the results URL cannot be parsed",
            hint="postgresql://USER@HOST:PORT/DATABASE; escape @ : / in names as %40 %3A %2F",
        )
    kind = url.get_backend_name()
    if kind == "sqlite":
        if url.database in (None, "", ":memory:") or url.query:
            raise UsageError("a SQLite URL must contain a file name and nothing else", hint="sqlite:///results.sqlite")
        return _sqlite(Path(str(url.database)))
    if kind != "postgresql":
        supported = "sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        raise UsageError(f"results cannot be stored in {kind!r}", hint=supported)
    plain = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database)
    return _Location(url.set(drivername="postgresql+psycopg"), None, plain.render_as_string())


def _url(text: str) -> sa.URL | None:
    try:
        return sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        return None


def _sqlite(path: Path) -> _Location:
    file = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 -- resolve() would follow links
    return _Location(sa.URL.create("sqlite", database=str(file)), file, str(path))


def _engine(location: _Location) -> sa.Engine:
    waits = {"timeout": _WAIT_S} if location.file is not None else {}
    if location.file is None and "connect_timeout" not in location.url.query:
        waits = {"connect_timeout": 10}
    try:
        engine = sa.create_engine(location.url, poolclass=NullPool, connect_args=waits, hide_parameters=True)
    except ImportError as error:
        missing = f"{location.shown} needs psycopg, which is not installed"
        raise UsageError(missing, hint="pip install 'bpudeploy[postgres]'") from error
    if location.file is not None:
        sa.event.listen(engine, "connect", _disable_implicit_transactions)
        sa.event.listen(engine, "begin", _begin)
    return engine


def _disable_implicit_transactions(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # sqlite3 begins late, and commits before some statements


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
