"""YAML with the source position of each key and value.

Plain scalars follow the YAML 1.2 core schema, not PyYAML's 1.1: ``no`` and ``on`` are text, ``1e-5`` is a number,
``012`` is twelve, a date is text. Duplicate keys, keys that are not text, recursive or exploding aliases, ``<<`` and
custom tags are errors with a position.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bpudeploy.errors import Mark, SpecError

Scalar = None | bool | int | float | str
Plain = Scalar | list["Plain"] | dict[str, "Plain"]

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 40

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_STR_TAGS = ("!", "tag:yaml.org,2002:str")
_EVENTS_OF: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Key:
    """A key of a map: its text and position."""

    text: str
    mark: Mark


@dataclass(frozen=True)
class Node:
    """A value and its position. ``items`` is set for a map, ``elements`` for a list.

    Relative paths in the value are relative to ``folder``.
    """

    mark: Mark
    folder: Path
    scalar: Scalar = None
    items: Mapping[str, tuple[Key, Node]] | None = None
    elements: tuple[Node, ...] | None = None

    def plain(self) -> Plain:
        """Return the value without its marks."""
        if self.items is not None:
            return {text: child.plain() for text, (_, child) in self.items.items()}
        if self.elements is not None:
            return [child.plain() for child in self.elements]
        return self.scalar

    def get(self, path: Sequence[str | int]) -> Node | None:
        """Return the node at ``path``, or None."""
        node: Node | None = self
        for step in path:
            node = node._child(step) if node is not None else None
        return node

    def key_mark(self, path: Sequence[str | int]) -> Mark | None:
        """Return the position of the last key of ``path`` (None for the root and list elements)."""
        parent = self.get(path[:-1]) if path else None
        if parent is None or parent.items is None:
            return None
        entry = parent.items.get(str(path[-1]))
        return entry[0].mark if entry else None

    def _child(self, step: str | int) -> Node | None:
        if self.items is not None and isinstance(step, str):
            entry = self.items.get(step)
            return entry[1] if entry else None
        if self.elements is not None and isinstance(step, int) and 0 <= step < len(self.elements):
            return self.elements[step]
        return None


def load_yaml(path: Path) -> Node:
    """Read one YAML file whose top level is a map; ``mark.file`` is ``path`` as given.

    Raises:
        SpecError: the file is missing or invalid; with the position of the error.
    """
    start = Mark(str(path), 1, 1)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise SpecError(f"there is no file {path}", hint=_similar_files(path)) from error
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} cannot be read: {error}", hint="name a readable YAML file") from error
    if len(data) > MAX_BYTES:
        raise SpecError(
            f"the file is larger than {MAX_BYTES} bytes", where=start, hint="a recipe is about a page of text"
        )
    node = parse_yaml(_decode(data, str(path)), file=str(path), folder=path.parent)
    if node is None:
        raise SpecError("the file is empty", where=start, hint="write `key: value` lines; see recipes/quickstart.yaml")
    if node.items is None:
        hint = "write `key: value` lines, not indented"
        raise SpecError(f"expected a map at the top of the file, found {describe(node)}", where=node.mark, hint=hint)
    return node


def parse_yaml(text: str, *, file: str, folder: Path, column: int = 1) -> Node | None:
    """Parse one YAML document; None if it is empty.

    ``file`` is the file name of marks; ``column`` is the column of the first character.

    Raises:
        SpecError: the text is not exactly one well-formed document.
    """
    return _Builder(text, file, folder, column).build()


def describe(node: Node) -> str:
    """Describe a value in a few words: ``the text 'no'``, ``the number 7``, ``a map``."""
    if node.items is not None:
        return "a map"
    if node.elements is not None:
        return "a list"
    value = node.scalar
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 60 else f"the text {value[:57]!r}..."
    return f"the number {value!r}"


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        where = Mark(file, line, column)
        raise SpecError("the file is not UTF-8 text", where=where, hint="save it as UTF-8") from error


def _similar_files(path: Path) -> str:
    from difflib import get_close_matches

    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    except (OSError, ValueError):
        return f"there is no folder {path.parent}"
    close = get_close_matches(path.name, names, n=1)
    if close:
        return f"did you mean {path.parent / close[0]}?"
    return f"YAML files in {path.parent}: {', '.join(names[:8]) or 'none'}"


@dataclass
class _OpenCollection:
    """A map or list whose end has not been read yet."""

    mark: Mark
    anchor: str | None
    is_map: bool
    items: dict[str, tuple[Key, Node]] = field(default_factory=dict)
    elements: list[Node] = field(default_factory=list)
    key: Key | None = None
    size: int = 1
    height: int = 1


class _Builder:
    """Turns PyYAML's events into nodes, with an explicit stack instead of recursion."""

    def __init__(self, text: str, file: str, folder: Path, column: int) -> None:
        self.text, self.file, self.folder, self.column = text, file, folder, column
        self.stack: list[_OpenCollection] = []
        self.anchors: dict[str, tuple[Node, int, int]] = {}
        self.root: Node | None = None
        self.documents = 0

    def build(self) -> Node | None:
        try:
            for event in yaml.parse(self.text, Loader=_EVENTS_OF):
                self._take(event)
        except yaml.YAMLError as error:
            raise self._syntax_error(error) from error
        except (UnicodeError, ValueError, OverflowError) as error:
            raise SpecError(f"not YAML: {error}", where=Mark(self.file, 1, self.column)) from error
        return self.root

    def _take(self, event: Any) -> None:
        mark = self._mark(event.start_mark)
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    raise SpecError(
                        "a second document starts here", where=mark, hint="one recipe per file: remove `---`"
                    )
            case yaml.ScalarEvent():
                self._scalar(event, mark)
            case yaml.AliasEvent():
                self._alias(str(event.anchor), mark)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._open(event, mark)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._close()
            case _:
                pass

    def _scalar(self, event: Any, mark: Mark) -> None:
        plain = bool(event.implicit[0]) and not event.style
        if event.tag is not None and event.tag not in _STR_TAGS:
            raise _foreign_tag(event.tag, mark)
        value = self._resolve(event.value, mark) if plain and event.tag is None else event.value
        if self._wants_key():
            self._key(value, event.value, plain, mark)
            return
        self._add(Node(mark, self.folder, scalar=value), 1, 1, event.anchor)

    def _resolve(self, text: str, mark: Mark) -> Scalar:
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if len(text) > 300:
            return text
        if _INT.fullmatch(text):
            return int(text)
        if _OCTAL_OR_HEX.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _INF.fullmatch(text):
            return float(text.replace(".", ""))
        return float("nan") if text in (".nan", ".NaN", ".NAN") else text

    def _wants_key(self) -> bool:
        return bool(self.stack) and self.stack[-1].is_map and self.stack[-1].key is None

    def _key(self, value: Scalar, text: str, plain: bool, mark: Mark) -> None:
        if not isinstance(value, str):
            message = f"a key must be text, found {describe(Node(mark, self.folder, scalar=value))}"
            hint = f"quote it: '{text}':" if text else "write a name before the colon"
            raise SpecError(message, where=mark, hint=hint)
        if plain and text == "<<":
            raise SpecError("`<<` is not part of YAML 1.2", where=mark, hint="use `extends:`, or repeat the keys")
        first = self.stack[-1].items.get(value)
        if first is not None:
            raise SpecError(f"duplicate key {value!r}", where=mark, hint=f"first at {first[0].mark}; keep one of them")
        self.stack[-1].key = Key(value, mark)

    def _alias(self, anchor: str, mark: Mark) -> None:
        if any(opened.anchor == anchor for opened in self.stack):
            raise SpecError(f"*{anchor} contains itself", where=mark, hint="replace it by its value")
        if anchor not in self.anchors:
            raise SpecError(f"no anchor is named {anchor!r}", where=mark, hint=f"mark the value with &{anchor}")
        node, size, height = self.anchors[anchor]
        if self._wants_key():
            self._key(node.scalar if node.items is None and node.elements is None else None, "", False, mark)
            return
        self._add(node, size, height, None)

    def _open(self, event: Any, mark: Mark) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"tag:yaml.org,2002:{'map' if is_map else 'seq'}"):
            raise _foreign_tag(event.tag, mark)
        if self._wants_key():
            hint = "quote a key that starts with a bracket"
            raise SpecError(f"a key must be text, found {'a map' if is_map else 'a list'}", where=mark, hint=hint)
        if len(self.stack) >= MAX_DEPTH:
            raise _too_deep(mark)
        self.anchors.pop(event.anchor, None)
        self.stack.append(_OpenCollection(mark, event.anchor, is_map))

    def _close(self) -> None:
        done = self.stack.pop()
        if done.is_map:
            node = Node(done.mark, self.folder, items=done.items)
        else:
            node = Node(done.mark, self.folder, elements=tuple(done.elements))
        self._add(node, done.size, done.height, done.anchor)

    def _add(self, node: Node, size: int, height: int, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = (node, size, height)
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        parent.size += size
        parent.height = max(parent.height, height + 1)
        if parent.size > MAX_NODES:
            hint = "a recipe is about a page of text; use fewer aliases"
            raise SpecError(f"more than {MAX_NODES} values after expanding aliases", where=parent.mark, hint=hint)
        if parent.height > MAX_DEPTH:
            raise _too_deep(node.mark)
        if parent.key is not None:
            parent.items[parent.key.text] = (parent.key, node)
            parent.key = None
        else:
            parent.elements.append(node)

    def _mark(self, mark: yaml.Mark) -> Mark:
        offset = self.column if mark.line == 0 else 1
        return Mark(self.file, mark.line + 1, mark.column + offset)

    def _syntax_error(self, error: yaml.YAMLError) -> SpecError:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        if mark is None:
            position = getattr(error, "position", 0) or 0
            before = self.text[:position]
            where = Mark(self.file, before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)
            return SpecError("a character not allowed in YAML", where=where, hint="remove control characters")
        problem = getattr(error, "problem", None) or "bad syntax"
        context = getattr(error, "context", None)
        line = self._line(mark.line)
        hint = "check indentation, colons and quotes here and on the line above"
        if "\t" in line[: mark.column + 1] and not line[: mark.column].strip():
            problem, context, hint = "tab in the indentation", None, "indent with spaces"
        elif "mapping values are not allowed" in problem:
            hint = "quote text that contains `: `, or check the indentation"
        elif "cannot start any token" in problem:
            hint = "quote text that starts with @, `, % or a tab"
        return SpecError(f"{context}: {problem}" if context else problem, where=self._mark(mark), hint=hint)

    def _line(self, number: int) -> str:
        lines = self.text.split("\n")
        return lines[number] if number < len(lines) else ""


def _foreign_tag(tag: str, mark: Mark) -> SpecError:
    return SpecError(f"the tag {tag!r} is not supported", where=mark, hint="remove it; quote text values")


def _too_deep(mark: Mark) -> SpecError:
    return SpecError(f"more than {MAX_DEPTH} levels of nesting", where=mark, hint="a recipe needs at most four levels")
