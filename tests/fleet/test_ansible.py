"""Ansible inventories, as the real ansible-inventory lists them, become fleets; secrets stay behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bpudeploy.boards.address import Address
from bpudeploy.errors import UsageError
from bpudeploy.fleet.ansible import Imported, from_ansible, read_ansible
from bpudeploy.fleet.ansible_ssh import read_ssh_arguments
from bpudeploy.fleet.inventory import load_fleet
from bpudeploy.spec.fleet import Fleet, FleetBoard
from bpudeploy.spec.validate import validate
from bpudeploy.spec.yamlmarks import load_yaml

RECORDED = Path(__file__).parent / "ansible"
"""PLACE.ini or .yaml is an inventory, PLACE.json what ansible-inventory of ansible-core 2.19.14 lists of it."""
SECRET = "hunter2"


def listing(hosts: dict[str, dict[str, object]], **groups: list[str]) -> str:
    made = {group: {"hosts": members} for group, members in groups.items()}
    top = {"children": ["ungrouped", *groups]}
    return json.dumps({"_meta": {"hostvars": hosts}, "all": top, "ungrouped": {"hosts": list(hosts)}, **made})


def loaded(tmp_path: Path, imported: Imported) -> Fleet:
    (tmp_path / "fleet.yaml").write_text(imported.text)
    return load_fleet(tmp_path / "fleet.yaml")


def board(variables: dict[str, object], host: str = "rdk-1", **groups: list[str]) -> FleetBoard:
    """Return the only board of an inventory."""
    imported = from_ansible(listing({host: variables}, **groups), target="rdk-x5")
    with tempfile.TemporaryDirectory() as folder:
        (found,) = loaded(Path(folder), imported).boards.values()
    return found


def test_a_recorded_ini_inventory_becomes_a_fleet(tmp_path: Path) -> None:
    text = (RECORDED / "plant.json").read_text()
    imported = from_ansible(text, target="rdk-x5")
    fleet = loaded(tmp_path, imported)
    assert {name: (b.address, b.target, b.jump) for name, b in fleet.boards.items()} == {
        "rdk-x5-01": ("sunrise@rdk-x5-01", "rdk-x5", None),
        "rdk-x5-02": ("sunrise@rdk-x5-02", "rdk-x5", None),
        "rdk-x5-03": ("sunrise@rdk-x5-03", "rdk-x5", None),
        "bench.lab.example": ("root@bench.lab.example:2222", "rdk-x5", None),
        "desk-x3": ("sunrise@192.168.1.30:22", "rdk-x3", None),
        "line-1": ("sunrise@10.20.0.11", "rdk-s100", "deploy@gate.plant.example:2200"),
        "line-2": ("sunrise@[fe80::12]", "rdk-s100", "deploy@gate.plant.example:2200"),
    }
    assert list(fleet.boards) == list(imported.boards), "in the order of the inventory's file"
    assert fleet.boards["line-1"].groups == ("boards", "plant")
    assert SECRET not in imported.text and SECRET not in str(imported.left_out)


def test_omissions_are_reported_and_written_at_the_top(tmp_path: Path) -> None:
    imported = from_ansible((RECORDED / "plant.json").read_text(), target="rdk-x5")
    said = "\n".join(imported.left_out)
    for part in (
        "win-1: not imported: its connection is winrm",
        "localhost: not imported: its connection is local",
        "line-1, line-2: ansible_become_password is ignored",
        "line-1, line-2: ansible_ssh_pass is ignored: secrets",
        "line-1, line-2: option stricthostkeychecking is ignored: bpudeploy always checks host keys",
        "rdk-x5-01, rdk-x5-02, rdk-x5-03 and 4 more: http_proxy_url is ignored",
        "desk-x3: rack is ignored: use bpudeploy_labels for labels",
    ):
        assert part in said
    head = imported.text.partition("boards:\n")[0].splitlines()
    assert all(line.startswith("#") or not line for line in head)
    assert all(f"#   {line}" in head for line in imported.left_out)


def test_a_recorded_yaml_inventory_becomes_a_fleet(tmp_path: Path) -> None:
    imported = from_ansible((RECORDED / "lab.json").read_text())
    boards = loaded(tmp_path, imported).boards
    assert {name: (b.address, b.jump) for name, b in boards.items()} == {
        "10.0.0.5": ("sunrise@10.0.0.5", None),
        "yes": ("sunrise@board-yes", None),
        "vaulted": ("sunrise@10.0.0.9", None),
        "proxied": ("sunrise@proxied", "me@gate:2200"),
        "jumped": ("sunrise@jumped", "gate"),
        "far": ("sunrise@far", None),
        "sshpassed": ("sunrise@sshpassed", None),
    }
    assert boards["10.0.0.5"].labels == {"floor": "3", "rack": "B-7-2", "spare": "true"}
    assert boards["10.0.0.5"].board_id == "0012" and boards["far"].groups == ("lab_boards", "old_bench")
    assert SECRET not in imported.text and "ANSIBLE_VAULT" not in imported.text
    said = "\n".join(imported.left_out)
    for part in (
        "10.0.0.5: label wifi_psk is ignored",
        "10.0.0.5: ansible_ssh_private_key_file is ignored: use IdentityFile in ~/.ssh/config",
        "templated: not imported: ansible_host is a template",
        "vaulted: ansible_password is ignored",
        "far: its ProxyJump is not one",
        "sshpassed: its ProxyCommand is not supported",
    ):
        assert part in said


@pytest.mark.skipif(shutil.which("ansible-inventory") is None, reason="Ansible is not installed")
@pytest.mark.parametrize("inventory", ["plant.ini", "lab.yaml"])
def test_the_real_tool_lists_what_was_recorded(inventory: str) -> None:
    file = RECORDED / inventory
    listed, recorded = (json.loads(read_ansible(one)) for one in (file, file.with_suffix(".json")))
    assert listed == recorded
    assert from_ansible(json.dumps(listed), target="rdk-x5") == from_ansible(json.dumps(recorded), target="rdk-x5")


@pytest.mark.skipif(shutil.which("ansible-inventory") is None, reason="Ansible is not installed")
def test_what_the_real_tool_cannot_read_is_an_error_that_quotes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(f"all:\n  hosts:\n    a: {{ansible_password: {SECRET}\n")
    with pytest.raises(UsageError, match="ansible-inventory cannot read") as caught:
        read_ansible(tmp_path / "bad.yaml")
    assert SECRET not in str(caught.value) and "--list` shows the error" in str(caught.value.hint)


def test_without_ansible_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="ansible-inventory is not on PATH") as caught:
        read_ansible(RECORDED / "plant.ini")
    assert "--list > fleet.json`" in str(caught.value.hint)
    with pytest.raises(UsageError, match="does not exist"):
        read_ansible(tmp_path / "none.ini")


def test_a_tool_that_fails_is_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "ansible-inventory"
    tool.write_text(f"#!{sys.executable}\nimport os, sys\nprint('{SECRET}', file=sys.stderr)\nsys.exit(4)\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        read_ansible(RECORDED / "plant.ini")
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"
    assert subprocess.run([tool], capture_output=True).returncode == 4


# --- targets


def test_the_variable_of_a_host_counts_more_than_the_default() -> None:
    imported = from_ansible(listing({"a": {"bpudeploy_target": "rdk-s100"}, "b": {}}), target="rdk-x5")
    lines = [line.strip() for line in imported.text.splitlines() if "target:" in line]
    assert lines == ["target: rdk-s100", "target: rdk-x5"]


def test_a_host_without_a_target_is_an_error() -> None:
    with pytest.raises(UsageError, match="no target for a, b") as caught:
        from_ansible(listing({"a": {}, "b": {}}))
    assert "bpudeploy_target" in str(caught.value.hint)


# --- names, labels and addresses


def test_invalid_names_are_converted_and_reported() -> None:
    hosts: dict[str, dict[str, object]] = {
        "büro 1": {"ansible_host": "h1"},
        "b-ro-1": {"ansible_host": "h2"},
        "ü": {"ansible_host": "h3"},
    }
    imported = from_ansible(listing(hosts, **{"my group": ["ü"], "µ": ["ü"]}), target="rdk-x5")
    assert imported.boards == ("b-ro-1", "b-ro-1-2", "board")
    assert "groups:\n    - my-group\n" in imported.text
    assert set(imported.left_out) == {
        "büro 1: renamed to b-ro-1",
        "b-ro-1: renamed to b-ro-1-2",
        "ü: renamed to board",
        "group my group is renamed to my-group",
        "group µ is dropped",
    }


def test_a_name_cannot_break_out_of_its_line(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, object]] = {"a\nboards: {}\n": {"ansible_host": "h", "x\ny: ": 1}}
    imported = from_ansible(listing(hosts), target="rdk-x5")
    assert list(loaded(tmp_path, imported).boards) == ["a-boards"]


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, "rdk-1"),
        ({"ansible_port": 22}, "rdk-1:22"),
        ({"ansible_port": "2222", "ansible_user": "sunrise"}, "sunrise@rdk-1:2222"),
        ({"ansible_host": "10.0.0.1", "ansible_connection": "ansible.builtin.ssh"}, "10.0.0.1"),
        ({"ansible_host": "fe80::1", "ansible_port": 22}, "[fe80::1]:22"),
        ({"ansible_host": "[fe80::1]"}, "[fe80::1]"),
        ({"ansible_ssh_host": "old", "ansible_ssh_port": 1, "ansible_ssh_user": "me"}, "me@old:1"),
    ],
)
def test_where_a_board_is(variables: dict[str, object], address: str) -> None:
    assert board(variables).address == address


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"ansible_connection": "docker"}, "its connection is docker"),
        ({"ansible_user": "{{ me }}"}, "ansible_user is a template"),
        ({"ansible_host": "{% if x %}a{% endif %}"}, "ansible_host is a template"),
        ({"ansible_host": {"__ansible_vault": SECRET}}, "ansible_host is encrypted"),
        ({"ansible_host": [SECRET]}, "ansible_host is not text"),
        ({"ansible_port": "many"}, "are not an address: it is not [USER@]HOST[:PORT]"),
        ({"ansible_host": f"me:{SECRET}@h"}, "are not an address: it contains a password"),
    ],
)
def test_a_host_that_cannot_be_a_board_is_left_out(variables: dict[str, object], why: str) -> None:
    imported = from_ansible(listing({"a": {}, "b": variables}), target="rdk-x5")
    assert imported.boards == ("a",) and SECRET not in str(imported)
    assert why in imported.left_out[0] and imported.left_out[0].startswith("b: not imported: ")
    with pytest.raises(UsageError, match="the inventory has no boards; b: not imported") as caught:
        from_ansible(listing({"b": variables}))
    assert SECRET not in str(caught.value)


def test_labels_are_those_that_were_asked_for() -> None:
    labels = {"os": "Ubuntu 22.04", "name": "x", "deep": {"a": 1}, "api_token": SECRET, "on": True}
    made = board({"bpudeploy_labels": {**labels, "rack": 7}, "rack": 8, "serial": "s"})
    assert made.labels == {"os": "Ubuntu-22.04", "on": "true", "rack": "7"}
    url = from_ansible(listing({"a": {"bpudeploy_labels": {"rack": f"http://me:{SECRET}@h"}}}), target="x")
    assert SECRET not in str(url) and "label rack is ignored" in url.left_out[0]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"_meta": []}', '{"_meta": {"hostvars": 3}}', '{"all": {"hosts": {"a": null}}}']
)
def test_what_is_not_such_a_listing_is_an_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_ansible(text)
    assert "--list" in str(caught.value.message) + str(caught.value.hint)


# --- ways


@pytest.mark.parametrize(
    ("args", "jump", "left_out"),
    [
        ("", None, ""),
        ("-J gate", "gate", ""),
        ("-Jme@gate:22", "me@gate:22", ""),
        ("-J ssh://me@gate:22", "me@gate:22", ""),
        ("-o ProxyJump=gate", "gate", ""),
        ("-oProxyJump=gate", "gate", ""),
        ("-o 'ProxyJump gate'", "gate", ""),
        ("-o 'proxyjump = gate'", "gate", ""),
        ("-o ProxyJump=none -J gate", None, ""),
        ("-J one -J two", "one", ""),
        ("-J one,two", None, "ProxyJump is not one"),
        ("-qJ gate", "gate", ""),
        ("-C -J gate", "gate", "option -C"),
        ("-o ControlMaster=auto -o ControlPersist=60s -J gate", "gate", ""),
        ("-o StrictHostKeyChecking=no", None, "bpudeploy always checks host keys"),
        ("-o ProxyCommand='ssh -W %h:%p gate'", "gate", ""),
        ("-o ProxyCommand='/usr/bin/ssh -q -p 2200 -l me -W [%h]:%p gate'", "me@gate:2200", ""),
        ("-o ProxyCommand='ssh -i k -W %h:%p gate'", None, "its ProxyCommand is not supported"),
        ("-o ProxyCommand='ssh gate nc %h %p'", None, "its ProxyCommand is not supported"),
        ("-o ProxyCommand='ssh -W other:22 gate'", None, "its ProxyCommand is not supported"),
        (f"-o ProxyCommand='sshpass -p {SECRET} ssh -W %h:%p gate'", None, "its ProxyCommand is not supported"),
        ('-o ProxyCommand="ssh -W %h:%p \'gate"', None, "its ProxyCommand is not supported"),
        (f"-i {SECRET} -o Foo={SECRET} {SECRET}", None, "option -i"),
        ("-J 'gate", None, "cannot be parsed"),
        ("-J", None, "ProxyJump is not one"),
        ("-o", None, "a word"),
    ],
)
def test_the_jump_host_of_ssh_arguments(args: str, jump: str | None, left_out: str) -> None:
    arguments = read_ssh_arguments(args)
    assert arguments.jump == jump and left_out in str(arguments.left_out) and (left_out != "" or not arguments.left_out)
    assert SECRET not in str(arguments.left_out)


# --- laws

anything = st.recursive(
    st.none() | st.booleans() | st.integers(0, 70000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
read = ("ansible_host", "ansible_port", "ansible_user", "ansible_connection", "ansible_ssh_common_args")
ours = ("bpudeploy_labels", "bpudeploy_board_id", "rack", "other")
variables = st.dictionaries(st.sampled_from((*read, *ours)), anything, max_size=4)


@given(st.dictionaries(st.text(max_size=6), variables, max_size=4), st.dictionaries(st.text(max_size=4), anything))
@example(hosts={"0": {"bpudeploy_board_id": "\U00010000 \\ud83d \ud83d"}}, groups={})
def test_any_inventory_becomes_a_file_that_loads_or_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, hosts: dict[str, dict[str, object]], groups: dict[str, object]
) -> None:
    text = json.dumps({"ungrouped": {"hosts": list(hosts)}, **groups, "_meta": {"hostvars": hosts}})
    try:
        imported = from_ansible(text, target="rdk-x5")
    except UsageError as error:
        assert error.hint
        return
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(imported.text, encoding="utf-8")
    assert tuple(validate(Fleet, load_yaml(file)).boards) == imported.boards
    assert from_ansible(text, target="rdk-x5") == imported


parts = st.sampled_from(
    ["-o", "-J", "-oProxyJump", "ProxyCommand=", "ssh", "-W", "%h:%p", "a@b:1", "'", '"', "=", " ", "\\"]
)


@given(st.lists(parts | st.text(max_size=3)).map("".join))
def test_any_ssh_arguments_are_read(args: str) -> None:
    arguments = read_ssh_arguments(args)
    assert arguments.jump is None or str(Address.parse(arguments.jump)) == arguments.jump
