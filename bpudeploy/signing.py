"""Signing keys: ed25519 in OpenSSH's formats, so that a board verifies with the ssh-keygen that it has.

Sources: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig (the signature),
https://man.openbsd.org/ssh-keygen#ALLOWED_SIGNERS (what a board trusts).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.errors import UsageError

if TYPE_CHECKING:
    import asyncssh

NAMESPACE = "bpudeploy-release"
"""A signature that was made for anything else is not one of a release."""
PRINCIPAL = "bpudeploy"
_ALGORITHM = "ssh-ed25519"


@dataclass(frozen=True)
class PublicKey:
    """What a board is given to trust."""

    text: str
    """``ssh-ed25519 AAAA...``, without a comment."""
    fingerprint: str
    """``SHA256:...``, as ``ssh-keygen -l`` prints it."""

    @property
    def allowed_signer(self) -> str:
        """The line of an allowed_signers file."""
        return f'{PRINCIPAL} namespaces="{NAMESPACE}" {self.text}'


@dataclass(frozen=True)
class SigningKey:
    """A private key and its file. Made by ``load_key``; never printed, never logged."""

    path: Path
    public: PublicKey
    _key: asyncssh.SSHKey

    def __repr__(self) -> str:
        return f"SigningKey({self.path}, {self.public.fingerprint})"

    def sign(self, text: str) -> str:
        """Return the armored SSHSIG signature of ``text``; the same text gives the same signature."""
        import asyncssh

        return asyncssh.create_sshsig(self._key, text.encode(), namespace=NAMESPACE).decode()


def default_key() -> Path:
    """Return where the user's key is, whether or not it is: $XDG_CONFIG_HOME or ~/.config, bpudeploy/signing_key."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "bpudeploy" / "signing_key"


def new_key(path: Path) -> SigningKey:
    """Make a key: the private half in ``path`` (mode 0600, no passphrase), the public one in ``path``.pub.

    Raises:
        UsageError: ``path`` exists, or cannot be written.
    """
    import asyncssh

    key = asyncssh.generate_private_key(_ALGORITHM, comment="bpudeploy releases")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(key.export_private_key())
            stream.flush()
            os.fsync(stream.fileno())
        path.with_name(f"{path.name}.pub").write_bytes(key.export_public_key())
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists: a new key there would make every board that trusts the old one refuse your releases",
            hint="name another --key, or move the old pair away yourself",
        ) from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="name another --key") from error
    return SigningKey(path, _public(key), key)


def load_key(path: Path) -> SigningKey:
    """Return the key in ``path``.

    Raises:
        UsageError: there is none, others can read it, it needs a passphrase, or it is not ed25519.
    """
    import asyncssh

    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"no signing key can be read at {path}: {error.strerror}",
            hint="`bpudeploy keys new` makes one, `bpudeploy keys install` has a board trust it, once",
        ) from error
    if mode & 0o077:
        raise UsageError(f"others can read or change the signing key {path}", hint=f"chmod 600 {path}")
    try:
        key = asyncssh.import_private_key(data)
    except asyncssh.KeyImportError as error:
        raise UsageError(
            f"{path} is no key that can be used: {error}", hint="make one with `bpudeploy keys new`"
        ) from error
    if key.get_algorithm() != _ALGORITHM:
        raise UsageError(
            f"{path} is {key.get_algorithm()}, not {_ALGORITHM}", hint="make one with `bpudeploy keys new`"
        )
    return SigningKey(path, _public(key), key)


def _public(key: asyncssh.SSHKey) -> PublicKey:
    algorithm, encoded = key.export_public_key().decode().split()[:2]
    return PublicKey(f"{algorithm} {encoded}", key.get_fingerprint("sha256"))
