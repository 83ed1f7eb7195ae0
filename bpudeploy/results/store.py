"""The results: every measurement that was ever made, in SQLite or PostgreSQL, only ever added to."""

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
from bpudeploy.errors import BpudeployError, StoreError, UsageError
from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.migrations.upgrade import WRITES, bring_up_to_date

DEFAULT = "sqlite:///.bpudeploy/results.sqlite"
VARIABLE = "BPUDEPLOY_RESULTS"
SCHEMA_VERSION = 2
"""Of the documents; the table's own is a revision of ``migrations``. 2: with ``build`` and ``night``."""
_WAIT_S = 30
_LAST = "\U0010ffff"  # behind every text that a prefix begins

_TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
MEASUREMENTS = sa.Table(
    "measurements",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    sa.Column("made", _TEXT, nullable=False, index=True),
    sa.Column("session", _TEXT, nullable=False, index=True),
    sa.Column("recipe", _TEXT, nullable=False),
    sa.Column("target", _TEXT, nullable=False),
    sa.Column("march", _TEXT, nullable=False),
    sa.Column("backend", _TEXT, nullable=False),
    sa.Column("release", _TEXT, nullable=False),
    sa.Column("binary", _TEXT, nullable=False),
    sa.Column("board", _TEXT, nullable=False, index=True),
    sa.Column("board_id", _TEXT, nullable=False, index=True),
    sa.Column("device", _TEXT, nullable=False),
    sa.Column("runtime", _TEXT, nullable=False),
    sa.Column("provenance", _TEXT, nullable=False),
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
    """Which measurements: those for which everything that is not None holds."""

    release: str | None = None
    """A digest, or the beginning of only one."""
    recipe: str | None = None
    target: str | None = None
    board: str | None = None
    """An address or a ``board_id``."""
    provenance: Provenance | None = None
    session: str | None = None
    since: datetime | None = None
    """Begun then or later; UTC where it names no zone."""
    limit: int | None = None
    with_samples: bool = True
    """Without: the raw samples and answers stay in the database, and are missing in what is returned."""


@dataclass(frozen=True)
class Known:
    """A release of which there are measurements."""

    release: str
    recipe: str
    target: str
    boards: tuple[str, ...]
    provenances: tuple[Provenance, ...]
    count: int
    first: datetime
    last: datetime


class Results:
    """An open database; safe in threads. A connection is held only while it is used: a benchmark takes minutes."""

    def __init__(self, engine: sa.Engine, place: _Place) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{WRITES: True})
        self._place = place

    def append(self, measurements: Sequence[Measurement]) -> None:
        """Add all of them or, where that fails, none.

        Raises:
            StoreError: the database cannot be written, or a figure is not finite.
        """
        rows = [row_of(one) for one in measurements]
        if rows:
            with self._place.explaining(), self._writing.begin() as connection:
                connection.execute(sa.insert(MEASUREMENTS), rows)

    def find(self, query: Query) -> list[Measurement]:
        """Return what ``query`` asks for, newest first.

        Raises:
            UsageError: several releases begin with ``query.release``; the hint lists them.
            StoreError: a row cannot be read; the message names it.
        """
        if query.limit is not None and query.limit < 0:
            raise UsageError(f"a limit of {query.limit} measurements", hint="0 or more")
        texts = ("recipe", "target", "provenance", "session")
        conditions = [_C[name] == _copy(value) for name in texts if (value := getattr(query, name)) is not None]
        if query.board is not None:
            conditions.append(sa.or_(_C.board == _copy(query.board), _C.board_id == _copy(query.board)))
        if query.since is not None:
            conditions.append(_C.made >= _moment(query.since))
        raw = (_C.samples, _C.answers) if query.with_samples else ()
        with self._place.explaining(), self._engine.connect() as connection:
            if query.release is not None:
                conditions.append(_C.release == _one_release(connection, query.release))
            found = connection.execute(
                sa.select(_C.id, _C.schema_version, _C.document, *raw)
                .where(*conditions)
                .order_by(_C.made.desc(), _C.id.desc())
                .limit(query.limit)
            ).all()
        return [measurement_of(row._asdict(), self._place.shown) for row in found]

    def releases(self) -> list[Known]:
        """Return what has been measured, the latest first."""
        keys = _C.release, _C.recipe, _C.target
        parts = sa.select(
            *keys, _C.board, _C.provenance, sa.func.count(), sa.func.min(_C.made), sa.func.max(_C.made)
        ).group_by(*keys, _C.board, _C.provenance)
        with self._place.explaining(), self._engine.connect() as connection:
            rows: list[tuple[Any, ...]] = [tuple(row) for row in connection.execute(parts)]
        together: dict[tuple[str, str, str], list[tuple[Any, ...]]] = {}
        for row in rows:
            together.setdefault((row[0], row[1], row[2]), []).append(row)
        known = [
            Known(
                *key,
                boards=tuple(sorted({row[3] for row in group})),
                provenances=tuple(sorted({Provenance(row[4]) for row in group})),
                count=sum(row[5] for row in group),
                first=datetime.fromisoformat(min(row[6] for row in group)),
                last=datetime.fromisoformat(max(row[7] for row in group)),
            )
            for key, group in together.items()
        ]
        return sorted(known, key=lambda one: (one.last, one.release), reverse=True)


