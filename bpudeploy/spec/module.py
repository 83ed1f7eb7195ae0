"""A user's PyTorch class: its file and name, and static checks of its source. Nothing here runs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.spec.compose import did_you_mean


@dataclass(frozen=True)
class ModuleRef:
    """A parsed ``module:``: a Python file, and the top-level class or function that builds the network."""

    path: str
    name: str

    @classmethod
    def parse(cls, text: str) -> ModuleRef:
        """Parse ``FILE.py:NAME``.

        Raises:
            ValueError: with the expected form.
        """
        path, _, name = text.rpartition(":")
        if not path.endswith(".py") or not name.isidentifier():
            raise ValueError("expected FILE.py:CLASS, like casting_net.py:CastingNet")
        return cls(path, name)


def source_problems(module: ModuleRef) -> Iterator[tuple[str, str]]:
    """Yield message and hint of each reason why the file cannot be the complete source of a network."""
    path = Path(module.path)
    try:
        tree = ast.parse(path.read_bytes(), filename=module.path)
    except OSError as error:
        yield f"cannot read {module.path}: {error.strerror}", "a path is relative to the file that contains it"
        return
    except (SyntaxError, ValueError) as error:
        at = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        yield f"{module.path}{at} is not valid Python: {error.args[0]}", "correct the file"
        return
    names = sorted(set(_top_level_names(tree)))
    if module.name not in names:
        hint = did_you_mean(module.name, names, f"at its top level: {', '.join(names) or 'nothing'}")
        yield f"{module.path} has no {module.name}", hint
    for line, imported in _sibling_imports(tree, path.parent):
        text = f"{module.path}:{line} imports the local file {imported}: a module must be a single file"
        yield text, "move that code into the file, or install it as a package"


def _top_level_names(tree: ast.Module) -> Iterator[str]:
    """Yield what the file's top level defines or imports."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _sibling_imports(tree: ast.Module, folder: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of each import of a file in ``folder``: its bytes would not be part of the cache key."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for top in dict.fromkeys(name.split(".")[0] for name in named):
                if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
                    yield node.lineno, top
