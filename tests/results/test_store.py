"""The results store on SQLite and PostgreSQL: what is appended is found again, and nothing is ever changed."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue

import bpudeploy.results.store as store
from bpudeploy import BpudeployError, Measurement
from bpudeploy.errors import StoreError, UsageError
from bpudeploy.provenance import Provenance
from bpudeploy.results.measurement import Answers, Interval, Round, Subject
from bpudeploy.results.migrations.upgrade import HEAD, REVISION_TABLE, known_revisions, upgrade
from bpudeploy.results.store import MEASUREMENTS, Query, Results, open_results, row_of
from bpudeploy.spec.recipe import BenchmarkSpec, GovernorMode
from tests.results.postgres import Server
from tests.results.postgres import postgres_server as postgres_server

A, A2, B = "aa" + "1" * 62, "aa" + "f" * 62, "b" * 64
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


def measured(
    release: str = A,
    *,
    made: str = "2026-11-28T05:00:00+00:00",
    session: str = "s1",
    board: str = "desk-1",
    **more: Any,
) -> Measurement:
    subject = Subject(recipe="vit", target="x5", march="bayes-e", backend="hb_mapper", release=release, binary="c" * 64)
    rounds = tuple(
        Round(index=i, place=i, started_s=i / 3, load_seconds=0.1, frames=2 + i, samples_ms=(1.1 + i,) * (2 + i))
        for i in range(3)
    )
    fields: dict[str, Any] = {
        "provenance": Provenance.MEASURED,
        "session": session,
        "made": made,
        "subject": subject,
        "board": board,
        "board_id": f"serial of {board}",
        "device": "BPU",
        "runtime": "libdnn 1.24",
        "facts": None,
        "method": BenchmarkSpec(),
        "latency": None,
        "rounds": rounds,
        "answers": Answers(samples="d" * 64, labels=(1, 0), top=((1, 0), (1, 0))),
        "versions": {"onnx": "1.19", "bpudeploy": "0.8"},
    }
    return Measurement(**fields | more)


@dataclass(frozen=True)
class Database:
    """An empty database with raw access."""

    url: str
    raw: Callable[[str], list[tuple[Any, ...]]]
    settle: Callable[[], None] = lambda: None

    @property
    def on_sqlite(self) -> bool:
        return self.url.startswith("sqlite")


def in_sqlite(file: Path, statement: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        file = tmp_path / "folder" / "results.sqlite"
        return Database(f"sqlite:///{file}", lambda statement: in_sqlite(file, statement))
    server: Server = request.getfixturevalue("postgres_server")
    name = server.new_database()
    return Database(server.url(name), lambda statement: server.run(statement, name), lambda: server.settle(name))


@pytest.fixture
def results(database: Database) -> Iterator[Results]:
    with open_results(database.url) as opened:
        yield opened


# --- what is appended is found again


def test_a_measurement_is_found_as_it_was_appended(results: Results, database: Database) -> None:
    first, second = measured(A), measured(B, answers=None, rounds=(), method=None)
    results.append([first, second])
    results.append([])
    assert results.find(Query()) == [second, first]
    with open_results(database.url) as again:
        assert again.find(Query(release=A)) == [first]


_TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["", "nul\0", "lone \ud800", "'; --", "%", "_", "é", "板"]))
_FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([-0.0, 5e-324, sys.float_info.max, 0.1 + 0.2])
)
_METHODS = st.builds(
    BenchmarkSpec,
    precision=st.floats(0.001, 100),
    threads=st.none() | st.integers(1, 64),
    streams=st.lists(st.integers(2, 64), max_size=3).map(tuple),
    governor=st.sampled_from(GovernorMode),
    cool_below=st.none() | st.floats(0.1, 120),
)
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | _FLOATS | _TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXTS, inner, max_size=2),
    max_leaves=4,
)
_MOMENTS = st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=-9.5)))).map(
    datetime.isoformat
)


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for every value that a type annotation allows."""
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: _TEXTS,
        float: _FLOATS,
        int: st.integers(),
        BenchmarkSpec: _METHODS,
        JsonValue: _JSON,
    }
    if kind in plain:
        return plain[kind]
    if kind is type(None):
        return st.none()
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of([anything(one) for one in args])
    if origin is tuple:
        return st.lists(anything(args[0]), max_size=3).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(anything(args[0]), anything(args[1]), max_size=3)
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    assert issubclass(kind, BaseModel), kind
    fields = {name: anything(hint) for name, hint in get_type_hints(kind).items() if name in kind.model_fields}
    return st.builds(kind, **fields | ({"made": _MOMENTS} if kind is Measurement else {}))


