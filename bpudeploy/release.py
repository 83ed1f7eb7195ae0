"""A release: the compiled binary, its manifest, and the signed statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bpudeploy.digest import Digest, Key, canonical, key_of
from bpudeploy.stage import Artifact


@dataclass(frozen=True)
class Manifest:
    """Description of a binary. ``steps`` maps step names to the digests of their outputs."""

    name: str
    target: str
    march: str
    backend: str
    runtime: str
    binary: Digest
    steps: Mapping[str, tuple[Digest, ...]]

    @property
    def digest(self) -> Key:
        """The digest that names the release."""
        return key_of("release", asdict(self))

    def to_json(self) -> str:
        """Return the canonical JSON text."""
        return canonical(asdict(self))


@dataclass(frozen=True)
class Release:
    """A deployable release, identified by the digest of its manifest, which contains the digest of the binary.

    ``built`` is the compile time in seconds since 1970 by the compiling machine's clock; 0 if unknown. It orders
    releases and is not part of the digest.
    """

    manifest: Manifest
    binary: Artifact
    built: int = 0

    @property
    def digest(self) -> Key:
        return self.manifest.digest

    @property
    def line(self) -> Key:
        """Key of recipe and target; releases of one line are ordered by build time."""
        return key_of("line", [self.manifest.name, self.manifest.target])

    @property
    def statement(self) -> str:
        """The text that is signed, in lines that a shell can read.

        It contains the digests of the release, which covers the manifest, and of the binary.
        """
        return (
            f"bpudeploy-statement 1\nrelease {self.digest}\nbinary {self.manifest.binary}\n"
            f"line {self.line}\nbuilt {self.built}\n"
        )
