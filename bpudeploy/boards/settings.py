"""What ~/.ssh/config says about an address, in the form that asyncssh takes. Host keys are always checked."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.boards import known_hosts
from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.ciphers import preferred

if TYPE_CHECKING:
    import asyncssh

CONNECT_TIMEOUT_S = 15.0
_KEEPALIVE_S = 15.0
_USER_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_SYSTEM_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_OURS: dict[str, Any] = {
    "password_auth": False,  # no password is asked for, so none can be kept
    "kbdint_auth": False,
    "agent_forwarding": False,
    "x11_forwarding": False,
    "command": None,  # RemoteCommand and RequestTTY are for people at a prompt
    "request_pty": False,
    "ignore_encrypted": True,  # a key with a passphrase is the agent's to hold
}


@dataclass(frozen=True)
class Settings:
    """An address, resolved."""

    host: str
    port: int
    user: str
    name: str
    """Under which known_hosts has the server."""
    files: tuple[Path, ...]
    """Where host keys are looked up; the user's first."""
    pins: Path | None
    """Where a key may be pinned; None where the settings keep no such file."""
    jumps: tuple[str, ...]
    told: bool
    """The jump host is the one that the caller named: ~/.ssh/config says nothing about the way there."""
    timeout_s: float
    options: dict[str, Any]


def settings(address: Address, identity: Identity | None = None, jump: Address | None = None) -> Settings:
    """Resolve an address with the user's ~/.ssh/config, keys, agent and known_hosts; or with ``identity`` alone.

    Args:
        jump: a jump host, where the config has no ProxyJump and no ProxyCommand for the address; ``none`` is one.

    Raises:
        ValueError: the config is wrong, with its file and line (asyncssh.ConfigParseError), or a key file is.
        OSError: a file is there and cannot be read.
    """
    import asyncssh

    given: dict[str, Any] = {"host": address.host}
    given |= {"username": address.user} if address.user is not None else {}
    given |= {"port": address.port} if address.port is not None else {}
    given |= {"config": () if identity is None else None}  # (): the user's; the class alone takes none
    only_read: dict[str, Any] = {**given, "client_keys": None, "known_hosts": None}
    read = asyncssh.SSHClientConnectionOptions(**only_read)
    if read.config.has_match_final():
        read = asyncssh.SSHClientConnectionOptions(**only_read, final=True)
    alias = read.host_key_alias
    name = alias.lower() if alias else known_hosts.name_of(read.host, read.port)
    user_files = _files(read, address, "UserKnownHostsFile", _USER_FILES)
    files = (*user_files, *_files(read, address, "GlobalKnownHostsFile", _SYSTEM_FILES)) if identity is None else ()
    pins = next((file for file in user_files if file != Path(os.devnull)), None)
    timeout = float(_of(read, "ConnectTimeout") or CONNECT_TIMEOUT_S)
    options = (
        given
        | _OURS
        | {"connect_timeout": timeout, "login_timeout": timeout}
        | {"keepalive_interval": float(_of(read, "ServerAliveInterval") or _KEEPALIVE_S)}
    )
    if not _of(read, "Ciphers") and (first := preferred()):
        options |= {"encryption_algs": first}
    if identity is not None:
        known = asyncssh.import_known_hosts(f"{address.host} {identity.host_key}\n")
        options |= {"known_hosts": known, "client_keys": [str(identity.client_key)], "agent_path": None}
    else:
        trusted = known_hosts.trusted(files, alias or read.host, None if alias else read.port)
        options |= {"known_hosts": trusted}
        host_keys, authorities, _ = trusted
        if host_keys and not authorities and _of(read, "HostKeyAlgorithms") is None:
            # asyncssh would ask for the known kinds alone, and a server that has none hangs up without a word
            options |= {"server_host_key_algs": known_hosts.algorithms(host_keys)}
        options |= {"client_keys": keys} if (keys := _identity_files(read)) else {}
    jumps = tuple(one.strip().removeprefix("ssh://") for one in str(read.tunnel or "").split(",") if one.strip())
    told = jump is not None and not any(
        read.config.get(way, False) is not False for way in ("ProxyJump", "ProxyCommand")
    )
    jumps = (str(jump),) if told else jumps
    return Settings(read.host, read.port, read.username, name, files, pins, jumps, told, timeout, options)


def _of(read: asyncssh.SSHClientConnectionOptions, option: str) -> Any:
    return read.config.get(option)


def _identity_files(read: asyncssh.SSHClientConnectionOptions) -> list[str]:
    """Return the key files that exist: asyncssh fails on one that does not, OpenSSH passes it over."""
    return [one for one in _of(read, "IdentityFile") or () if Path(one).expanduser().exists()]


def _files(
    read: asyncssh.SSHClientConnectionOptions, address: Address, option: str, default: Sequence[str]
) -> tuple[Path, ...]:
    """Return the files that an option names, its tokens filled in, which asyncssh leaves as they are."""
    named = _of(read, option)
    tokens = {
        "%": "%",
        "d": str(Path.home()),
        "h": read.host,
        "i": str(os.getuid()),
        "k": read.host_key_alias or address.host,
        "n": address.host,
        "p": str(read.port),
        "r": read.username,
        "u": getpass.getuser(),
    }

    def filled(found: re.Match[str]) -> str:
        if found[1] not in tokens:
            raise ValueError(f"{option} has %{found[1]}, which is not supported")
        return tokens[found[1]]

    return tuple(Path(re.sub("%(.)", filled, one)).expanduser() for one in (default if named is None else named))
