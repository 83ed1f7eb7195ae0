"""Resolve an address with ~/.ssh/config into asyncssh options. Host keys are always verified."""

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
from bpudeploy.boards.known_hosts import Entry, Marker

if TYPE_CHECKING:
    import asyncssh

CONNECT_TIMEOUT_S = 15.0
_KEEPALIVE_S = 15.0
_USER_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_SYSTEM_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_AES_GCM_FIRST = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
_FIXED_OPTIONS: dict[str, Any] = {
    "password_auth": False,
    "kbdint_auth": False,
    "agent_forwarding": False,
    "x11_forwarding": False,
    "command": None,  # RemoteCommand and RequestTTY are meant for interactive use
    "request_pty": False,
    "ignore_encrypted": True,  # keys with a passphrase are left to the SSH agent
}


@dataclass(frozen=True)
class Settings:
    """A resolved address."""

    host: str
    port: int
    user: str
    known_hosts_name: str
    files: tuple[Path, ...]
    """known_hosts files, the user's first."""
    pin_file: Path | None
    """The known_hosts file to write to; None if the settings have none."""
    jumps: tuple[str, ...]
    jump_from_caller: bool
    """The jump host is the caller's; ~/.ssh/config has no ProxyJump or ProxyCommand for this address."""
    timeout_s: float
    entries: list[Entry]
    """The lines of ``files`` for ``known_hosts_name``."""
    options: dict[str, Any]
    """Options for ``asyncssh.connect``."""

    @property
    def known(self) -> list[Entry]:
        """The entries that pin a host key."""
        return [entry for entry in self.entries if entry.marker is Marker.HOST]


def resolve(address: Address, identity: Identity | None = None, jump: Address | None = None) -> Settings:
    """Resolve an address with the user's ~/.ssh/config, keys, agent and known_hosts, or with ``identity`` alone.

    Args:
        jump: jump host if the config has no ProxyJump and no ProxyCommand for the address; ``ProxyJump none`` counts.

    Raises:
        ValueError: the config is invalid (asyncssh.ConfigParseError names file and line), or a key file is.
        OSError: a file exists but cannot be read.
    """
    import asyncssh

    given: dict[str, Any] = {"host": address.host}
    given |= {"username": address.user} if address.user is not None else {}
    given |= {"port": address.port} if address.port is not None else {}
    given |= {"config": () if identity is None else None}  # (): ~/.ssh/config; None: no config file
    config_only: dict[str, Any] = {**given, "client_keys": None, "known_hosts": None}
    read = asyncssh.SSHClientConnectionOptions(**config_only)
    if read.config.has_match_final():
        read = asyncssh.SSHClientConnectionOptions(**config_only, final=True)
    config: Any = read.config
    alias = read.host_key_alias
    name = alias.lower() if alias else known_hosts.name_of(read.host, read.port)
    user_files = _files(read, address, "UserKnownHostsFile", _USER_FILES)
    files = (*user_files, *_files(read, address, "GlobalKnownHostsFile", _SYSTEM_FILES)) if identity is None else ()
    entries = known_hosts.entries(files, name)
    pin_file = next((file for file in user_files if file != Path(os.devnull)), None)
    timeout = float(config.get("ConnectTimeout") or CONNECT_TIMEOUT_S)
    options = (
        given
        | _FIXED_OPTIONS
        | {"connect_timeout": timeout, "login_timeout": timeout}
        | {"keepalive_interval": float(config.get("ServerAliveInterval") or _KEEPALIVE_S)}
    )
    if not config.get("Ciphers") and _cpu_has_aes():
        # asyncssh prefers ChaCha20, which is slower and limits the transfer rate of a fast link. The board's CPU is
        # not checked: the SoCs of all known boards have the ARMv8 AES instructions.
        options |= {"encryption_algs": _AES_GCM_FIRST}
    if identity is not None:
        known = asyncssh.import_known_hosts(f"{address.host} {identity.host_key}\n")
        options |= {"known_hosts": known, "client_keys": [str(identity.client_key)], "agent_path": None}
    else:
        options |= _trust(read, name, files, entries)
        # asyncssh fails on an IdentityFile that does not exist; OpenSSH skips it
        keys = [key for key in config.get("IdentityFile") or () if Path(key).expanduser().exists()]
        options |= {"client_keys": keys} if keys else {}
    jumps = tuple(part.strip().removeprefix("ssh://") for part in str(read.tunnel or "").split(",") if part.strip())
    configured = any(config.get(option, False) is not False for option in ("ProxyJump", "ProxyCommand"))
    jump_from_caller = jump is not None and not configured
    jumps = (str(jump),) if jump_from_caller else jumps
    return Settings(
        read.host, read.port, read.username, name, files, pin_file, jumps, jump_from_caller, timeout, entries, options
    )


def _trust(
    read: asyncssh.SSHClientConnectionOptions, name: str, files: Sequence[Path], entries: Sequence[known_hosts.Entry]
) -> dict[str, Any]:
    """Return the options for the host keys that the user's known_hosts files trust."""
    # As in OpenSSH, a server without keys under [HOST]:PORT is looked up by HOST alone. The address that a host
    # resolves to is not looked up: boards share addresses.
    host, found = read.host.lower(), list(entries)
    if not read.host_key_alias and name != host and all(entry.marker is Marker.REVOKED for entry in entries):
        found += known_hosts.entries(files, host)
    host_keys, authorities, revoked = ([entry.key for entry in found if entry.marker is marker] for marker in Marker)
    options: dict[str, Any] = {"known_hosts": (host_keys, authorities, revoked)}
    config: Any = read.config
    if host_keys and not authorities and config.get("HostKeyAlgorithms") is None:
        # by default asyncssh accepts the known key types only, and a server without them just disconnects
        options["server_host_key_algs"] = known_hosts.algorithms(host_keys)
    return options


def _cpu_has_aes() -> bool:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return bool(re.search(r"^(flags|Features)\s*:.*\baes\b", cpuinfo, re.MULTILINE))


def _files(
    read: asyncssh.SSHClientConnectionOptions, address: Address, option: str, default: Sequence[str]
) -> tuple[Path, ...]:
    """Return the files that an option names, with %-tokens expanded (asyncssh does not expand them here)."""
    named: Any = read.config.get(option)
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

    def expand(match: re.Match[str]) -> str:
        if match[1] not in tokens:
            raise ValueError(f"{option} has %{match[1]}, which is not supported")
        return tokens[match[1]]

    return tuple(Path(re.sub("%(.)", expand, one)).expanduser() for one in (default if named is None else named))