@contextmanager
def open_results(url: str | None = None) -> Iterator[Results]:
    """Open the database, made or migrated first where it has to be.

    Args:
        url: a SQLite file, or ``sqlite:///FILE``, or ``postgresql://USER@HOST/DATABASE``. None: what
            $BPUDEPLOY_RESULTS says, else ``.bpudeploy/results.sqlite``. A password is better kept in ~/.pgpass or
            $PGPASSWORD than in a URL.

    Raises:
        UsageError: no such kind of database, its driver is not installed, or a newer bpudeploy made it.
        StoreError: it cannot be opened, or holds something else than results.
    """
    place = _placed(url or os.environ.get(VARIABLE) or DEFAULT)
    with place.explaining():
        if place.file is not None:
            place.file.parent.mkdir(parents=True, exist_ok=True)
        engine = _engine(place)
        bring_up_to_date(engine, MEASUREMENTS, place.shown, place.file)
    try:
        yield Results(engine, place)
    finally:
        engine.dispose()


def row_of(one: Measurement) -> dict[str, Any]:
    """Return a measurement's row: its document without the raw samples and answers, those packed, and the copies."""
    samples = one.samples_ms
    document = one.model_dump(exclude={"rounds": {"__all__": {"samples_ms"}}, "answers": True})
    for told, held in zip(document["rounds"], one.rounds, strict=True):
        told["samples"] = len(held.samples_ms)  # where the next round's begin
    try:
        text = canonical(document)
        made = _moment(datetime.fromisoformat(one.made))
    except (ValueError, OverflowError) as error:
        raise StoreError(f"cannot keep the measurement of session {one.session}: {error}") from error
    if not all(map(math.isfinite, samples)):
        raise StoreError(f"cannot keep the measurement of session {one.session}: a latency is not finite")
    copies = {"session": one.session, "board": one.board, "board_id": one.board_id, "device": one.device}
    copies |= {"runtime": one.runtime, "provenance": one.provenance.value} | one.subject.model_dump()
    answers = None if one.answers is None else zlib.compress(canonical(one.answers.model_dump()).encode())
    return {name: _copy(value) for name, value in copies.items()} | {
        "made": made,
        "schema_version": SCHEMA_VERSION,
        "document": text,
        "samples": zlib.compress(struct.pack(f"<{len(samples)}d", *samples)),
        "answers": answers,
    }


def measurement_of(row: Mapping[str, Any], shown: str) -> Measurement:
    """Return the measurement that a row holds; without ``samples`` in it, one without raw samples and answers.

    The one place that knows the documents' versions: a row of an older one is brought to the newest here.
    """
    where = f"measurement {row['id']} in {shown}"
    if not 1 <= row["schema_version"] <= SCHEMA_VERSION:  # what 1 does not have, defaults say
        raise StoreError(
            f"{where} is of version {row['schema_version']}; this bpudeploy reads up to {SCHEMA_VERSION}",
            hint="a newer bpudeploy wrote it: install that one",
        )
    try:
        document = json.loads(row["document"])
        samples: tuple[float, ...] | None = None
        if "samples" in row:
            packed = zlib.decompress(row["samples"])
            samples = struct.unpack(f"<{len(packed) // 8}d", packed)
            document["answers"] = None if row["answers"] is None else json.loads(zlib.decompress(row["answers"]))
        at = 0
        for told in document["rounds"]:
            count = told.pop("samples")
            told["samples_ms"] = () if samples is None else samples[at : at + count]
            at += count
        if samples is not None and at != len(samples):
            raise ValueError(f"{at} samples are announced, {len(samples)} are there")
        return Measurement.model_validate(document, strict=False)  # a list is a tuple here, a text an enum
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, zlib.error, ValidationError) as error:
        raise StoreError(f"{where} cannot be read: {error}", hint="its bytes were changed from outside") from error


