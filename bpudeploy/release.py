"""A release: the compiled binary, the manifest of where its bytes came from, and the statement that is signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bpudeploy.digest import Digest, Key, canonical, key_of
from bpudeploy.stage import Artifact


@dataclass(frozen=True)
class Manifest:
    """What a board is told about a binary. ``steps`` maps step name to the digests it gave."""

    name: str
    target: str
    march: str
    backend: str
    runtime: str
    binary: Digest
    steps: Mapping[str, tuple[Digest, ...]]

    def to_json(self) -> str:
        """Return the canonical JSON text, whose digest names the release."""
        return canonical(asdict(self))


@dataclass(frozen=True)
class Release:
    """What boards hold; named by the digest of its manifest, which names the digest of the binary.

    ``built`` is when the binary was compiled, in seconds since 1970 by that machine's clock; 0 where it is not known.
    It orders releases of one name and is no part of the digest: the same bytes are the same release.
    """

    manifest: Manifest
    binary: Artifact
    built: int = 0

    @property
    def digest(self) -> Key:
        return key_of("release", asdict(self.manifest))

    @property
    def line(self) -> Key:
        """What it is a release of: recipe and target. Releases of one line are older or newer than each other."""
        return key_of("line", [self.manifest.name, self.manifest.target])

    @property
    def statement(self) -> str:
        """The text that is signed: lines that a shell can read without a parser.

        The release's digest covers the manifest, and the binary's is in both, so a signature vouches for all of it.
        """
        return (
            f"bpudeploy-statement 1\nrelease {self.digest}\nbinary {self.manifest.binary}\n"
            f"line {self.line}\nbuilt {self.built}\n"
        )
