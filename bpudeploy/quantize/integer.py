"""Integer reference: what a BPU computes for an image at every tap, and how well onnxruntime agrees with it.

Vendors do not publish how their hardware rounds; ``Rounding`` selects the mode (see ``integer_kernels``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.agreement import Agreement, IntegerDifference, OutputAgreement, SumRange, TapAgreement
from bpudeploy.quantize.arrays import F32, Signed
from bpudeploy.quantize.integer_graph import IntegerGraph, unoptimized_session
from bpudeploy.spec.precision import Precision, Rounding


def compare_with_onnxruntime(
    model: onnx.ModelProto, images: Iterable[F32], rounding: Rounding, progress: Callable[[int], None]
) -> Agreement:
    """Compare onnxruntime's run of a QDQ graph with the integers of a BPU, at every tap.

    Args:
        images: inputs of the graph, which has only one; one run each.
        progress: called with the number of finished images.

    Raises:
        ValueError: there are no images, the graph is not in the form that ``qdq`` writes, or does not match its record.
    """
    graph = IntegerGraph(model)
    session = _session_with_taps(model, graph)
    (fed,) = graph.inputs
    names = [*graph.outputs, *(tap.integers for tap in graph.taps.values())]
    forced, free = ({name: IntegerDifference() for name in graph.taps} for _ in range(2))
    worst = {name: [0.0, 0.0] for name in graph.outputs}
    sums: dict[str, SumRange] = {}
    done = 0
    for done, image in enumerate(images, 1):
        theirs = dict(zip(names, session.run(names, {fed: image}), strict=True))
        expected: dict[str, Signed] = {name: theirs[tap.integers] for name, tap in graph.taps.items()}
        for number, (found, given) in enumerate(((forced, expected), (free, None))):
            run = graph.run({fed: image}, rounding, given)
            for name, own in run.taps.items():
                found[name] += IntegerDifference.between(own, expected[name])
            for name, largest in worst.items():
                apart = float(np.abs(run.outputs[name] - theirs[name]).max())
                largest[number] = max(largest[number], apart / (float(np.abs(theirs[name]).max()) or 1.0))
        for name, range_ in run.sums.items():
            sums[name] = sums.get(name, SumRange()) + range_
        progress(done)
    if not done:
        raise ValueError("no images to compare with")
    taps = {
        name: TapAgreement(
            precision=Precision(tap.dtype.name), made_by=tap.made_by, forced=forced[name], free=free[name]
        )
        for name, tap in graph.taps.items()
    }
    outputs = {name: OutputAgreement(forced=each[0], free=each[1]) for name, each in worst.items()}
    return Agreement(rounding=rounding, images=done, taps=taps, outputs=outputs, sums=sums)


def _session_with_taps(model: onnx.ModelProto, graph: IntegerGraph) -> Any:
    """Open ``model`` in onnxruntime with the integers of each tap as additional outputs."""
    copy = copy_model(model)
    for tap in graph.taps.values():
        kind = helper.np_dtype_to_tensor_dtype(tap.dtype)
        copy.graph.output.append(helper.make_tensor_value_info(tap.integers, kind, None))
    return unoptimized_session(copy, threads=os.cpu_count() or 1)
