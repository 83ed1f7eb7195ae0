"""What each quantization technique is worth, alone and left out, on real weights (docs/explanation/quantization.md).

.venv/bin/python -m benchmarks.int8_levers recipes/quickstart.yaml          about 20 minutes on two cores
.venv/bin/python -m benchmarks.int8_levers RECIPE --rows default,plain      some rows only
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

import bpudeploy
from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import CALIBRATION, EVALUATION, GRAPH, PREPROCESSING
from bpudeploy.quantize.scheme import quantize_graph
from bpudeploy.restructure.record import GraphRecord
from bpudeploy.results.statistics import paired_drop
from bpudeploy.run.runner import run
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.quantize import Observer, QuantizeSpec, WeightRounding, WeightScale, WeightSpec
from bpudeploy.stages.quantize import score
from bpudeploy.store.objects import default_root

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = PrecisionRules()
"""Products in int8 or int16, all else in float32."""
INT8_MATMUL = PrecisionRules(matmul=(Precision.INT8,))
INT16_ELSEWHERE = PrecisionRules(matmul=(Precision.INT8,), elsewhere=Precision.INT16)
"""The X5's rules."""
INT8_ELSEWHERE = PrecisionRules(conv=(Precision.INT8,), matmul=(Precision.INT8,), elsewhere=Precision.INT8)
"""Everything in int8, residual stream and softmax included; a norm's squares stay in float."""
PLAIN_WEIGHTS = WeightSpec(scale=WeightScale.MAX, rounding=WeightRounding.NEAREST, correct_bias=False)
PLAIN = QuantizeSpec(
    observer=Observer.MINMAX, centre=False, split=False, migrate=False, int16=(), weights=PLAIN_WEIGHTS
)
DEFAULT = QuantizeSpec()


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    spec: QuantizeSpec
    rules: PrecisionRules = CPU


def _with(spec: QuantizeSpec, **changes: object) -> QuantizeSpec:
    weights = {k: v for k, v in changes.items() if k in WeightSpec.model_fields}
    rest = {k: v for k, v in changes.items() if k not in weights}
    return spec.model_copy(update={**rest, "weights": spec.weights.model_copy(update=weights)})


def rows() -> Iterator[Row]:
    """Yield the table: plain int8, each lever alone, the default, the default without each, and marches."""
    yield Row("plain", PLAIN)
    yield Row("plain, one scale a weight tensor", _with(PLAIN, per_channel=False))
    for observer in (Observer.PERCENTILE, Observer.ENTROPY, Observer.MSE):
        yield Row(f"+ {observer} thresholds", _with(PLAIN, observer=observer))
    yield Row("+ weight scales by mse", _with(PLAIN, scale=WeightScale.MSE))
    yield Row("+ weights reconstructed", _with(PLAIN, rounding=WeightRounding.RECONSTRUCT))
    yield Row("+ biases corrected", _with(PLAIN, correct_bias=True))
    yield Row("+ values centred", _with(PLAIN, centre=True))
    yield Row("+ scales migrated", _with(PLAIN, migrate=True))
    yield Row("+ softmax split in two", _with(PLAIN, split=True), INT8_MATMUL)
    yield Row("+ softmax in int16", _with(PLAIN, int16=("op:Softmax",)))
    yield Row("+ last layer in int16", _with(PLAIN, int16=("last",)))
    yield Row("default", DEFAULT)
    yield Row("default, minmax thresholds", _with(DEFAULT, observer=Observer.MINMAX))
    yield Row("default, weights to the nearest", _with(DEFAULT, rounding=WeightRounding.NEAREST))
    yield Row("default, biases as they are", _with(DEFAULT, correct_bias=False))
    yield Row("default, values not centred", _with(DEFAULT, centre=False))
    yield Row("default, scales not migrated", _with(DEFAULT, migrate=False))
    yield Row("default, softmax in int8", _with(DEFAULT, int16=("last",)))
    yield Row("default, last layer in int8", _with(DEFAULT, int16=("op:Softmax",)))
    yield Row("MatMul in int8 only (split)", DEFAULT, INT8_MATMUL)
    yield Row("MatMul in int8 only, not split", _with(DEFAULT, split=False), INT8_MATMUL)
    yield Row("int16 elsewhere (X5's rules)", DEFAULT, INT16_ELSEWHERE)
    yield Row("int8 elsewhere, residual stream too", DEFAULT, INT8_ELSEWHERE)


def main() -> None:
    """Print one line for each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rows", help="names, separated by semicolons; all when left out")
    args = parser.parse_args()
    resolved = bpudeploy.load(args.recipe)
    result = run(pipeline.plan(resolved).until(GRAPH), default_root(), lambda event: None)
    normalise = Normalisation.read(result.artifact(PREPROCESSING).path)
    calibration = Samples.read(result.artifact(CALIBRATION).path)
    evaluation = Samples.read(result.artifact(EVALUATION).path)
    truth = Scores.read(result.artifact(GRAPH, "scores").path)
    model = onnx.load(result.artifact(GRAPH).path)
    keep_float = GraphRecord.read(model).keep_float
    print(f"{resolved.recipe.name}: float top-1 {100 * truth.top1:.1f} % of {len(evaluation)} images")
    print("| row | top-1 % | change, points (95 %) | as float % | logits' error % | quantize s |")
    print("|---|---|---|---|---|---|")
    wanted = args.rows.split(";") if args.rows else None
    for row in rows():
        if wanted is not None and row.name not in wanted:
            continue
        started = time.perf_counter()
        made = quantize_graph(
            model,
            keep_float,
            (),
            row.rules,
            row.spec,
            lambda i: normalise.apply(calibration.pixels[i : i + 1]),
            len(calibration),
            lambda done: None,
        )
        seconds = time.perf_counter() - started
        scores = score(made.qdq.SerializeToString(), evaluation, normalise, lambda done: None)
        print(accuracy_row(row.name, scores.logits, truth, seconds), flush=True)


def accuracy_row(name: str, logits: NDArray[np.float32], truth: Scores, seconds: float) -> str:
    """Return top-1, its change from float, and the root mean square error of the centred logits over theirs."""
    before, after = truth.logits.argmax(axis=1), logits.argmax(axis=1)
    right = [[bool(x) for x in answers == truth.labels] for answers in (before, after)]
    drop = paired_drop(right[0], right[1]).points
    centred = [x - x.mean(axis=1, keepdims=True) for x in (truth.logits, logits)]
    error = float(np.sqrt(((centred[1] - centred[0]) ** 2).mean() / (centred[0] ** 2).mean()))
    return (
        f"| {name} | {100 * np.mean(right[1]):.1f} "
        f"| {0 - drop.value:+.1f} ({0 - drop.high:+.1f} to {0 - drop.low:+.1f}) "
        f"| {100 * (before == after).mean():.1f} | {100 * error:.1f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