def _copy(text: str) -> str:
    """Return ``text`` as every database can hold and seek it: without NUL and lone surrogates."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "backslashreplace").decode()


def _moment(when: datetime) -> str:
    """Return a moment in UTC as text of one length, so that later ones sort behind."""
    aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="microseconds")


def _one_release(connection: sa.Connection, prefix: str) -> str:
    prefix = _copy(prefix)
    begins = sa.and_(_C.release >= prefix, _C.release < prefix + _LAST)
    found = list(connection.scalars(sa.select(_C.release).where(begins).distinct().order_by(_C.release).limit(10)))
    if len(found) > 1 and prefix not in found:
        raise UsageError(f"several releases begin with {prefix!r}", hint=f"one of {', '.join(found)}")
    return prefix if prefix in found or not found else found[0]


@dataclass(frozen=True)
class _Place:
    """Where the database is. Nothing here shows its password: ``shown`` is what errors say."""

    url: sa.URL
    file: Path | None
    shown: str

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn what the database or the file system says into an error with a hint."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> BpudeployError:
        cause = getattr(error, "orig", None) or error
        said = " ".join(str(cause).split())
        for secret in (self.url.password, self.url.query.get("password")):
            said = said.replace(str(secret), "***") if secret else said
        code = getattr(cause, "sqlite_errorname", "")
        hint = next((hint for start, hint in _HINTS.items() if code.startswith(start)), _HINT)
        return StoreError(f"the results in {self.shown}: {said}", hint=hint)


_HINT = "check the address, the permissions and the space there, or name another database with $BPUDEPLOY_RESULTS"
_HINTS = {
    "SQLITE_NOTADB": "it is something else, and was left as it is: name another file with $BPUDEPLOY_RESULTS",
    "SQLITE_CORRUPT": "keep the file, and read what is left with `sqlite3 FILE .recover`",
    "SQLITE_BUSY": f"another process has been writing for {_WAIT_S} s: try again when it is done",
    "SQLITE_FULL": "nothing was added: make space there, or name another file with $BPUDEPLOY_RESULTS",
}


def _placed(text: str) -> _Place:
    """Return the place that ``text`` names. Its errors do not show it: a password may be in it."""
    if "://" not in text:
        return _sqlite(Path(text))
    url = _parsed(text)
    if url is None:
        raise UsageError(
            "the results' URL cannot be read",
            hint="postgresql://USER@HOST:PORT/DATABASE; write @ : / in names as %40 %3A %2F",
        )
    kind = url.get_backend_name()
    if kind == "sqlite":
        if url.database in (None, "", ":memory:") or url.query:
            raise UsageError("a SQLite URL names a file and nothing else", hint="sqlite:///results.sqlite")
        return _sqlite(Path(str(url.database)))
    if kind != "postgresql":
        raise UsageError(
            f"results cannot be kept in {kind!r}", hint="sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        )
    plain = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database)
    return _Place(url.set(drivername="postgresql+psycopg"), None, plain.render_as_string())


def _parsed(text: str) -> sa.URL | None:
    try:
        return sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        return None


def _sqlite(path: Path) -> _Place:
    file = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 -- a link stays a link
    return _Place(sa.URL.create("sqlite", database=str(file)), file, str(path))


def _engine(place: _Place) -> sa.Engine:
    waits = {"timeout": _WAIT_S} if place.file is not None else {}
    if place.file is None and "connect_timeout" not in place.url.query:
        waits = {"connect_timeout": 10}
    try:
        engine = sa.create_engine(place.url, poolclass=NullPool, connect_args=waits, hide_parameters=True)
    except ImportError as error:
        raise UsageError(
            f"{place.shown} needs psycopg, which is not installed", hint="pip install 'bpudeploy[postgres]'"
        ) from error
    if place.file is not None:
        sa.event.listen(engine, "connect", _leave_transactions_to_us)
        sa.event.listen(engine, "begin", _begin)
    return engine


def _leave_transactions_to_us(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # sqlite3 would begin late, and commit before some statements


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
