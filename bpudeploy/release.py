"""A release: the compiled binary and the manifest that says where every byte of it came from."""

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
    """What boards hold; named by the digest of its manifest, which names the digest of the binary."""

    manifest: Manifest
    binary: Artifact

    @property
    def digest(self) -> Key:
        return key_of("release", asdict(self.manifest))
