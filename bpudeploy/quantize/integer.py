"""The reference of a BPU's integers: what it makes of an image at every tap, and how far onnxruntime is from it.

A target's rounding is not published by its vendor: ``Rounding`` says which is asked for (``integer_kernels``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bpudeploy.quantize.agreement import Agreement, OutputAgreement, Steps, SumRange, TapAgreement
from bpudeploy.quantize.integer_graph import IntegerGraph, Run, plain_session
from bpudeploy.spec.precision import Precision, Rounding

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    Signed = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class Integers:
    """What a run gave: each tap's integers (int8 or int16), the outputs, and the range of each product's sums."""

    taps: dict[str, Signed]
    outputs: dict[str, F32]
    sums: dict[str, SumRange]


def execute(model: onnx.ModelProto, feeds: Mapping[str, F32], rounding: Rounding) -> Integers:
    """Run a QDQ graph in a BPU's integers and keep every tap's; where only their agreement counts, see ``compare``.

    Raises:
        ValueError: the graph is not in the form that ``qdq`` writes, or not as its record says.
    """
    taps: dict[str, Signed] = {}

    def keep(name: str, integers: Signed) -> Signed:
        taps[name] = integers
        return integers

    run = IntegerGraph(model).run(feeds, rounding, keep)
    return Integers(taps, run.outputs, run.sums)


def compare(
    model: onnx.ModelProto, images: Iterable[F32], rounding: Rounding, progress: Callable[[int], None]
) -> Agreement:
    """Return how far onnxruntime's run of a QDQ graph is from a BPU's integers, at every tap.

    Args:
        images: what the graph's one input takes, one run each.
        progress: called with the number of images done.

    Raises:
        ValueError: there are no images; or as ``execute``.
    """
    graph = IntegerGraph(model)
    tally = _Tally(graph, _open(model, graph))
    for done, image in enumerate(images, 1):
        tally.add(image, rounding)
        progress(done)
    if not tally.images:
        raise ValueError("no images to compare with")
    return tally.agreement(rounding)


def _open(model: onnx.ModelProto, graph: IntegerGraph) -> Any:
    """Open ``model`` in onnxruntime with each tap's integers as further outputs."""
    import os

    import onnx
    from onnx import helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tap in graph.taps.values():
        kind = helper.np_dtype_to_tensor_dtype(tap.dtype)
        copy.graph.output.append(helper.make_tensor_value_info(tap.integers, kind, None))
    return plain_session(copy, threads=os.cpu_count() or 1)


class _Tally:
    """Sums up image after image."""

    def __init__(self, graph: IntegerGraph, session: Any) -> None:
        self.graph, self.session = graph, session
        self.images = 0
        self.forced, self.free = ({name: Steps() for name in graph.taps} for _ in range(2))
        self.outputs = {name: [0.0, 0.0] for name in graph.outputs}
        self.sums: dict[str, SumRange] = {}

    def add(self, image: F32, rounding: Rounding) -> None:
        """Run one image in onnxruntime, then forced, then free."""
        (fed,) = self.graph.inputs
        names = [*self.graph.outputs, *(tap.integers for tap in self.graph.taps.values())]
        made = dict(zip(names, self.session.run(names, {fed: image}), strict=True))
        theirs: dict[str, Signed] = {name: made[tap.integers] for name, tap in self.graph.taps.items()}

        def force(name: str, own: Signed) -> Signed:
            self.forced[name] += Steps.between(own, theirs[name])
            return theirs[name]

        def keep(name: str, own: Signed) -> Signed:
            self.free[name] += Steps.between(own, theirs[name])
            return own

        for index, at_tap in enumerate((force, keep)):
            run = self.graph.run({fed: image}, rounding, at_tap)
            self._outputs(index, run, made)
        for name, sums in run.sums.items():
            self.sums[name] = self.sums.get(name, SumRange()) + sums
        self.images += 1

    def _outputs(self, index: int, run: Run, made: Mapping[str, F32]) -> None:
        import numpy as np

        for name, worst in self.outputs.items():
            largest = float(np.abs(made[name]).max()) or 1.0
            worst[index] = max(worst[index], float(np.abs(run.outputs[name] - made[name]).max()) / largest)

    def agreement(self, rounding: Rounding) -> Agreement:
        """Return the sum of it all."""
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