_BATCHES = st.lists(anything(Measurement), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=_BATCHES)
def test_whatever_is_appended_is_found_the_same(results: Results, database: Database, batch: list[Measurement]) -> None:
    ((before,),) = database.raw("SELECT count(*) FROM measurements")
    results.append(batch)
    for one in batch:
        asked = Query(session=one.session, board=one.board_id, provenance=one.provenance)
        (found, *_) = [other for other in results.find(asked) if other == one]
        assert [ms.hex() for ms in found.samples_ms] == [ms.hex() for ms in one.samples_ms]  # -0.0 == 0.0
        assert repr(found.method) == repr(one.method), "enums and tuples again"
    assert database.raw("SELECT count(*) FROM measurements") == [(before + len(batch),)]


def test_a_document_is_the_same_text_each_time_and_the_columns_say_what_it_says() -> None:
    one = measured(versions={"b": "1", "a": "2"})
    assert row_of(one) == row_of(measured(versions={"a": "2", "b": "1"}))
    row = row_of(one)
    assert "samples_ms" not in row["document"] and "labels" not in row["document"]
    assert (row["release"], row["recipe"], row["board"]) == (A, "vit", "desk-1")
    assert (row["provenance"], row["schema_version"]) == ("measured", 2)
    assert row["made"] == "2026-11-28T05:00:00.000000+00:00"


# --- queries


def test_a_query_returns_matches_newest_first(results: Results) -> None:
    early = measured(A, made="2026-11-28T05:00:00Z", session="early")
    late = measured(A2, made="2026-11-28T06:30:00.5", session="late", board="rack-1", provenance=Provenance.SIMULATED)
    middle = measured(B, made="2026-11-28T08:00:00+02:00", session="middle")
    results.append([early, late])
    results.append([middle])

    def sessions(**asked: Any) -> list[str]:
        return [one.session for one in results.find(Query(**asked))]

    assert sessions() == ["late", "middle", "early"]
    assert sessions(limit=2) == ["late", "middle"] and sessions(limit=0) == []
    assert sessions(release=A) == ["early"] and sessions(release="b") == ["middle"] and sessions(release="ff") == []
    assert sessions(recipe="vit", target="x5") == ["late", "middle", "early"] and sessions(recipe="vi") == []
    assert sessions(board="rack-1") == sessions(board="serial of rack-1") == ["late"]
    assert sessions(provenance=Provenance.MEASURED) == ["middle", "early"]
    assert sessions(provenance=Provenance.PREDICTED) == []
    assert sessions(session="late") == ["late"]
    assert sessions(since=datetime(2026, 11, 28, 6)) == ["late", "middle"]
    assert sessions(since=datetime(2026, 11, 28, 8, tzinfo=timezone(timedelta(hours=2)))) == ["late", "middle"]
    with pytest.raises(UsageError, match="a limit of -1"):
        results.find(Query(limit=-1))


def test_without_samples_only_raw_data_is_missing(results: Results) -> None:
    one = measured(peak_memory_mb=12.5, load_ms=Interval(value=2, low=1, high=3))
    results.append([one])
    (found,) = results.find(Query(with_samples=False))
    rounds = tuple(each.model_copy(update={"samples_ms": ()}) for each in one.rounds)
    assert found == one.model_copy(update={"answers": None, "rounds": rounds})


def test_an_ambiguous_prefix_is_refused_with_its_matches(results: Results) -> None:
    results.append([measured(A), measured(A2), measured(A2)])
    with pytest.raises(UsageError, match="several releases begin with 'aa'") as refused:
        results.find(Query(release="aa"))
    assert refused.value.hint == f"one of {A}, {A2}"
    assert len(results.find(Query(release="aaf"))) == 2
    results.append([measured("aa")])
    assert len(results.find(Query(release="aa"))) == 1, "a whole name is no prefix"


