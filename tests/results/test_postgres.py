"""The results store on a real PostgreSQL server: passwords, roles, tables of other programs."""

from __future__ import annotations

import logging
import sys
import traceback
from urllib.parse import quote

import psycopg
import pytest

from bpudeploy.errors import StoreError, UsageError
from bpudeploy.results.store import Query, open_results
from tests.results.postgres import PASSWORD, Server
from tests.results.postgres import postgres_server as postgres_server
from tests.results.test_store import measured


def test_a_password_in_the_url_opens_it(postgres_server: Server) -> None:
    name = postgres_server.new_database()
    postgres_server.run("GRANT ALL ON SCHEMA public TO guarded", name)
    with open_results(postgres_server.url(name, f"guarded:{quote(PASSWORD, safe='')}")) as results:
        results.append([measured()])
        assert results.find(Query()) == [measured()]


WRONG = "".join(("wr0", "ng/secret"))  # a traceback shows this line


@pytest.mark.parametrize("more", [f":{quote(WRONG, safe='')}@", f":{WRONG}@", f"@&password={quote(WRONG, safe='')}"])
def test_a_password_is_never_shown(postgres_server: Server, more: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    login, _, tail = more.partition("@")
    url = postgres_server.url("postgres", f"guarded{login}") + tail
    with pytest.raises(StoreError, match="password authentication failed") as refused, open_results(url):
        pass
    shown = "".join(traceback.format_exception(refused.value)) + caplog.text + str(refused.value.hint)
    assert "guarded" in shown and WRONG not in shown and quote(WRONG, safe="") not in shown
    assert str(refused.value).startswith("the results in postgresql://guarded@/postgres: ")


def test_an_unreachable_server_is_reported() -> None:
    url = f"postgresql://me:{quote(WRONG, safe='')}@127.0.0.1:9/results"
    expected = pytest.raises(StoreError, match=r"the results in postgresql://me@127.0.0.1:9/results: .*refused")
    with expected as refused, open_results(url):
        pass
    assert refused.value.hint and "check the address" in refused.value.hint
    assert "wr0ng" not in "".join(traceback.format_exception(refused.value))


def test_a_missing_database_is_reported(postgres_server: Server) -> None:
    with pytest.raises(StoreError, match="does not exist"), open_results(postgres_server.url("nowhere")):
        pass


def test_a_missing_driver_is_reported_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    expected = pytest.raises(UsageError, match="postgresql://me@host/db needs psycopg")
    with expected as refused, open_results("postgresql+psycopg2://me:s3cret@host/db"):
        pass
    assert refused.value.hint == "pip install 'bpudeploy[postgres]'"


def test_tables_of_other_programs_are_left_alone(postgres_server: Server) -> None:
    name = postgres_server.new_database()
    postgres_server.run("CREATE TABLE alembic_version (version_num text)", name)
    postgres_server.run("INSERT INTO alembic_version VALUES ('another program')", name)
    with open_results(postgres_server.url(name)) as results:
        results.append([measured()])
    assert postgres_server.run("SELECT * FROM alembic_version", name) == [("another program",)]
    other = postgres_server.new_database()
    postgres_server.run("CREATE TABLE measurements (ours int)", other)
    expected = pytest.raises(StoreError, match="is not a results database: it has the tables measurements")
    with expected, open_results(postgres_server.url(other)):
        pass
    assert postgres_server.run("SELECT * FROM measurements", other) == []


def test_a_role_with_insert_and_select_is_enough_for_an_existing_database(postgres_server: Server) -> None:
    name = postgres_server.new_database()
    with open_results(postgres_server.url(name)):
        pass
    postgres_server.run("CREATE ROLE ci LOGIN")
    with pytest.raises(StoreError, match="permission denied"), open_results(postgres_server.url(name, "ci")):
        pass
    postgres_server.run("GRANT SELECT, INSERT ON measurements TO ci", name)
    postgres_server.run("GRANT SELECT ON bpudeploy_revision TO ci", name)
    postgres_server.run("GRANT USAGE ON SEQUENCE measurements_id_seq TO ci", name)
    with open_results(postgres_server.url(name, "ci")) as results:
        results.append([measured()])
        assert results.find(Query()) == [measured()]


def test_no_connection_is_held_between_calls(postgres_server: Server) -> None:
    name = postgres_server.new_database()
    with open_results(postgres_server.url(name)) as results:
        postgres_server.settle(name)  # none is held while a benchmark runs
        results.append([measured()])
        with psycopg.connect(host=str(postgres_server.folder), dbname=name, user="owner") as reader:
            assert reader.execute("SELECT count(*) FROM measurements").fetchone() == (1,)
