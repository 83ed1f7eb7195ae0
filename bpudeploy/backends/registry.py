"""Find backends by their entry points; only the chosen one is imported."""

from __future__ import annotations

from importlib.metadata import entry_points

from bpudeploy.backends.base import Backend
from bpudeploy.errors import UsageError

GROUP = "bpudeploy.backends"


def backend_names() -> list[str]:
    """Return the names of the installed backends without importing them."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_backend(name: str) -> Backend:
    """Return a backend.

    Raises:
        UsageError: it is not installed, or cannot be imported.
    """
    for point in entry_points(group=GROUP):
        if point.name == name:
            try:
                backend: Backend = point.load()()
            except Exception as error:  # a third party's import may raise anything
                raise UsageError(
                    f"backend {name!r} ({point.value}) cannot be loaded: {error}", hint="reinstall its package"
                ) from error
            return backend
    raise UsageError(f"no backend is named {name!r}", hint=f"installed: {', '.join(backend_names())}")