def test_a_prefix_is_not_a_pattern(results: Results) -> None:
    results.append([measured(A)])
    assert [results.find(Query(release=text)) for text in ("a%", "_a", "AA", "*")] == [[]] * 4


# --- what cannot be kept, and what cannot be read


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"made": "yesterday"}, "yesterday"),
        ({"peak_memory_mb": float("inf")}, "not JSON compliant"),
        (
            {"rounds": (Round(index=0, place=0, started_s=0, load_seconds=0, frames=1, samples_ms=(float("nan"),)),)},
            "a lat",
        ),
    ],
)
def test_an_invalid_measurement_is_refused_with_its_batch(results: Results, wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(StoreError, match=f"cannot keep the measurement of session s1: .*{why}"):
        results.append([measured(), measured(**wrong)])
    assert results.find(Query()) == []


_COLUMNS = ", ".join(f'"{column.name}"' for column in MEASUREMENTS.columns if column.name != "id")


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("schema_version", "3", r"measurement 2 in .* has version 3; this bpudeploy reads up to 2"),
        ("document", "'{'", r"measurement 2 in .* cannot be read"),
        ("document", "'{\"rounds\": []}'", r"measurement 2 in .* cannot be read"),
        ("samples", "answers", r"measurement 2 in .* cannot be read"),
    ],
)
def test_an_unreadable_row_is_named(results: Results, database: Database, column: str, value: str, why: str) -> None:
    results.append([measured()])
    changed = _COLUMNS.replace(f'"{column}"', value)
    database.raw(f"INSERT INTO measurements ({_COLUMNS}) SELECT {changed} FROM measurements")
    with pytest.raises(StoreError, match=why) as refused:
        results.find(Query())
    assert refused.value.hint
    assert results.find(Query(limit=0)) == []


# --- append-only, by the database


_CHANGES = (
    "UPDATE measurements SET made = 'never'",
    "UPDATE measurements SET id = 7 WHERE id = 1",
    "DELETE FROM measurements",
    "DELETE FROM measurements WHERE id = 1",
)
_SQLITE_ONLY = "INSERT OR REPLACE INTO measurements SELECT * FROM measurements"


def test_the_database_refuses_to_change_or_remove(results: Results, database: Database) -> None:
    results.append([measured()])
    for statement in (*_CHANGES, _SQLITE_ONLY if database.on_sqlite else "TRUNCATE measurements"):
        with pytest.raises((sqlite3.Error, psycopg.Error), match="measurements are only ever added"):
            database.raw(statement)
    assert results.find(Query()) == [measured()]


def test_the_database_refuses_an_unknown_provenance(results: Results, database: Database) -> None:
    results.append([measured()])
    changed = _COLUMNS.replace('"provenance"', "'guessed'")
    with pytest.raises((sqlite3.Error, psycopg.Error), match="ck_measurements_provenance"):
        database.raw(f"INSERT INTO measurements ({_COLUMNS}) SELECT {changed} FROM measurements")


# --- migrations


def at_first_revision(database: Database, measurements: list[Measurement]) -> None:
    """Create the database at revision 0001, with rows."""
    if database.on_sqlite:
        Path(database.url.removeprefix("sqlite:///")).parent.mkdir()
    engine = sa.create_engine(database.url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        upgrade(connection, "0001")
        for one in measurements:
            connection.execute(sa.insert(MEASUREMENTS).values(row_of(one)))
    engine.dispose()


def test_a_database_of_the_first_revision_is_upgraded_with_its_rows(database: Database) -> None:
    rows = [measured(A), measured(B)]
    at_first_revision(database, rows)
    database.raw("UPDATE measurements SET board = board")
    with open_results(database.url) as results:
        assert results.find(Query()) == rows[::-1]
        results.append([measured(A2)])
    with pytest.raises((sqlite3.Error, psycopg.Error), match="only ever added"):
        database.raw("UPDATE measurements SET board = board")
    assert database.raw(f"SELECT * FROM {REVISION_TABLE}") == [(HEAD,)]


def test_before_rows_are_migrated_a_copy_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "results.sqlite"
    sqlite = Database(f"sqlite:///{file}", lambda statement: in_sqlite(file, statement))
    at_first_revision(sqlite, [measured(A)])
    kept = file.with_name(f"results.sqlite.before-{HEAD}")
    kept.write_bytes(b"an earlier one")
    with open_results(str(file)):
        pass
    copy = file.with_name(f"{kept.name}.1")
    assert kept.read_bytes() == b"an earlier one"
    assert in_sqlite(copy, f"SELECT * FROM {REVISION_TABLE}") == [("0001",)]
    assert in_sqlite(copy, "SELECT count(*) FROM measurements") == [(1,)]
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name, kept.name, copy.name]


