"""Which extra of the package to install when an optional library is missing."""

from __future__ import annotations

from bpudeploy.errors import UsageError

_EXTRAS = {
    "PIL": "build",
    "cloudpickle": "build",
    "onnx": "build",
    "onnxruntime": "build",
    "safetensors": "build",
    "threadpoolctl": "build",
    "timm": "build",
    "torch": "build",
    "torchvision": "build",
    "alembic": "measure",
    "matplotlib": "measure",
    "numpy": "measure",
    "scipy": "measure",
    "sqlalchemy": "measure",
    "prometheus_client": "nightly",
    "ruptures": "nightly",
    "distributed": "cluster",
    "fsspec": "cluster",
    "s3fs": "s3",
    "psycopg": "postgres",
}
"""Module to extra of pyproject.toml."""


def missing_extra(error: ModuleNotFoundError) -> UsageError | None:
    """Return the error that says which extra to install; None if the missing module is of no extra."""
    module = (error.name or "").split(".")[0]
    if module not in _EXTRAS:
        return None
    return UsageError(
        f"this needs {module}, which is not installed", hint=f"pip install 'bpudeploy[{_EXTRAS[module]}]'"
    )
