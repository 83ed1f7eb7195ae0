"""Run the tool's integer model on images: ``tensors.py MODEL IMAGES.npy FOLDER``.

Writes ``FOLDER/N.npz`` for image N: the integers of each tensor that a node of the network computes, by the tensor's
name, NCHW. Tensors that only move values are left out, as their layout is not recorded.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

_SUFFIX = "_quantized"
_LAYOUT = "data_format"


def outputs_of(model: Any) -> dict[str, bool]:
    """Make the integers of each node's output an output of ``model``; return whether each is NHWC.

    What is requantized to int16 again is left out: the tool stores it in a wider range than the recipe's.
    """
    again = {
        node.input[0]
        for node in model.graph.node
        if node.op_type == "HzRequantize" and any(a.name == "bits" and a.i == 16 for a in node.attribute)
    }
    types = {value.name: value.type for value in model.graph.value_info}
    present = {value.name for value in model.graph.output}
    found = {}
    for node in model.graph.node:
        layout = next((a.s for a in node.attribute if a.name == _LAYOUT), b"")
        for name in node.output:
            if (
                name.endswith(_SUFFIX)
                and name in types
                and name not in again
                and (layout or node.op_type.endswith("Matmul"))
            ):
                found[name] = layout == b"NHWC"
                if name not in present:
                    value = model.graph.output.add()
                    value.name = name
                    value.type.CopyFrom(types[name])
    return found


if __name__ == "__main__":
    import onnx
    from horizon_nn.executor import ORTExecutor

    loaded = onnx.load(sys.argv[1])
    names = outputs_of(loaded)
    session = ORTExecutor(loaded).create_session()
    (image,) = session.get_inputs()
    images = np.load(sys.argv[2], mmap_mode="r")
    order = (0, 1, 2, 3) if list(image.shape[1:]) == list(images.shape[1:]) else (0, 3, 1, 2)
    for i in range(len(images)):
        made = session.forward({image.name: np.ascontiguousarray(images[i : i + 1].transpose(order))}, list(names))
        values = {
            name[: -len(_SUFFIX)]: made[name].transpose(0, 3, 1, 2) if nhwc and made[name].ndim == 4 else made[name]
            for name, nhwc in names.items()
        }
        np.savez(Path(sys.argv[3]) / f"{i}.npz", **values)
        sys.stdout.write(f"DONE {i + 1}\n")
        sys.stdout.flush()
