"""The quantizers that ``int8_peers`` compares: ours, onnxruntime's and NNCF's, each on one Job.

NNCF's run in another environment than the rest, with this file and a few light modules of bpudeploy.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INTEGER = ("Conv", "MatMul")
LAYOUT = ("Reshape", "Transpose", "Slice")

Quantize = Callable[[Path], None]


@dataclass(frozen=True)
class Job:
    """The same float graph and images for every method. ``raised`` is ``graph`` as opset 13; ``processed`` is that
    after onnxruntime's quant_pre_process. ``inputs`` are our stage's: kind, digest and path."""

    recipe: str
    sets: tuple[str, ...]
    graph: str
    raised: str
    processed: str
    keep_float: tuple[str, ...]
    attention: bool
    calibration: str
    preprocess: str
    evaluation: str
    truth: str
    images: int
    inputs: tuple[tuple[str, str, str], ...]

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Read what ``prepare`` wrote."""
        return cls(**json.loads((folder / "job.json").read_text()))


@dataclass(frozen=True)
class Method:
    """``start`` does what comes before the clock: imports and options. ``package`` names where it runs."""

    title: str
    package: str
    start: Callable[[Job, Mapping[str, Any]], Quantize]
    options: Mapping[str, Any] = field(default_factory=dict)


class Images:
    """Calibration images one at a time, as onnxruntime's CalibrationDataReader gives them."""

    def __init__(self, samples: str, preprocess: str, name: str) -> None:
        from safetensors import safe_open

        from bpudeploy.backends.samples import Normalisation

        file: Any = safe_open(samples, framework="numpy")
        self._pixels = file.get_slice("pixels")
        self._normalise = Normalisation.read(Path(preprocess))
        self._name = name
        self._left = iter(range(len(self)))

    def __len__(self) -> int:
        return int(self._pixels.get_shape()[0])

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give these images next."""
        self._left = iter(range(start_index, end_index))

    def image(self, index: int) -> dict[str, Any]:
        """Return what one run of the network is fed."""
        return {self._name: self._normalise.apply(self._pixels[index : index + 1])}

    def get_next(self) -> dict[str, Any] | None:
        """Return the next image, None after the last."""
        index = next(self._left, None)
        return None if index is None else self.image(index)


def ours(job: Job, options: Mapping[str, Any]) -> Quantize:
    """Run the quantize stage as the runner does: the plan's step on artifacts from the store."""
    import numpy as np  # noqa: F401
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401

    from bpudeploy.digest import Digest
    from bpudeploy.planning import pipeline
    from bpudeploy.planning.products import QUANTIZED
    from bpudeploy.spec.load import load_recipe
    from bpudeploy.stage import Artifact, Kind, StepContext

    (resolved,) = load_recipe(Path(job.recipe), job.sets)
    step = pipeline.plan(resolved).step(QUANTIZED)
    inputs = tuple(Artifact(Kind(kind), Digest(digest), Path(path)) for kind, digest, path in job.inputs)

    def quantize(out: Path) -> None:
        folder = out.with_suffix(".work")
        folder.mkdir()
        made = step.stage.run(StepContext(folder, lambda event: None), step.options, inputs)
        made[list(step.stage.gives.values()).index(Kind.QUANTIZED)].rename(out)

    return quantize


def ort(job: Job, options: Mapping[str, Any]) -> Quantize:
    """Run onnxruntime's quantize_static with the BPU's rules and ``extra`` options."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    def quantize(out: Path) -> None:
        name = onnx.load(job.processed, load_external_data=False).graph.input[0].name
        quantize_static(
            job.processed,
            out,
            Images(job.calibration, job.preprocess, name),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(INTEGER),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(job.keep_float),
            calibrate_method=CalibrationMethod[options["calibrate"]],
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, **options.get("extra", {})},
        )

    return quantize


def nncf(job: Job, options: Mapping[str, Any]) -> Quantize:
    """Run nncf.quantize: PERFORMANCE is its symmetric preset; a network with attention is a TRANSFORMER.

    ``every``: a TRANSFORMER leaves softmax times values in float; this takes the model for any other and names what
    is not Conv or MatMul as ignored instead, so that the same nodes run in int8 as with the rest.
    """
    os.environ["NNCF_CI"] = "1"  # no telemetry
    import onnx

    library = importlib.import_module("nncf")  # in its own environment only
    advanced = importlib.import_module("nncf.quantization.advanced_parameters")
    library.set_log_level("ERROR")

    def quantize(out: Path) -> None:
        model = onnx.load(job.raised)
        images = Images(job.calibration, job.preprocess, model.graph.input[0].name)
        ignored, extra = list(job.keep_float), dict(options.get("extra", {}))
        if options.get("every"):
            ignored += [n.name for n in model.graph.node if n.op_type not in (*INTEGER, *LAYOUT)]
        elif job.attention:
            extra["model_type"] = library.ModelType.TRANSFORMER
        if "smooth" in options:
            alphas = advanced.AdvancedSmoothQuantParameters(convolution=options["smooth"])
            extra["advanced_parameters"] = advanced.AdvancedQuantizationParameters(smooth_quant_alphas=alphas)
        made = library.quantize(
            model,
            library.Dataset(range(len(images)), images.image),
            preset=library.QuantizationPreset.PERFORMANCE,
            target_device=library.TargetDevice.ANY,
            subset_size=len(images),
            ignored_scope=library.IgnoredScope(names=sorted(set(ignored))),
            **extra,
        )
        onnx.save(made, out)

    return quantize


_STRONGER = {
    "OpTypesToExcludeOutputQuantization": list(INTEGER),  # what comes out of them is an int32 sum
    "CalibTensorRangeSymmetric": True,  # the observers see |x|, as the scales are symmetric
    "CalibStridedMinMax": 1,  # one image at a time, for every observer: memory
}
METHODS = {"ours": Method("bpudeploy", "bpudeploy", ours)}
for _calibrate in ("MinMax", "Percentile", "Entropy"):
    _name, _title = f"ort-{_calibrate.lower()}", f"onnxruntime {_calibrate}"
    METHODS[_name] = Method(_title, "onnxruntime", ort, {"calibrate": _calibrate})
    METHODS[f"{_name}-stronger"] = Method(
        f"{_title}, stronger", "onnxruntime", ort, {"calibrate": _calibrate, "extra": _STRONGER}
    )
METHODS |= {
    "nncf": Method("NNCF", "nncf", nncf),
    "nncf-every": Method("NNCF, every node", "nncf", nncf, {"every": True}),
    "nncf-smooth": Method("NNCF, SmoothQuant on Conv too", "nncf", nncf, {"smooth": 0.5}),
    "nncf-bias": Method("NNCF, full bias correction", "nncf", nncf, {"extra": {"fast_bias_correction": False}}),
}
