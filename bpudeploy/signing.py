"""Signing keys: ed25519 in OpenSSH's formats, so that boards verify with ssh-keygen.

Sources: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig (the signature),
https://man.openbsd.org/ssh-keygen#ALLOWED_SIGNERS (the trusted keys).
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
"""Signatures made for other purposes are not valid for releases."""
PRINCIPAL = "bpudeploy"
_ALGORITHM = "ssh-ed25519"


@dataclass(frozen=True)
class PublicKey:
    """The public half, which boards trust."""

    text: str
    """``ssh-ed25519 AAAA...``, without a comment."""
    fingerprint: str
    """``SHA256:...``, as ``ssh-keygen -l`` prints it."""

    @property
    def allowed_signer(self) -> str:
        """The key's line in an allowed_signers file."""
        return f'{PRINCIPAL} namespaces="{NAMESPACE}" {self.text}'


@dataclass(frozen=True)
class SigningKey:
    """A private key and its file; made by ``load_key`` and never printed or logged."""

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
    """Return the path of the user's key: bpudeploy/signing_key under $XDG_CONFIG_HOME or ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "bpudeploy" / "signing_key"


def new_key(path: Path) -> SigningKey:
    """Create a key: the private half in ``path`` (mode 0600, no passphrase), the public half in ``path``.pub.

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
            f"{path} exists; boards that trust the old key would refuse releases signed with a new one",
            hint="give another --key, or move the old key pair away",
        ) from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="give another --key") from error
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
            hint="create one with `bpudeploy keys new`, then install it on the board with `bpudeploy keys install`",
        ) from error
    if mode & 0o077:
        raise UsageError(f"others can read or change the signing key {path}", hint=f"chmod 600 {path}")
    try:
        key = asyncssh.import_private_key(data)
    except asyncssh.KeyImportError as error:
        raise UsageError(f"{path} is not a usable key: {error}", hint="create one with `bpudeploy keys new`") from error
    if key.get_algorithm() != _ALGORITHM:
        raise UsageError(
            f"{path} is {key.get_algorithm()}, not {_ALGORITHM}", hint="create one with `bpudeploy keys new`"
        )
    return SigningKey(path, _public(key), key)


def _public(key: asyncssh.SSHKey) -> PublicKey:
    algorithm, encoded = key.export_public_key().decode().split()[:2]
    return PublicKey(f"{algorithm} {encoded}", key.get_fingerprint("sha256"))
