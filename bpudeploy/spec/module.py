"""A user's own PyTorch class: its file and name, and what can be said of it by reading alone. Nothing here runs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.spec.compose import nearest


@dataclass(frozen=True)
class ModuleRef:
    """A parsed ``module:``: a Python file, and the class or function at its top level that makes the network."""

    path: str
    name: str

    @classmethod
    def parse(cls, text: str) -> ModuleRef:
        """Parse ``FILE.py:NAME``.

        Raises:
            ValueError: with the form that was expected.
        """
        path, _, name = text.rpartition(":")
        if not path.endswith(".py") or not name.isidentifier():
            raise ValueError("expected FILE.py:CLASS, like casting_net.py:CastingNet")
        return cls(path, name)


def faults(module: ModuleRef) -> Iterator[tuple[str, str]]:
    """Yield, as message and hint, why the file cannot be a network's whole source. Reads it, runs nothing."""
    path = Path(module.path)
    try:
        tree = ast.parse(path.read_bytes(), filename=module.path)
    except OSError as error:
        yield f"cannot read {module.path}: {error.strerror}", "a path is relative to the file it is written in"
        return
    except (SyntaxError, ValueError) as error:
        at = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        yield f"{module.path}{at} is not Python: {error.args[0]}", "correct the file"
        return
    names = set(_names(tree))
    if module.name not in names:
        near = nearest(module.name, sorted(names))
        hint = f"did you mean {near}?" if near else f"at its top level: {', '.join(sorted(names)) or 'nothing'}"
        yield f"{module.path} has no {module.name}", hint
    for line, imported in _beside(tree, path.parent):
        yield (
            f"{module.path}:{line} imports {imported}, a file beside it: a module is one file",
            "put what the network needs into that file, or install it as a package",
        )


def _names(tree: ast.Module) -> Iterator[str]:
    """Yield what the file's top level defines or imports."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _beside(tree: ast.Module, folder: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of each import of a file that lies in ``folder``: its bytes would be in no key."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for top in dict.fromkeys(name.split(".")[0] for name in named):
                if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
                    yield node.lineno, top
