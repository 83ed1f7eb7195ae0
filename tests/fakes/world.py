"""What a tool can see: the host's files, or only the mounts where it runs in the fake docker.

A path of the container is taken to the host's file behind the mount. What is under no mount, or is a link that leads
out of the mounts, is not there, as in a real container; a file written there is lost with the container.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mount:
    """A folder of the host under a path of the container."""

    container: Path
    host: Path
    read_only: bool


@dataclass(frozen=True)
class Container:
    """``scratch`` holds what is written outside every mount."""

    cwd: Path
    mounts: tuple[Mount, ...]
    scratch: Path

    def to_host(self, path: Path) -> Path:
        """Return the host's file of a path of the container."""
        for mount in sorted(self.mounts, key=lambda m: -len(m.container.parts)):
            if path.is_relative_to(mount.container):
                found = mount.host / path.relative_to(mount.container)
                return found if self.holds(found) else self.scratch / "dangling" / path.name
        return self.scratch / path.relative_to("/")

    def holds(self, path: Path) -> bool:
        """Tell whether the file, links followed, is under a mount."""
        real = path.resolve()
        return any(real.is_relative_to(m.host.resolve()) for m in self.mounts)


def container(spec: dict[str, Any]) -> Container:
    """Read what docker wrote down of a container."""
    mounts = tuple(Mount(Path(m["container"]), Path(m["host"]), m["read_only"]) for m in spec["mounts"])
    return Container(Path(spec["cwd"]), mounts, Path(spec["scratch"]))


@cache
def here() -> Container | None:
    """Return the container that this process runs in, None on the host."""
    spec = os.environ.get("FAKE_DOCKER_SPEC")
    return None if spec is None else container(json.loads(Path(spec).read_text()))


def lexical(text: str | Path) -> Path:
    """Return the absolute path as the tool sees it; links are kept."""
    inside = here()
    return Path(os.path.normpath((inside.cwd if inside else Path.cwd()) / text))


def absolute(text: str | Path) -> Path:
    """Return the host's file of what the tool was given; relative paths start in its current directory."""
    inside = here()
    return inside.to_host(lexical(text)) if inside else lexical(text)


def shown(text: str) -> str:
    """Return ``text`` with the paths that the tool would print."""
    inside = here()
    if inside is None:
        return text
    names = {str(m.host): str(m.container) for m in inside.mounts} | {str(inside.scratch): ""}
    longest = sorted(names, key=len, reverse=True)
    found = re.compile("(" + "|".join(map(re.escape, longest)) + r")([^\s']*)")
    return found.sub(lambda m: names[m[1]] + m[2], text)


def guard() -> None:
    """Refuse, from now on, to open what a container does not have, and to write where it may only read."""
    inside = here()
    if inside is None:
        return
    allowed = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix, ROOT, "/usr", "/lib", "/etc", "/proc", "/dev")]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(args[0], str | bytes | os.PathLike):
            return
        path = Path(os.fsdecode(args[0]))
        writes = bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        real = path.resolve()
        for mount in inside.mounts:
            if real.is_relative_to(mount.host.resolve()):
                if writes and mount.read_only:
                    raise OSError(errno.EROFS, "Read-only file system", str(path))
                return
        if not any(real.is_relative_to(a) for a in (*allowed, inside.scratch.resolve())):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    sys.addaudithook(hook)
