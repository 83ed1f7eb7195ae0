"""Fleet files: a good one as values, wrong ones by place, field and fix, and never a secret repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy.errors import SpecError
from bpudeploy.fleet.inventory import holds_password, is_secret, load_fleet, targets_of
from bpudeploy.spec.fleet import Fleet, OnFailure, Reserved, RolloutSpec
from bpudeploy.spec.schema import fleet_schema

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fleet" / "fleet.yaml"
GOOD = """\
boards:
  rdk-1: {address: sunrise@rdk-1, target: rdk-x5, groups: [canary], labels: {rack: a}}
  rdk-2: {address: "sunrise@rdk-2:2222", target: rdk-x3, jump: gate, board_id: "12"}
rollout:
  waves:
    - {select: group=canary, approve: true}
    - {percent: 50}
  max_unavailable: 1
  windows: ["mon-fri 20:00-06:00 Europe/Berlin"]
"""


def load(tmp_path: Path, text: str) -> Fleet:
    (tmp_path / "fleet.yaml").write_text(text)
    return load_fleet(tmp_path / "fleet.yaml")


def refused(tmp_path: Path, text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text)
    return caught.value


def test_a_fleet_is_read_as_it_is_written(tmp_path: Path) -> None:
    fleet = load(tmp_path, GOOD)
    assert list(fleet.boards) == ["rdk-1", "rdk-2"]
    first, second = fleet.boards.values()
    assert (first.address, first.target, first.groups, first.labels) == (
        "sunrise@rdk-1",
        "rdk-x5",
        ("canary",),
        {"rack": "a"},
    )
    assert (second.jump, second.board_id, second.groups) == ("gate", "12", ())
    assert [(w.select, w.percent, w.approve) for w in fleet.rollout.waves] == [
        ("group=canary", None, True),
        (None, 50.0, False),
    ]
    assert fleet.rollout.max_unavailable == 1 and fleet.rollout.gates.self_check
    assert {name: target.march for name, target in targets_of(fleet, tmp_path).items()} == {
        "rdk-x5": "bayes-e",
        "rdk-x3": "bernoulli2",
    }


def test_a_fleet_needs_no_policy(tmp_path: Path) -> None:
    assert load(tmp_path, "boards: {b: {address: h, target: rdk-x5}}").rollout == RolloutSpec()


def test_a_fleet_s_own_targets_stand_in_targets_beside_it(tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()
    text = "name: mine\ndescription: mine\nmarch: cpu\nbackend: ort\n"
    (tmp_path / "targets" / "mine.yaml").write_text(text)
    fleet = load(tmp_path, "boards: {b: {address: h, target: mine}}")
    assert targets_of(fleet, tmp_path)["mine"].march == "cpu"


def test_the_example_is_a_fleet_of_three_kinds() -> None:
    fleet = load_fleet(EXAMPLE)
    assert {board.target for board in fleet.boards.values()} == {"rdk-x3", "rdk-x5", "rdk-s100"}
    assert len(fleet.boards) == 6 and len(fleet.rollout.waves) == 2
    assert fleet.rollout.on_failure is OnFailure.ROLLBACK_WAVE and fleet.rollout.reserved is Reserved.WAIT


WRONG = [  # what is replaced, by what; the line and field of the error; its message, and what its hint says
    ("target: rdk-x5,", "target: rdk-x5, lables: {a: b},", 2, "boards.rdk-1.lables", "unknown key", "mean labels?"),
    ("target: rdk-x5,", "target: rdk-x5, groupz: [],", 2, "boards.rdk-1.groupz", "unknown key", "mean groups?"),
    ("target: rdk-x5,", "target: rdk-x5, zzz: 1,", 2, "boards.rdk-1.zzz", "unknown key", "keys here: address, target"),
    ("{percent: 50}", "{precent: 50}", 7, "rollout.waves[1].precent", "unknown key", "mean percent?"),
    ("max_unavailable: 1", "max_unavailible: 1", 8, "rollout.max_unavailible", "unknown key", "mean max_unavailable?"),
    ("rollout:", "rolout:", 4, "rolout", "unknown key", "mean rollout?"),
    ("address: sunrise@rdk-1,", "", 2, "boards.rdk-1.address", "is missing", "add `address:`"),
    (
        "sunrise@rdk-1,",
        "sunrise@,",
        2,
        "boards.rdk-1.address",
        "'sunrise@' is not a board address",
        "[USER@]HOST[:PORT]",
    ),
    ('"sunrise@rdk-2:2222"', '"rdk-2:99999"', 3, "boards.rdk-2.address", "is not a board address", "write"),
    ("jump: gate", "jump: gate one", 3, "boards.rdk-2.jump", "jump: 'gate one' is not a board address", "write"),
    ("jump: gate", "jump: 'rdk-2:2222'", 3, "boards.rdk-2.jump", "the jump host of rdk-2 is rdk-2", "remove"),
    ("jump: gate, board_id", "board_id", None, "", "", ""),
    ("rdk-x5", "rdk-x55", 2, "boards.rdk-1.target", "no target is named 'rdk-x55'", "mean rdk-x5?"),
    ("rdk-x5", "local", 2, "boards.rdk-1.target", "local is a simulated board", "cpu-ssh, rdk-s100"),
    ("rdk-x5", "sim-x5", 2, "boards.rdk-1.target", "sim-x5 is a simulated board", "rdk-x5"),
    ("rdk-x5", "my/x5.yaml", 2, "boards.rdk-1.target", "refers to targets by name", "targets/ beside"),
    ("{rack: a}", "{rack: a b}", 2, "boards.rdk-1.labels.rack", "found the text 'a b'", "correct"),
    ("{rack: a}", "{rack: 7}", 2, "boards.rdk-1.labels.rack", "expected text, found the number 7", "write text"),
    ("{rack: a}", "{a b: c}", 2, "boards.rdk-1.labels.a b", "'a b' is not a valid label name", "letters, digits"),
    ("{rack: a}", "{chip: x5}", 2, "boards.rdk-1.labels.chip", "a label cannot be named 'chip'", "selector keys"),
    ("  rdk-2:", "  rdk 2:", 3, "boards.rdk 2", "'rdk 2' is not a valid board name", "letters, digits"),
    ("{percent: 50}", "{}", 7, "rollout.waves[1]", "wave 2 does not select boards", "one of select, count"),
    ("{percent: 50}", "{percent: 5, count: 1}", 7, "rollout.waves[1]", "wave 2 has count and percent", "one of"),
    ("{percent: 50}", "{percent: 101}", 7, "rollout.waves[1].percent", "less than or equal to 100", "correct"),
    ("{percent: 50}", "{count: 0}", 7, "rollout.waves[1].count", "greater than or equal to 1", "correct"),
    (
        "{percent: 50}",
        "{percent: 60.5}\n    - {percent: 40}",
        8,
        "rollout.waves[2].percent",
        "add up to 100.5 %",
        "at most 100",
    ),
    (
        "group=canary",
        "group=canry",
        6,
        "rollout.waves[0].select",
        "no board of this fleet matches group=canry",
        "canary?",
    ),
    ("group=canary", "group", 6, "rollout.waves[0].select", "'group' in the selector", "KEY=VALUE"),
    ("group=canary", "rak=a", 6, "rollout.waves[0].select", "'rak' in the selector 'rak=a' is neither", "mean rack?"),
    ("group=canary", '"group=canary,name=rdk-2"', 6, "rollout.waves[0].select", "matches all of", "remove the wave"),
    ("max_unavailable: 1", "max_unavailable: 0", 8, "rollout.max_unavailable", "or a percentage", "correct"),
    ("max_unavailable: 1", "max_unavailable: 10", None, "", "", ""),
    ("max_unavailable: 1", "max_unavailable: 100%", None, "", "", ""),
    ("max_unavailable: 1", "max_unavailable: ten", 8, "rollout.max_unavailable", "such as 10%, found the text", ""),
    ("max_unavailable: 1", "max_unavailable: true", 8, "rollout.max_unavailable", "found true", ""),
    ("max_unavailable: 1", "on_failure: rolback_all", 8, "rollout.on_failure", "expected", "mean rollback_all?"),
    ("max_unavailable: 1", "gates: {selfcheck: true}", 8, "rollout.gates.selfcheck", "unknown", "mean self_check?"),
    ("Europe/Berlin", "Europe/Berln", 9, "rollout.windows[0]", "'Europe/Berln' in the window", "mean Europe/Berlin?"),
    ("mon-fri", "mon-fry", 9, "rollout.windows[0]", "'fry' in the window", "mean fri?"),
]


@pytest.mark.parametrize(("old", "new", "line", "field", "message", "hint"), WRONG, ids=[w[1] for w in WRONG])
def test_what_is_wrong_is_shown_by_its_place(
    tmp_path: Path, old: str, new: str, line: int | None, field: str, message: str, hint: str
) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if line is None:
        load(tmp_path, text)
        return
    error = refused(tmp_path, text)
    assert message in error.message and hint in str(error.hint)
    assert error.field == field and error.where is not None and error.where.line == line
    assert error.where.file == str(tmp_path / "fleet.yaml") and not error.others


def test_all_errors_come_at_once_in_their_order(tmp_path: Path) -> None:
    error = refused(tmp_path, GOOD.replace("sunrise@rdk-1", "a b").replace("rdk-x3", "x3").replace("mon-fri", "moon"))
    lines = [e.where.line for e in (error, *error.others) if e.where]
    assert lines == [2, 3, 9]


@pytest.mark.parametrize("boards", ["{}", "", "[a]", "{b: }", "{b: [x]}", "{b: x}"])
def test_boards_are_a_map_with_something_in_it(tmp_path: Path, boards: str) -> None:
    error = refused(tmp_path, f"boards: {boards}\n")
    assert error.where is not None and str(error.field).startswith("boards")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sunrise@rdk-1", "root@RDK-1:22"),
        ("10.0.0.1:2222", "sunrise@10.0.0.1:2222"),
        ("'[fe80::1]'", "'[FE80:0::1]'"),
        ("a, jump: gate", "a, jump: 'me@gate:22'"),
    ],
)
def test_two_boards_of_one_address_are_an_error_that_names_both_lines(tmp_path: Path, one: str, other: str) -> None:
    text = f"boards:\n  x: {{target: rdk-x5, address: {one}}}\n\n  y: {{target: rdk-x5, address: {other}}}\n"
    error = refused(tmp_path, text)
    assert error.message == "y has the same address as x (line 2)" and error.where is not None and error.where.line == 4


def test_one_private_address_behind_two_jump_hosts_is_two_boards(tmp_path: Path) -> None:
    text = "boards:\n  x: {target: rdk-x5, address: a, jump: g1}\n  y: {target: rdk-x5, address: a, jump: g2}\n"
    assert len(load(tmp_path, text).boards) == 2


def test_two_boards_of_one_serial_number_are_an_error_that_names_both_lines(tmp_path: Path) -> None:
    text = "boards:\n  x: {target: rdk-x5, address: a, board_id: q}\n  y: {target: rdk-x5, address: b, board_id: q}\n"
    error = refused(tmp_path, text)
    assert (
        error.message == "y has the same board_id as x (line 2)" and error.where is not None and error.where.line == 3
    )


HIDDEN = "hunter2-c0ffee"


@pytest.mark.parametrize(
    "board",
    [
        f"password: {HIDDEN}",
        f"ssh_key: {HIDDEN}",
        f"apiToken: {HIDDEN}",
        f"become_pass: {HIDDEN}",
        f"labels: {{rack: a, wifi_psk: {HIDDEN}}}",
        f"vars: {{deep: [{{Passphrase: {HIDDEN}}}]}}",
        f"credentials: [{HIDDEN}]",
        f"labels: {{note: '-----BEGIN OPENSSH PRIVATE KEY----- {HIDDEN}'}}",
        f"jump: 'me:{HIDDEN}@gate'",
    ],
)
def test_a_secret_is_refused_and_never_repeated(tmp_path: Path, board: str) -> None:
    error = refused(tmp_path, f"boards:\n  b:\n    address: h\n    target: rdk-x5\n    {board}\n")
    assert "no secrets" in str(error.hint) and "~/.ssh/config" in str(error.hint)
    assert error.where is not None and error.where.line == 5
    seen = [str(part) for one in (error, *error.others) for part in (one.message, one.hint, one.field)]
    assert not any("hunter2" in part for part in seen)


def test_a_password_in_an_address_is_refused_and_never_repeated(tmp_path: Path) -> None:
    error = refused(tmp_path, f"boards: {{b: {{address: 'sunrise:{HIDDEN}@h', target: rdk-x5}}}}\n")
    assert error.message == "boards.b.address contains a password" and not error.others


def test_a_board_may_be_named_key_and_a_label_monkey(tmp_path: Path) -> None:
    text = "boards: {key: {address: h, target: rdk-x5, groups: [token], labels: {monkey: key, keyboard: de}}}"
    assert load(tmp_path, text).boards["key"].labels["monkey"] == "key"


@given(
    st.sampled_from(["password", "passwd", "token", "secret", "private_key", "apikey"]), st.text("abcXYZ", max_size=5)
)
def test_the_name_of_a_secret_is_recognized_within_longer_names(name: str, around: str) -> None:
    words = [f"{around}_{name}", f"{around}.{name}-x", name.upper(), f"my{name.capitalize()}"]
    assert all(is_secret(word) for word in words)
    assert holds_password(f"{around}:{name}@host") and not holds_password(f"{around}@host:22")


# --- the schema for editors


def schema_takes(text: str) -> bool:
    value: Any = yaml.safe_load(text)
    return jsonschema.Draft202012Validator(fleet_schema()).is_valid(value)


def test_the_schema_takes_what_the_loader_takes() -> None:
    jsonschema.Draft202012Validator.check_schema(fleet_schema())
    assert schema_takes(GOOD) and schema_takes(EXAMPLE.read_text())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("target: rdk-x5,", "target: rdk-x5, zzz: 1,"),
        ("{percent: 50}", "{percent: 5, count: 1}"),
        ("{percent: 50}", "{}"),
        ("max_unavailable: 1", "max_unavailable: 0"),
        ("max_unavailable: 1", "max_unavailable: 101%"),
        ("  rdk-2:", "  rdk 2:"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(old: str, new: str) -> None:
    assert not schema_takes(GOOD.replace(old, new, 1))


def test_the_schema_describes_the_fields() -> None:
    schema = fleet_schema()
    assert schema["$defs"]["FleetBoard"]["properties"]["jump"]["description"].startswith("Jump host")
    assert schema["$defs"]["RolloutSpec"]["properties"]["max_failures"]["description"]
