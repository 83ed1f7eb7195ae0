"""A board that dies where it is told to, and what its disk may hold when the power fails there.

The shim is a folder of wrappers, first on the PATH of the board's scripts: each numbers the commands that change
something, and kills the whole session by SIGKILL before, in the middle of, or after the one that it is told; or lets
that one fail as on a full disk.

For a power failure, one whole run is recorded: the tree after each such command, and what was synced. What nothing
has synced may be on the disk or not, each file and each folder for itself, in any state that it had since its last
sync: every combination is a disk that the board may find when it starts again.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.effects.releases import OnPath

CHANGING = ("chmod", "cp", "ln", "mkdir", "mv", "rm", "sync")
_WRAPPER = """\
#!/bin/sh
number=$(($(/bin/cat "$SHIM/count") + 1))
echo $number > "$SHIM/count"
[ "$HOW" != count ] || echo {name} >> "$SHIM/names"
if [ $number = "$CUT" ]; then
    case $HOW in
    before) kill -9 0 ;;
    fail) echo "{name}: No space left on device" >&2
        exit 1 ;;
    middle) {middle}
        kill -9 0 ;;
    esac
fi
{real} "$@"
status=$?
if [ "$HOW" = record ]; then
    echo "$PWD|{name}|$*" > "$SHIM/$number.call"
    /usr/bin/find "$ROOT" -exec /usr/bin/stat -c '%i %w|%n' {{}} + > "$SHIM/$number.inodes"
    /bin/cp -a "$ROOT" "$SHIM/$number.tree"
fi
if [ $number = "$CUT" ] && [ "$HOW" = after ]; then kill -9 0; fi
exit $status
"""
_MIDDLE = {
    "rm": 'for last in "$@"; do :; done; /usr/bin/find "$last" -type f 2>/dev/null | /usr/bin/head -n 1 |'
    ' while read -r one; do /bin/rm -f "$one"; done',
    "cp": 'for last in "$@"; do :; done; echo half > "$last"',
}


@dataclass(frozen=True)
class Shim:
    """The wrappers and their counter."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> Shim:
        (folder / "bin").mkdir(parents=True)
        for name in CHANGING:
            path = folder / "bin" / name
            path.write_text(_WRAPPER.format(name=name, real=shutil.which(name), middle=_MIDDLE.get(name, ":")))
            path.chmod(0o755)
        return cls(folder)

    def over(self, board: Any, *, cut: int = 0, how: str = "count") -> OnPath:
        """Return the board with the shim on it, and the counter at nought."""
        (self.folder / "count").write_text("0\n")
        variables = {"SHIM": str(self.folder), "CUT": str(cut), "HOW": how, "ROOT": str(board.root)}
        return OnPath(board, self.folder / "bin", variables)

    def ways(self, number: int) -> tuple[str, ...]:
        """How a command of the last whole run, by number, can go wrong."""
        name = (self.folder / "names").read_text().split()[number - 1]
        return ("before", "middle", "after", "fail") if name in _MIDDLE else ("before", "after", "fail")

    @property
    def count(self) -> int:
        return int((self.folder / "count").read_text())


Identity = str
"""An inode's number and birth: numbers are used again."""


@dataclass(frozen=True)
class Moment:
    """A tree as it was: folder to names, file to bytes, link to its text, all by identity."""

    root: Identity
    folders: dict[Identity, dict[str, Identity]]
    files: dict[Identity, bytes]
    links: dict[Identity, str]
    paths: dict[str, Identity]

    @classmethod
    def read(cls, tree: Path, root: Path, inodes: str) -> Moment:
        """Read a copy of ``root`` at ``tree``; ``inodes`` has the identities of the original."""
        folders, files, links, paths = dict[str, dict[str, str]](), dict[str, bytes](), dict[str, str](), {}
        for line in inodes.splitlines():
            identity, _, name = line.partition("|")
            paths[name] = identity
        for name, identity in paths.items():
            copy = tree / Path(name).relative_to(root)
            if copy.is_symlink():
                links[identity] = str(copy.readlink())
            elif copy.is_dir():
                folders[identity] = {p.name: paths[str(Path(name) / p.name)] for p in copy.iterdir()}
            else:
                files[identity] = copy.read_bytes()
        return cls(paths[str(root)], folders, files, links, paths)


@dataclass(frozen=True)
class Recording:
    """The moments of one run, the first before it, and the identities that were synced up to each."""

    moments: tuple[Moment, ...]
    synced: tuple[frozenset[Identity] | None, ...]
    """By moment; None is all."""

    @classmethod
    def read(cls, shim: Shim, before: Moment, root: Path) -> Recording:
        moments, synced = [before], list[frozenset[str] | None]([None])
        for number in range(1, shim.count + 1):
            at = shim.folder / f"{number}.tree"
            moment = Moment.read(at, root, (shim.folder / f"{number}.inodes").read_text())
            where, name, arguments = (shim.folder / f"{number}.call").read_text().rstrip("\n").split("|")
            named = [a for a in arguments.split(" ") if a != "--"] if arguments else []
            moments.append(moment)
            if name == "sync" and not named:
                synced.append(None)
            else:
                found = [moment.paths[_at(where, a)] for a in named] if name == "sync" else []
                synced.append(frozenset(found))
        return cls(tuple(moments), tuple(synced))

    def disks(self, at: int) -> Iterator[dict[str, bytes] | None]:
        """Yield what ``current`` may lead to after a power failure at a moment: the files of its folder, or None.

        A link that leads to no folder yields no files at all.
        """
        root = self.moments[0].root
        for top in self._versions("folders", root, at):
            if "current" not in top:
                yield None
                continue
            target = next(m.links[top["current"]] for m in self.moments if top["current"] in m.links)
            room, _, name = target.partition("/")
            for inside in self._versions("folders", top.get(room, ""), at):
                for names in self._versions("folders", inside.get(name, ""), at):
                    contents = [list(self._versions("files", identity, at)) for identity in names.values()]
                    for chosen in itertools.product(*contents):
                        yield {"": name.encode(), **dict(zip(names, chosen, strict=True))}

    def _versions(self, kind: str, identity: Identity, at: int) -> Iterator[Any]:
        """Yield each state that a file or a folder may have on the disk; what never was is empty."""
        last = max((n for n in range(at + 1) if self._is_synced(kind, identity, n)), default=None)
        seen: list[Any] = [] if last is not None else [b"" if kind == "files" else {}]
        for moment in self.moments[last or 0 : at + 1]:
            state = getattr(moment, kind).get(identity)
            if state is not None and state not in seen:
                seen.append(state)
        yield from seen

    def _is_synced(self, kind: str, identity: Identity, number: int) -> bool:
        there = identity in getattr(self.moments[number], kind)
        synced = self.synced[number]
        return there and (synced is None or identity in synced)


def _at(where: str, argument: str) -> str:
    return str(Path(where) / argument) if argument != "." else where
