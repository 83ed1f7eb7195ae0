"""Run hb_mapper with the recipe's quantization: ``build.py [--integers] ARGUMENT...``.

The arguments are hb_mapper's; with ``--integers`` it ends when its integer model is written, before it compiles. Where
the folder has a ``quantization.json``, its calibration by ``calibration_type: max`` runs as usual; then each
calibration point gets the threshold that the file has for its tensor, and each constant its scales. A point that the
file does not have keeps the tool's threshold: these are inside operators that the tool decomposes, such as Softmax.
Tested with hmct 1.1.0; with another version that lacks a name used here it ends with an error that says so.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

PREPROCESS = "HZ_PREPROCESS_FOR_"
"""Prefix of the tensor that has mean and scale applied; the network's input itself is raw pixels."""
POINT = "HzCalibration"
MOVES = frozenset({"Reshape", "Transpose", "MaxPool", "Squeeze", "Unsqueeze", "Slice", "Split", "Flatten", POINT})
"""Operators whose output has the threshold of their input."""
OUTPUT_HEADROOM = 2.0
PACKAGE = "horizon_nn.quantizer.calibrater"
_CREATE = "create_calibration_pipeline"
_COMPILE = "compile"
INTEGERS = "--integers"

Thresholds = dict[str, dict[str, float]]
"""By tensor, by precision."""


def find(given: Thresholds, tensor: str, precision: str) -> float | None:
    """Return the threshold of a tensor: that of ``precision``, or else of another one (uint8 has that of int8)."""
    found = given.get(tensor[len(PREPROCESS) :] if tensor.startswith(PREPROCESS) else tensor, {})
    return found.get(precision, next(iter(found.values()), None))


def before(given: Thresholds, tensor: Any, precision: str) -> float | None:
    """Return the threshold of ``tensor``, or of what moves of values made it from; none for raw pixels."""
    while tensor.src_op is not None:
        found = find(given, tensor.name, precision)
        if found is not None or tensor.src_op.op_type not in MOVES:
            return found
        tensor = tensor.src_op.inputs[0]
    return None


def set_activations(model: Any, given: Thresholds) -> Any:
    for point in model.graph.type2nodes[POINT]:
        if point.tensor_type == "feature":
            found = before(given, point.inputs[0], point.qtype)
            if found is not None:
                point.thresholds = [found]
    return model


def use_unsigned(model: Any, asymmetric: Any) -> Any:
    """Let the tool make int8 points without negative values uint8, where this costs no padding operator."""
    precisions = {point.name: point.qtype for point in model.graph.type2nodes[POINT]}
    model = asymmetric(model)
    for point in model.graph.type2nodes[POINT]:
        readers = point.next_ops
        if point.qtype == "uint8" and any(op.op_type != "Conv" or any(op.attributes["pads"]) for op in readers):
            point.qtype = precisions[point.name]
    return model


def widen_outputs(model: Any, headroom: float) -> Any:
    """Give the network's outputs a larger range than the calibration images need: int16 has levels enough."""
    outputs = {output.name for output in model.graph.outputs}
    for point in model.graph.type2nodes[POINT]:
        if point.qtype == "int16" and point.outputs[0].name in outputs:
            point.thresholds = [headroom * value for value in point.thresholds]
    return model


def set_weights(model: Any, given: dict[str, list[float]]) -> Any:
    for point in model.graph.type2nodes[POINT]:
        scales = given.get(point.inputs[0].name) if point.tensor_type == "weight" else None
        if scales is not None and len(scales) == len(point.thresholds):
            point.thresholds = [127 * scale for scale in scales]
    return model


def install(given: dict[str, Any]) -> None:
    """Replace the function that returns the tool's calibration steps by one that adds ours.

    Raises:
        ImportError, AttributeError: this version of the tool is another one.
    """
    importlib.import_module("horizon_nn.api")
    calibrate = importlib.import_module(f"{PACKAGE}.calibrate")
    tool = importlib.import_module(f"{PACKAGE}.create_pipeline")
    base = importlib.import_module(f"{PACKAGE}.base")
    activation, search, weight = tool.activation_calibration, tool.ModelWiseSearch, tool.weight_calibration
    post, adjust, refine = tool.PostCalibration, tool.AdjustConvQuantParams, tool.RefineThreshold
    asymmetric = importlib.import_module(f"{PACKAGE}.activation.activation_asymmetric").ActivationAsymmetric
    getattr(calibrate, _CREATE)

    class Ours(base.CalibrationPass):  # type: ignore[misc, name-defined]
        def __init__(self, change: Any, values: Any) -> None:
            self._change, self._values = change, values

        @property
        def name(self) -> str:
            return self._change.__name__  # type: ignore[no-any-return]

        def run_impl(self, calibrated_model: Any, **_: Any) -> Any:
            return self._change(calibrated_model, self._values)

    def steps(quant_config: Any) -> Any:
        found = base.CalibrationPipeline()
        activations, weights = (set_activations, given["activations"]), (set_weights, given["weights"])
        found.set(Ours(use_unsigned, asymmetric()))
        found.set(activation(quant_config.activation_config, quant_config.modelwise_search, {}))
        found.set(search(quant_config.modelwise_search))
        found.set(Ours(*activations))
        found.set(post())
        found.set(Ours(*activations))  # for the points that the step before added
        found.set(Ours(widen_outputs, OUTPUT_HEADROOM))
        found.set(weight(quant_config.weight_config))
        found.set(Ours(*weights))
        if quant_config.march in ("bayes", "bayes-e"):
            found.set(adjust())
        found.set(refine())
        return found

    setattr(calibrate, _CREATE, steps)


def stop_before_compiling() -> None:
    """Make the tool end successfully where it would compile its integer model."""
    builder = importlib.import_module("horizon_nn.builder.model_builder").ModelBuilder
    getattr(builder, _COMPILE)
    setattr(builder, _COMPILE, lambda *_: sys.exit(0))


if __name__ == "__main__":
    _, *arguments = sys.argv
    recipe = Path("quantization.json")
    try:
        if recipe.is_file():
            install(json.loads(recipe.read_text(encoding="utf-8")))
        if arguments[0] == INTEGERS:
            stop_before_compiling()
        main = importlib.import_module("horizon_tc_ui.hb_mapper").main
    except (ImportError, AttributeError) as error:
        sys.exit(f"this hmct cannot take the recipe's thresholds ({error}): set calibration_type: default")
    sys.argv = ["hb_mapper", *(argument for argument in arguments if argument != INTEGERS)]
    main()
