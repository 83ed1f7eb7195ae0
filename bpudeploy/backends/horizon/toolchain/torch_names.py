"""A stub of torch with the names that the toolchain's modules use on import; installed there as ``torch``.

The toolchain imports torch at the top of several modules, for type annotations, isinstance checks and the import of
PyTorch models, which bpudeploy does not use. The real torch would be two thirds of the installation. Any other name
raises AttributeError. Runs on the toolchain's CPython 3.10.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, NoReturn

_DTYPES = "bfloat16 bool complex64 complex128 float16 float32 float64 int8 int16 int32 int64 uint8"


class dtype:
    """A name in the toolchain's tables from ONNX types to torch types."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"torch.{self._name}"


class Tensor:
    """Has no instances: every tensor of the toolchain is a NumPy array."""


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"bpudeploy installs this toolchain without torch, but torch.{name} is used")


def _module(name: str, **names: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(names)
    if __name__ == "torch":  # installed as torch, not imported by bpudeploy beside the real torch
        sys.modules[name] = made
    return made


def _nothing(*arguments: Any, **options: Any) -> None:
    """Register no operator for the export of a PyTorch model."""


def _unchanged(*types: Any) -> Any:
    """Return a decorator that changes nothing."""
    return lambda function: function


globals().update({name: dtype(name) for name in _DTYPES.split()})
nn = _module("torch.nn", Module=type("Module", (), {}))
onnx = _module(
    "torch.onnx",
    register_custom_op_symbolic=_nothing,
    symbolic_helper=_module("torch.onnx.symbolic_helper", parse_args=_unchanged),
    symbolic_opset9=_module("torch.onnx.symbolic_opset9"),
)
