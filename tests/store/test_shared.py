"""A shared store: outputs are reused by other machines; damage, failures and missing permissions do no harm."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bpudeploy.cli.main import main
from bpudeploy.errors import ExitCode, StoreError, UsageError
from bpudeploy.events import Event, Note
from bpudeploy.planning.step import Plan, PlanBuilder
from bpudeploy.run.runner import run
from bpudeploy.stage import Kind
from bpudeploy.store.gc import verify
from bpudeploy.store.shared import fetch, open_shared, read, share, write
from bpudeploy.store.steps import find_record, record_path
from tests.run.toy import Change, Toy, stage, toy_plan
from tests.store.servers import BUCKET, Server, moto, read_only_account

ALL = [step.name for step in toy_plan().steps]


def silent(event: Event) -> None:
    """Ignore the event."""


def test_outputs_are_reused_by_another_machine(url: str, tmp_path: Path) -> None:
    shared = open_shared(url)
    first = run(toy_plan(), tmp_path / "a", silent, shared=shared)
    assert first.ran == ALL
    second = run(toy_plan(), tmp_path / "b", silent, shared=open_shared(url))
    assert second.ran == []
    assert [r.record for r in second.steps.values()] == [r.record for r in first.steps.values()]
    assert second.artifact("compile").path.read_bytes() == first.artifact("compile").path.read_bytes()
    assert second.artifact("compile").path.is_relative_to(tmp_path / "b") and verify(tmp_path / "b")[1] == []
    assert not list((tmp_path / "b" / "work").glob("*")), "no partial downloads are left"
    assert run(toy_plan(), tmp_path / "b", silent).ran == [], "the outputs are in the local store"
    changed = run(toy_plan(Change(count="65")), tmp_path / "c", silent, shared=shared)
    assert changed.ran == ["fetch/calibration", "quantize", "compile"]


@pytest.mark.parametrize("damage", [b"half", b"", None, "same size"])
def test_a_damaged_object_is_never_used_and_is_replaced(url: str, tmp_path: Path, damage: bytes | str | None) -> None:
    shared = open_shared(url)
    first = run(toy_plan(), tmp_path / "a", silent, shared=shared)
    digest = first.artifact("quantize").digest
    whole, path = first.artifact("quantize").path.read_bytes(), shared.path(Path("objects", digest[:2], digest[2:]))
    if damage is None:
        shared.files.rm_file(path)
    else:
        write(shared, path, damage if isinstance(damage, bytes) else whole[:-1] + b"?")
    second = run(toy_plan(), tmp_path / "b", silent, shared=shared)
    assert second.ran == ["quantize"] and second.artifact("quantize").digest == digest
    assert read(shared, path) == whole
    assert run(toy_plan(), tmp_path / "c", silent, shared=shared).ran == []


@pytest.mark.parametrize("damage", [None, b"", b"{", b'{"step": 1}', b"[]", b"\xff\xfe", b'"text"', b"null"])
def test_a_missing_or_invalid_record_is_a_miss_and_is_replaced(url: str, tmp_path: Path, damage: bytes | None) -> None:
    """A crash after the objects and before the record leaves no record."""
    shared = open_shared(url)
    key = run(toy_plan(), tmp_path / "a", silent, shared=shared).steps["compile"].record.key
    path = shared.path(record_path(Path(), key))
    if damage is None:
        shared.files.rm_file(path)
    else:
        write(shared, path, damage)
    assert run(toy_plan(), tmp_path / "b", silent, shared=shared).ran == ["compile"]
    assert run(toy_plan(), tmp_path / "c", silent, shared=shared).ran == []


def test_earlier_local_outputs_are_shared_on_use(url: str, tmp_path: Path) -> None:
    run(toy_plan(), tmp_path / "a", silent)
    assert run(toy_plan(), tmp_path / "a", silent, shared=open_shared(url)).ran == []
    assert run(toy_plan(), tmp_path / "b", silent, shared=open_shared(url)).ran == []


def random_plan() -> Plan:
    """A step whose bytes differ each time."""
    p = PlanBuilder("random")
    p.add(stage("r", (), Kind.MODEL, lambda text, inputs: text + os.urandom(8).hex()), "fetch/model", Toy("t"))
    return p.build()


def test_of_two_records_of_the_same_step_the_first_counts(
    url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shared = open_shared(url)
    (mine,) = run(random_plan(), tmp_path / "a", silent).steps.values()
    (other,) = run(random_plan(), tmp_path / "b", silent).steps.values()
    assert mine.record.key == other.record.key and mine.record.outputs != other.record.outputs
    assert share(shared, tmp_path / "a", mine.record) == mine.record
    kept = share(shared, tmp_path / "b", other.record)
    if "juicefs" in request.node.name:  # it ignores the condition: the last record counts
        assert kept == other.record == fetch(shared, tmp_path / "c", other.record.key)
        return
    assert kept == mine.record == find_record(tmp_path / "b", kept.key), "and its objects are in the local store"
    assert share(shared, tmp_path / "b", other.record, replace=True) == other.record, "unless replaced"
    assert fetch(shared, tmp_path / "c", other.record.key) == other.record


def test_a_forced_step_replaces_what_is_shared(url: str, tmp_path: Path) -> None:
    shared = open_shared(url)
    run(random_plan(), tmp_path / "a", silent, shared=shared)
    again = run(random_plan(), tmp_path / "b", silent, ["fetch"], shared=shared)
    assert again.ran == ["fetch/model"]
    third = run(random_plan(), tmp_path / "c", silent, shared=shared)
    assert third.ran == [] and third.artifact("fetch/model").digest == again.artifact("fetch/model").digest


def set_environment(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_outputs_survive_a_server_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto() as server:
        set_environment(monkeypatch, server.environment)
        shared = open_shared(f"s3://{BUCKET}/p")

        def leave(event: Event) -> None:
            if getattr(event, "step", "") == "restructure":
                server.process.kill()

        started = time.monotonic()
        with pytest.raises(StoreError, match="does not respond") as caught:
            run(toy_plan(), tmp_path, leave, shared=shared)
    assert caught.value.exit_code == ExitCode.STAGE and "--shared-store" in str(caught.value.hint)
    assert time.monotonic() - started < 60
    again = run(toy_plan(), tmp_path, silent)
    assert again.ran == ["quantize", "compile"] and verify(tmp_path)[1] == [], (
        "restructure ran and is in the local store"
    )


def test_an_unreachable_server_is_reported_before_anything_runs(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    set_environment(monkeypatch, nobody)
    assert main(["run", str(tiny), "--until", "fetch", "--shared-store", "s3://team/x"]) == 3
    assert "does not respond" in capsys.readouterr().err and not (tmp_path / "store").exists()


@pytest.mark.parametrize("wrong", [{"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "nobody"}])
def test_wrong_credentials_are_reported(
    juicefs_server: Server, monkeypatch: pytest.MonkeyPatch, wrong: Mapping[str, str]
) -> None:
    set_environment(monkeypatch, {**juicefs_server.environment, **wrong})
    with pytest.raises(StoreError, match="denies access") as caught:
        open_shared(f"s3://{BUCKET}/x")
    assert "credentials" in str(caught.value.hint)


def test_read_only_access_reads_shared_and_writes_local_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    with moto() as server:
        set_environment(monkeypatch, server.environment)
        run(toy_plan(), tmp_path / "a", silent, shared=open_shared(f"s3://{BUCKET}/x"))
        set_environment(monkeypatch, read_only_account(server))
        shared = open_shared(f"s3://{BUCKET}/x")
        found = run(toy_plan(Change(tool="2.0")), tmp_path / "b", events.append, shared=shared)
    assert found.ran == ["compile"]
    assert [e.text for e in events if isinstance(e, Note) and "on this machine only" in e.text]
    assert run(toy_plan(Change(tool="2.0")), tmp_path / "b", silent).ran == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere/at/all", "does not exist"),
        ("s3://no-such-bucket/x", "does not exist"),
        ("gopher://team/x", "gopher"),
        ("s3://", "s3://"),
    ],
)
def test_an_invalid_shared_store_is_reported(
    moto_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    set_environment(monkeypatch, moto_server.environment)
    with pytest.raises(UsageError, match=message):
        open_shared(url)
    assert not list(tmp_path.iterdir())


def test_shared_store_on_the_command_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "team").mkdir()
    argv: list[Any] = ["run", str(tiny), "--until", "fetch", "--json", "--store"]
    assert main([*argv, str(tmp_path / "a"), "--shared-store", str(tmp_path / "team")]) == 0
    monkeypatch.setenv("BPUDEPLOY_SHARED_STORE", str(tmp_path / "team"))
    assert main([*argv, str(tmp_path / "b")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert '"miss"' in first and '"miss"' not in second
