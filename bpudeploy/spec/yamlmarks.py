"""YAML with the source position of each key and value.

Plain scalars follow the YAML 1.2 core schema, not PyYAML's 1.1: ``no`` and ``on`` are text, ``1e-5`` is a number,
``012`` is twelve, a date is text. Duplicate keys, keys that are not text, recursive or exploding aliases, ``<<`` and
custom tags are errors with a position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bpudeploy.errors import Mark, SpecError

Scalar = None | bool | int | float | str
Plain = Scalar | list["Plain"] | dict[str, "Plain"]

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 40

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[str], int | float]], ...] = (
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)
_STR_TAGS = (None, "!", "tag:yaml.org,2002:str")
_EVENTS_OF: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Node:
    """A value and its position. ``items`` is set for a map, with the position of each key; ``elements`` for a list.

    Relative paths in the value are relative to ``folder``.
    """

    mark: Mark
    folder: Path
    scalar: Scalar = None
    items: Mapping[str, tuple[Mark, Node]] | None = None
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
        return entry[0] if entry else None

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
        where = _end_of(data[: error.start].decode("utf-8", "replace"), file)
        raise SpecError("the file is not UTF-8 text", where=where, hint="save it as UTF-8") from error


def _end_of(text: str, file: str) -> Mark:
    """Return the position after ``text``."""
    return Mark(file, text.count("\n") + 1, len(text.rpartition("\n")[2]) + 1)


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


class _Sized(NamedTuple):
    """A node, the number of values in it and its levels of nesting, with every alias expanded."""

    node: Node
    size: int = 1
    height: int = 1


class _Builder:
    """Turns PyYAML's events into nodes, one recursion per level: at most MAX_DEPTH."""

    def __init__(self, text: str, file: str, folder: Path, column: int) -> None:
        self.text, self.file, self.folder, self.column = text, file, folder, column
        self.events: Iterator[Any] = yaml.parse(text, Loader=_EVENTS_OF)
        self.open: list[str | None] = []
        """The anchor of each map and list that has not ended yet."""
        self.anchors: dict[str, _Sized] = {}

    def build(self) -> Node | None:
        root: Node | None = None
        try:
            for event in self.events:
                mark = self._mark(event.start_mark)
                if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                    hint = "one recipe per file: remove `---`"
                    raise SpecError("a second document starts here", where=mark, hint=hint)
                if isinstance(event, yaml.NodeEvent):
                    root = self._value(event).node
        except yaml.YAMLError as error:
            raise self._syntax_error(error) from error
        except (UnicodeError, ValueError, OverflowError) as error:
            raise SpecError(f"not YAML: {error}", where=Mark(self.file, 1, self.column)) from error
        return root

    def _value(self, event: Any) -> _Sized:
        mark = self._mark(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), mark)
        if isinstance(event, yaml.ScalarEvent):
            made = _Sized(Node(mark, self.folder, scalar=_scalar(event, mark)))
        else:
            made = self._collection(event, mark)
        if event.anchor is not None:
            self.anchors[event.anchor] = made
        return made

    def _alias(self, anchor: str, mark: Mark) -> _Sized:
        if anchor in self.open:
            raise SpecError(f"*{anchor} contains itself", where=mark, hint="replace it by its value")
        if anchor not in self.anchors:
            raise SpecError(f"no anchor is named {anchor!r}", where=mark, hint=f"mark the value with &{anchor}")
        return self.anchors[anchor]

    def _collection(self, event: Any, mark: Mark) -> _Sized:
        is_map = _is_map(event, mark)
        if len(self.open) >= MAX_DEPTH:
            raise _too_deep(mark)
        self.anchors.pop(event.anchor, None)
        self.open.append(event.anchor)
        items: dict[str, tuple[Mark, Node]] = {}
        elements: list[Node] = []
        size, height = 1, 1
        while not isinstance(entry := next(self.events), yaml.CollectionEndEvent):
            key = self._key(entry, items) if is_map else None
            child = self._value(next(self.events) if is_map else entry)
            size, height = size + child.size, max(height, child.height + 1)
            if size > MAX_NODES:
                hint = "a recipe is about a page of text; use fewer aliases"
                raise SpecError(f"more than {MAX_NODES} values after expanding aliases", where=mark, hint=hint)
            if height > MAX_DEPTH:
                raise _too_deep(child.node.mark)
            if key is not None:
                items[key] = (self._mark(entry.start_mark), child.node)
            else:
                elements.append(child.node)
        self.open.pop()
        node = Node(mark, self.folder, items=items) if is_map else Node(mark, self.folder, elements=tuple(elements))
        return _Sized(node, size, height)

    def _key(self, event: Any, items: Mapping[str, tuple[Mark, Node]]) -> str:
        mark, text = self._mark(event.start_mark), ""
        if isinstance(event, yaml.AliasEvent):
            value = self._alias(str(event.anchor), mark).node.scalar
        elif isinstance(event, yaml.ScalarEvent):
            value, text = _scalar(event, mark), event.value
        else:
            found = "a map" if _is_map(event, mark) else "a list"
            hint = "quote a key that starts with a bracket"
            raise SpecError(f"a key must be text, found {found}", where=mark, hint=hint)
        if not isinstance(value, str):
            message = f"a key must be text, found {describe(Node(mark, self.folder, scalar=value))}"
            hint = f"quote it: '{text}':" if text else "write a name before the colon"
            raise SpecError(message, where=mark, hint=hint)
        if text == "<<" and _is_plain(event):
            raise SpecError("`<<` is not part of YAML 1.2", where=mark, hint="use `extends:`, or repeat the keys")
        if value in items:
            hint = f"first at {items[value][0]}; keep one of them"
            raise SpecError(f"duplicate key {value!r}", where=mark, hint=hint)
        return value

    def _mark(self, mark: yaml.Mark) -> Mark:
        offset = self.column if mark.line == 0 else 1
        return Mark(self.file, mark.line + 1, mark.column + offset)

    def _syntax_error(self, error: yaml.YAMLError) -> SpecError:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        if mark is None:
            where = _end_of(self.text[: getattr(error, "position", 0) or 0], self.file)
            return SpecError("a character not allowed in YAML", where=where, hint="remove control characters")
        problem = getattr(error, "problem", None) or "bad syntax"
        context = getattr(error, "context", None)
        line = next(iter(self.text.split("\n")[mark.line :]), "")
        hint = "check indentation, colons and quotes here and on the line above"
        if "\t" in line[: mark.column + 1] and not line[: mark.column].strip():
            problem, context, hint = "tab in the indentation", None, "indent with spaces"
        elif "mapping values are not allowed" in problem:
            hint = "quote text that contains `: `, or check the indentation"
        elif "cannot start any token" in problem:
            hint = "quote text that starts with @, `, % or a tab"
        return SpecError(f"{context}: {problem}" if context else problem, where=self._mark(mark), hint=hint)


def _is_map(event: Any, mark: Mark) -> bool:
    """Return whether a map starts, otherwise a list."""
    is_map = isinstance(event, yaml.MappingStartEvent)
    if event.tag not in (None, "!", f"tag:yaml.org,2002:{'map' if is_map else 'seq'}"):
        raise _foreign_tag(event.tag, mark)
    return is_map


def _is_plain(event: Any) -> bool:
    return bool(event.implicit[0]) and not event.style


def _scalar(event: Any, mark: Mark) -> Scalar:
    text: str = event.value
    if event.tag not in _STR_TAGS:
        raise _foreign_tag(event.tag, mark)
    if event.tag is not None or not _is_plain(event):
        return text
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 300:
        return text
    return next((number(text) for pattern, number in _NUMBERS if pattern.fullmatch(text)), text)


def _foreign_tag(tag: str, mark: Mark) -> SpecError:
    return SpecError(f"the tag {tag!r} is not supported", where=mark, hint="remove it; quote text values")


def _too_deep(mark: Mark) -> SpecError:
    return SpecError(f"more than {MAX_DEPTH} levels of nesting", where=mark, hint="a recipe needs at most four levels")
