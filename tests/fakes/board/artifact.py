"""Fake artifacts that run: a magic, one line of JSON facts, and the ONNX network that the fake runtimes run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = {"bin": b"FAKEHBIN", "hbm": b"FAKEHHBM"}
"""The same as in tests/fakes/products.py; a board's copy of this package stands alone."""
MARCHES = {"x3": "bernoulli2", "x5": "bayes-e", "s100": "nash-e"}
FAMILY = {"bernoulli2": "bin", "bayes-e": "bin", "bayes": "bin", "nash-e": "hbm", "nash-m": "hbm", "nash-p": "hbm"}


class Broken(Exception):
    """The file is no artifact that runs here."""


@dataclass(frozen=True)
class Artifact:
    """What a fake artifact holds. ``input_type`` is nv12, rgb-nhwc or rgb-nchw; ``output`` float32 or int8 to int32."""

    name: str
    kind: str
    march: str
    input_type: str
    batch: int
    height: int
    width: int
    classes: int
    output: str
    scales: tuple[float, ...]
    onnx: bytes

    @property
    def shape(self) -> tuple[int, ...]:
        """The output's: 4-D on B, channels last where it is integers; 2-D on H."""
        if self.kind == "hbm":
            return (self.batch, self.classes)
        last = (self.batch, 1, 1, self.classes)
        return (self.batch, self.classes, 1, 1) if self.output == "float32" else last


def runnable(
    onnx_bytes: bytes,
    kind: str,
    march: str,
    input_type: str,
    name: str = "model",
    output: str = "float32",
    scales: tuple[float, ...] = (0.01,),
    facts: dict[str, Any] | None = None,
) -> bytes:
    """Return the bytes of an artifact that the fake runtimes run.

    ``onnx_bytes`` is a network of one input, uint8 RGB (N, H, W, 3), and one output, float32 (N, classes). ``kind`` is
    bin or hbm. With integers for an ``output``, the fake rounds logits / scale; ``facts`` adds to what facts_of() says.
    """
    import onnx

    model = onnx.load_from_string(onnx_bytes)
    (given,), (out,) = model.graph.input, model.graph.output
    batch, height, width, channels = (d.dim_value for d in given.type.tensor_type.shape.dim)
    classes = out.type.tensor_type.shape.dim[1].dim_value
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8 and channels == 3 and classes > 0
    assert input_type in ("nv12", "rgb-nhwc", "rgb-nchw") and FAMILY[march] == kind
    said = {
        **(facts or {}),
        "march": march,
        "runs": {
            "name": name,
            "input_type": input_type,
            "batch": batch,
            "height": height,
            "width": width,
            "classes": classes,
            "output": output,
            "scales": list(scales) if output != "float32" else [],
        },
    }
    return MAGIC[kind] + json.dumps(said).encode() + b"\n" + onnx_bytes


def read(path: str) -> Artifact:
    """Return what a file holds.

    Raises:
        FileNotFoundError: there is none.
        Broken: it is no artifact, or one of those that the fake compilers write, which hold no network.
    """
    data = Path(path).read_bytes()
    kind = next((k for k, magic in MAGIC.items() if data.startswith(magic)), None)
    head, newline, network = data[8:].partition(b"\n")
    if kind is None or not newline:
        raise Broken("not a model file")
    facts = json.loads(head)
    if "runs" not in facts:
        raise Broken("holds no network: make it with runnable()")
    runs = {**facts["runs"], "scales": tuple(facts["runs"]["scales"])}
    return Artifact(kind=kind, march=facts["march"], onnx=network, **runs)