def test_an_empty_database_is_migrated_without_a_copy(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "results.sqlite"
    at_first_revision(Database(f"sqlite:///{file}", lambda _: []), [])
    with open_results(str(file)):
        pass
    assert list(file.parent.iterdir()) == [file]


def test_a_failed_migration_leaves_the_database_unchanged(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    at_first_revision(database, [measured(A)])
    if database.on_sqlite:
        database.raw("CREATE TRIGGER measurements_no_replace BEFORE INSERT ON measurements BEGIN SELECT 1; END")
    else:
        database.raw("CREATE FUNCTION measurements_only_added() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'")
    with pytest.raises(StoreError, match="already exists"), open_results(database.url):
        pass
    assert database.raw(f"SELECT * FROM {REVISION_TABLE}") == [("0001",)]
    database.raw("UPDATE measurements SET board = board")


def test_the_migrations_create_the_table_that_the_queries_use(results: Results, database: Database) -> None:
    assert known_revisions() == ["0001", HEAD]
    engine = sa.create_engine(database.url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": REVISION_TABLE})
        assert compare_metadata(context, MEASUREMENTS.metadata) == []
    engine.dispose()


def test_the_database_of_a_newer_bpudeploy_is_refused_and_unchanged(database: Database) -> None:
    with open_results(database.url) as results:
        results.append([measured()])
    database.raw(f"UPDATE {REVISION_TABLE} SET version_num = '0099'")
    expected = pytest.raises(UsageError, match=r"newer bpudeploy.*0099, this version supports 0002")
    with unchanged(database), expected as refused, open_results(database.url):
        pass
    assert refused.value.hint and "upgrade" in refused.value.hint


@contextmanager
def unchanged(database: Database) -> Iterator[None]:
    """Check that the block writes nothing."""

    def state() -> object:
        if database.on_sqlite:
            file = Path(database.url.removeprefix("sqlite:///"))
            return sorted((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in file.parent.iterdir())
        return database.raw("SELECT relname, pg_relation_size(oid), xmin FROM pg_class ORDER BY oid")

    before = state()
    yield
    assert state() == before


def test_opening_again_does_not_load_alembic(tmp_path: Path) -> None:
    with open_results(str(tmp_path / "results.sqlite")):
        pass
    code = (
        "import sys; from bpudeploy.results.store import open_results, Query\n"
        f"with open_results({str(tmp_path / 'results.sqlite')!r}) as results: assert results.find(Query()) == []\n"
        "assert not {'alembic', 'mako', 'psycopg'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- processes


def run_concurrently(target: Callable[[str, Barrier, str], None], url: str, count: int) -> None:
    """Run ``target`` in processes that start at the same time, and check that all succeed."""
    barrier = processes.Barrier(count)
    workers = [processes.Process(target=target, args=(url, barrier, f"p{i}")) for i in range(count)]
    for one in workers:
        one.start()
    for one in workers:
        one.join(60)
    assert [one.exitcode for one in workers] == [0] * count


def append_one(url: str, barrier: Barrier, name: str) -> None:
    barrier.wait(30)
    with open_results(url) as results:
        results.append([measured(session=name)])


def test_concurrent_first_opens_all_succeed(database: Database) -> None:
    run_concurrently(append_one, database.url, 4)
    with open_results(database.url) as results:
        assert sorted(one.session for one in results.find(Query())) == ["p0", "p1", "p2", "p3"]
    assert database.raw(f"SELECT * FROM {REVISION_TABLE}") == [(HEAD,)]
    if database.on_sqlite:
        assert database.raw("PRAGMA journal_mode") == [("wal",)]


def test_concurrent_upgrades_all_succeed_and_keep_one_copy(database: Database) -> None:
    at_first_revision(database, [measured(session="old")])
    run_concurrently(append_one, database.url, 3)
    with open_results(database.url) as results:
        assert sorted(one.session for one in results.find(Query())) == ["old", "p0", "p1", "p2"]
    if database.on_sqlite:
        names = sorted(path.name for path in Path(database.url.removeprefix("sqlite:///")).parent.iterdir())
        assert names == ["results.sqlite", f"results.sqlite.before-{HEAD}"]


def append_many(url: str, barrier: Barrier, name: str) -> None:
    barrier.wait(30)
    with open_results(url) as results:
        for i in range(15):
            results.append([measured(session=f"{name}.{i}.{j}") for j in range(3)])


def test_concurrent_appends_lose_nothing(results: Results, database: Database) -> None:
    run_concurrently(append_many, database.url, 4)
    names = {f"p{i}.{j}.{k}" for i in range(4) for j in range(15) for k in range(3)}
    found = results.find(Query(with_samples=False))
    assert len(found) == len(names) and {one.session for one in found} == names


BATCH = 7


def appends_until_killed(url: str, acknowledge: Connection, run: int) -> None:
    noise = random.Random(run)
    samples = tuple(noise.random() for _ in range(4000))  # 30 kB a row that do not compress
    rounds = (Round(index=0, place=0, started_s=0, load_seconds=0, frames=4000, samples_ms=samples),)
    with open_results(url) as results:
        for i in itertools.count():
            results.append([measured(session=f"{run}.{i}", rounds=rounds) for _ in range(BATCH)])
            acknowledge.send(i)


def test_a_killed_process_leaves_all_of_a_batch_or_none(results: Results, database: Database) -> None:
    noise = random.Random(8)
    for run in range(6):
        receiver, sender = processes.Pipe(duplex=False)
        worker = processes.Process(target=appends_until_killed, args=(database.url, sender, run))
        worker.start()
        sender.close()
        acknowledged = [receiver.recv()]
        worker.join(noise.uniform(0, 0.12))
        worker.kill()
        worker.join()
        with pytest.raises(EOFError):
            while True:
                acknowledged.append(receiver.recv())
        database.settle()
        found = [one.session for one in results.find(Query(with_samples=False)) if one.session.startswith(f"{run}.")]
        batches = len(found) // BATCH
        assert sorted(found) == sorted(f"{run}.{i}" for i in range(batches) for _ in range(BATCH))
        assert batches in (len(acknowledged), len(acknowledged) + 1), "what was acknowledged is kept"
    assert all(len(one.samples_ms) == 4000 for one in results.find(Query(limit=3)))
    if database.on_sqlite:
        assert database.raw("PRAGMA integrity_check") == [("ok",)]


# --- a file that cannot be had


def test_the_default_is_in_the_project_and_the_variable_overrides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BPUDEPLOY_RESULTS", raising=False)
    with open_results() as results:
        monkeypatch.chdir("/")  # a relative path is resolved when it is opened
        results.append([measured()])
    monkeypatch.chdir(tmp_path)
    assert in_sqlite(Path(".bpudeploy/results.sqlite"), "SELECT count(*) FROM measurements") == [(1,)]
    for other in ("a folder/über ?%20#.sqlite", "sqlite:///" + str(tmp_path / "other.sqlite")):
        monkeypatch.setenv("BPUDEPLOY_RESULTS", other)
        with open_results() as results:
            assert results.find(Query()) == []
        assert Path(other.removeprefix("sqlite:///")).exists()
    with open_results(".bpudeploy/results.sqlite") as results:
        assert results.find(Query()) == [measured()]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://u:s3cret@host/db", "cannot be stored in 'mysql'"),
        ("sqlite+s3cret://", "must contain a file name"),
        ("sqlite://", "a file name and nothing else"),
        ("sqlite:///:memory:", "a file name and nothing else"),
        ("sqlite:///x.sqlite?mode=ro", "a file name and nothing else"),
        ("postgresql://u:s3cret@host:port/db", "cannot be parsed"),
        ("://", "cannot be parsed"),
    ],
)
def test_an_invalid_url_is_refused_without_showing_its_password(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as refused, open_results(url):
        pass
    assert refused.value.hint and refused.value.__cause__ is None and refused.value.__context__ is None
    assert "s3c" not in str(refused.value)


def damaged(file: Path) -> bytes:
    """Return a results database of which only the first page is intact."""
    with open_results(str(file)) as results:
        results.append([measured(session=str(i)) for i in range(200)])
    whole = file.read_bytes()
    file.unlink()
    return whole[:4096] + os.urandom(len(whole) - 4096)


@pytest.mark.parametrize("kind", ["noise", "text", "damaged", "another program's"])
def test_a_file_that_is_no_results_database_is_refused_and_unchanged(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "folder" / "results.sqlite"
    file.parent.mkdir()
    if kind == "another program's":
        in_sqlite(file, "CREATE TABLE places (url)")
    else:
        file.write_bytes({"noise": os.urandom(9000), "text": b"latency: 3\n"}.get(kind) or damaged(file))
    asked = unchanged(Database(f"sqlite:///{file}", lambda _: []))
    with asked, pytest.raises(StoreError, match=r"results\.sqlite") as refused, open_results(str(file)) as results:
        results.find(Query())
    assert refused.value.hint


@contextmanager
def powerless() -> Iterator[None]:
    """Run without root's exemption from permissions."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def read_only() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        with open_results(str(folder / "results.sqlite")) as results:
            results.append([measured()])
        (folder / "results.sqlite").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_a_read_only_folder_is_reported(read_only: Path) -> None:
    for name in ("new.sqlite", "new/results.sqlite", "results.sqlite"):
        expected = pytest.raises(StoreError, match=f"{read_only / name}: ")
        with expected as refused, powerless(), open_results(str(read_only / name)) as results:
            results.append([measured()])
        assert refused.value.hint and "permissions" in refused.value.hint
    assert in_sqlite(read_only / "results.sqlite", "SELECT count(*) FROM measurements") == [(1,)]
    assert [path.name for path in read_only.iterdir()] == ["results.sqlite"]


def test_a_path_that_cannot_be_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "results.sqlite"):
        with pytest.raises(StoreError, match=f"the results in {path}: "), open_results(str(path)):
            pass


def test_a_full_disk_is_reported_and_nothing_is_added(tmp_path: Path) -> None:
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "full", tmp_path], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        noise = random.Random(1)
        samples = tuple(noise.random() for _ in range(8000))
        big = Round(index=0, place=0, started_s=0, load_seconds=0, frames=8000, samples_ms=samples)
        with open_results(str(tmp_path / "results.sqlite")) as results:
            results.append([measured()])
            with pytest.raises(StoreError, match="full") as refused:
                results.append([measured(rounds=(big,) * 2) for _ in range(4)])
            assert refused.value.hint and "free some space" in refused.value.hint
            assert results.find(Query()) == [measured()]
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_lock_held_by_another_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_WAIT_S", 0.1)
    with open_results(str(tmp_path / "results.sqlite")) as results:
        busy = sqlite3.connect(tmp_path / "results.sqlite", isolation_level=None)
        busy.execute("BEGIN IMMEDIATE")
        with pytest.raises(BpudeployError, match="locked") as refused:
            results.append([measured()])
        assert refused.value.hint and "another process" in refused.value.hint
        assert results.find(Query()) == []
        busy.close()
        results.append([measured()])
        assert results.find(Query()) == [measured()]


def test_a_document_of_version_1_is_read_with_defaults(results: Results, database: Database) -> None:
    results.append([measured()])
    document = json.loads(row_of(measured())["document"])
    for added in ("build", "night"):
        del document[added]
    text = json.dumps(document).replace("'", "''")
    change = _COLUMNS.replace('"document"', f"'{text}'").replace('"schema_version"', "1")
    database.raw(f"INSERT INTO measurements ({_COLUMNS}) SELECT {change} FROM measurements")
    old = results.find(Query())[0]
    assert old == measured() and old.build is None and old.night is None
