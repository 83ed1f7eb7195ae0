"""A jump host named by the caller, as in a fleet file; used if ~/.ssh/config has none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from bpudeploy.boards.address import Address
from bpudeploy.boards.connect import offered_key
from bpudeploy.boards.ssh import open_ssh
from bpudeploy.errors import BoardError
from tests.boards.sshd import Home, Server, keygen, needs_sshd, public, serve
from tests.boards.test_settings import RELAY

pytestmark = needs_sshd


@pytest.fixture
def gate(tmp_path: Path, home: Home) -> Iterator[Server]:
    with serve(tmp_path / "gate", home) as running:
        yield running


def said(address: str, jump: str | None) -> str:
    where, through = Address.parse(address), Address.parse(jump) if jump else None
    with open_ssh(where, name="rdk", python="python3", root=PurePosixPath("r"), jump=through) as board:
        return board.run(["sh", "-c", "echo $HOME"], timeout=10, step="test").stdout.strip()


def logins(server: Server) -> int:
    return (server.host_key.parent / "log").read_text().count("Accepted publickey")


def test_a_board_is_reached_through_the_jump_host(home: Home, gate: Server, server: Server) -> None:
    home.know(gate, server)
    assert said(server.address, gate.address) == str(server.board)
    assert logins(gate) == 1 and logins(server) == 1


def test_without_a_jump_host_the_connection_is_direct(home: Home, gate: Server, server: Server) -> None:
    home.know(gate, server)
    assert said(server.address, None) == str(server.board)
    assert logins(gate) == 0


def test_the_board_s_name_is_resolved_on_the_jump_host(home: Home, gate: Server, server: Server) -> None:
    home.know(gate, server)
    with pytest.raises(BoardError, match=r"board 'rdk', connect: cannot connect to 127\.0\.0\.1, port 1:"):
        said("127.0.0.1:1", gate.address)
    assert logins(gate) == 1


@pytest.mark.parametrize("way", ["ProxyJump other", "ProxyJump none", "ProxyCommand none", "ProxyCommand relay"])
def test_the_user_s_proxy_settings_take_precedence(
    home: Home, gate: Server, server: Server, tmp_path: Path, way: str
) -> None:
    (tmp_path / "relay.py").write_text(RELAY)
    with serve(tmp_path / "other", home) as other:
        home.know(server, other)  # the gate is not even known: it is not asked
        way = way.replace("relay", f"{sys.executable} {tmp_path}/relay.py %h %p")
        home.config(
            f"Host other\n  HostName 127.0.0.1\n  Port {other.port}\n"
            f"Host rdk\n  HostName 127.0.0.1\n  Port {server.port}\n  {way}\n"
        )
        assert said("rdk", gate.address) == str(server.board)
        assert logins(gate) == 0 and logins(other) == ("other" in way)


def test_the_config_applies_to_the_jump_host(home: Home, gate: Server, server: Server, tmp_path: Path) -> None:
    for name in ("id_ed25519", "id_ed25519.pub"):
        (home.ssh / name).rename(tmp_path / name.replace("id_ed25519", "elsewhere"))
    with serve(tmp_path / "outer", home, key=tmp_path / "elsewhere") as outer:
        home.know(gate, server, outer)
        home.config(
            f"Host outer\n  HostName 127.0.0.1\n  Port {outer.port}\n"
            f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n  ProxyJump outer\n"
            f"Host *\n  IdentityFile {tmp_path / 'elsewhere'}\n"
        )
        assert said(server.address, "gate") == str(server.board)
        assert logins(outer) == 1 and logins(gate) == 1


def test_an_unknown_jump_host_is_refused_and_named(home: Home, gate: Server, server: Server) -> None:
    home.know(server)
    with pytest.raises(BoardError, match=r"connect: jump host '127[^']*': its host key is unknown") as caught:
        said(server.address, gate.address)
    assert str(caught.value.hint).startswith(f"`bpudeploy boards trust {gate.address}`")
    assert logins(gate) == 0


def test_a_jump_host_whose_key_has_changed_is_refused(home: Home, gate: Server, server: Server, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other_key")
    lines = [f"{gate.name} {public(other)}", f"{server.name} {public(server.host_key)}"]
    (home.ssh / "known_hosts").write_text("\n".join(lines) + "\n")
    with pytest.raises(BoardError, match=r"jump host .* its host key has changed"):
        said(server.address, gate.address)
    assert logins(gate) == 0


def test_an_unknown_board_behind_it_is_refused_with_a_hint(home: Home, gate: Server, server: Server) -> None:
    home.know(gate)
    with pytest.raises(
        BoardError, match=r"board 'rdk', connect: its host key is unknown: the server offers ED25519 SHA256:"
    ) as caught:
        said(server.address, gate.address)
    hint = str(caught.value.hint)
    assert f"`ProxyJump {gate.address}`" in hint and f"`bpudeploy boards trust {server.address}`" in hint
    assert logins(server) == 0


def test_a_jump_host_that_rejects_the_key_is_named(home: Home, server: Server, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other_key")
    with serve(tmp_path / "gate", home, key=other) as gate:
        home.know(gate, server)
        with pytest.raises(BoardError, match=r"jump host .* rejected your keys"):
            said(server.address, gate.address)


def test_a_jump_host_that_leads_back_to_the_board_is_an_error_not_a_loop(home: Home) -> None:
    home.config("Host gate\n  ProxyJump rdk\n")
    with pytest.raises(BoardError, match="leads back to 'rdk'"):
        said("rdk", "gate")


def test_a_host_key_is_fetched_through_the_jump_host(home: Home, gate: Server, server: Server) -> None:
    home.know(gate)
    found, key = offered_key(Address.parse(server.address), name="rdk", jump=Address.parse(gate.address))
    assert key.export_public_key().decode().split()[:2] == public(server.host_key).split()
    assert found.jump_from_caller and found.jumps == (gate.address,) and logins(gate) == 1
