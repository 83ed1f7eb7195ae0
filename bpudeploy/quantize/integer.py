"""Integer reference: what a BPU computes for an image at every tap, and how well onnxruntime agrees with it.

Vendors do not publish how their hardware rounds; ``Rounding`` selects the mode (see ``integer_kernels``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.agreement import Agreement, IntegerDifference, OutputAgreement, SumRange, TapAgreement
from bpudeploy.quantize.arrays import F32, Signed
from bpudeploy.quantize.integer_graph import IntegerGraph, IntegerRun, unoptimized_session
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
    comparison = _Comparison(model)
    for done, image in enumerate(images, 1):
        comparison.add(image, rounding)
        progress(done)
    if not comparison.images:
        raise ValueError("no images to compare with")
    return comparison.agreement(rounding)


def _session_with_taps(model: onnx.ModelProto, graph: IntegerGraph) -> Any:
    """Open ``model`` in onnxruntime with the integers of each tap as additional outputs."""
    copy = copy_model(model)
    for tap in graph.taps.values():
        kind = helper.np_dtype_to_tensor_dtype(tap.dtype)
        copy.graph.output.append(helper.make_tensor_value_info(tap.integers, kind, None))
    return unoptimized_session(copy, threads=os.cpu_count() or 1)


class _Comparison:
    """Accumulates the differences over all images."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = IntegerGraph(model)
        self.session = _session_with_taps(model, self.graph)
        self.images = 0
        self.forced, self.free = ({name: IntegerDifference() for name in self.graph.taps} for _ in range(2))
        self.outputs = {name: [0.0, 0.0] for name in self.graph.outputs}
        self.sums: dict[str, SumRange] = {}

    def add(self, image: F32, rounding: Rounding) -> None:
        """Run one image in onnxruntime, then forced, then free."""
        (fed,) = self.graph.inputs
        names = [*self.graph.outputs, *(tap.integers for tap in self.graph.taps.values())]
        theirs = dict(zip(names, self.session.run(names, {fed: image}), strict=True))
        expected: dict[str, Signed] = {name: theirs[tap.integers] for name, tap in self.graph.taps.items()}

        def force(name: str, own: Signed) -> Signed:
            self.forced[name] += IntegerDifference.between(own, expected[name])
            return expected[name]

        def keep(name: str, own: Signed) -> Signed:
            self.free[name] += IntegerDifference.between(own, expected[name])
            return own

        for number, at_tap in enumerate((force, keep)):
            run = self.graph.run({fed: image}, rounding, at_tap)
            self._add_outputs(number, run, theirs)
        for name, sums in run.sums.items():
            self.sums[name] = self.sums.get(name, SumRange()) + sums
        self.images += 1

    def _add_outputs(self, number: int, run: IntegerRun, theirs: Mapping[str, F32]) -> None:
        for name, worst in self.outputs.items():
            largest = float(np.abs(theirs[name]).max()) or 1.0
            worst[number] = max(worst[number], float(np.abs(run.outputs[name] - theirs[name]).max()) / largest)

    def agreement(self, rounding: Rounding) -> Agreement:
        taps = {
            name: TapAgreement(
                precision=Precision(tap.dtype.name),
                made_by=tap.made_by,
                forced=self.forced[name],
                free=self.free[name],
            )
            for name, tap in self.graph.taps.items()
        }
        outputs = {name: OutputAgreement(forced=forced, free=free) for name, (forced, free) in self.outputs.items()}
        return Agreement(rounding=rounding, images=self.images, taps=taps, outputs=outputs, sums=self.sums)
