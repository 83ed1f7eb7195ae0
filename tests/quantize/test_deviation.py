"""Layer deviations: compared with numpy, independent of what techniques moved between layers, in fixed memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from bpudeploy.host import open_with_outputs
from bpudeploy.quantize.deviation import BEST_DB, layer_deviations
from bpudeploy.quantize.findings import LayerReport
from bpudeploy.quantize.promote import promote
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.quantize import QuantizeSpec
from tests.quantize.networks import INT8, X5, Chain, make


def deviations_of(graph: onnx.ModelProto, quantized: onnx.ModelProto, images: Any) -> LayerReport:
    return layer_deviations(graph, quantized, images, lambda done: None)


def outputs(model: onnx.ModelProto, node: str, images: Any) -> list[Any]:
    (name,) = (n.output[0] for n in model.graph.node if n.name == node)
    session = open_with_outputs(model, [name], only=True)
    return [session.run([name], {"pixels": image})[0].astype(np.float64).ravel() for image in images]


def test_every_product_is_compared_as_numpy_would(rewritten: Any, images: Any) -> None:
    made = make(rewritten, images)
    done: list[int] = []
    found = layer_deviations(rewritten.model, made.qdq, images, done.append)
    assert found.images == 6 and done == [1, 2, 3, 4, 5, 6]
    assert {layer.node for layer in found.layers} == set(made.record.products)
    order = [n.name for n in rewritten.model.graph.node if n.name in made.record.products]
    assert [layer.node for layer in sorted(found.layers, key=lambda x: x.index)] == order
    assert [layer.sqnr_db for layer in found.layers] == sorted(layer.sqnr_db for layer in found.layers)
    for layer in (found.layers[0], found.layers[-1], next(x for x in found.layers if x.node == order[-1])):
        pairs = [outputs(model, layer.node, images) for model in (rewritten.model, made.qdq)]
        x, y = (np.concatenate(part) for part in pairs)
        if layer.op == "Conv" and ".attn." not in layer.node:
            # Other taps, other kernels: a value between two steps may round the other way, which some CPUs show.
            sqnr = 10 * math.log10((x @ x) / ((x - y) @ (x - y)))
            assert layer.sqnr_db == pytest.approx(sqnr, abs=0.1)
            assert layer.cosine == pytest.approx(x @ y / math.sqrt((x @ x) * (y @ y)), abs=1e-4)


def test_a_layer_reports_the_precisions_of_its_inputs(rewritten: Any, images: Any) -> None:
    spec = INT8.model_copy(update={"int16": ("op:Softmax",)})
    found = {
        layer.node: layer
        for layer in deviations_of(rewritten.model, make(rewritten, images, spec).qdq, images[:1]).layers
    }
    wide = {name for name, layer in found.items() if Precision.INT16 in layer.inputs}
    readers = {n.name for n in rewritten.model.graph.node if n.op_type == "MatMul"}
    assert wide < readers and len(wide) == 6 and all(len(found[n].inputs) == 2 for n in readers)
    assert {found[n].input_precisions for n in wide} <= {"int8 x int16", "int16 x int8"}
    assert {found[n].input_precisions for n in set(found) - wide} == {"int8"}


def test_a_network_without_rounding_does_not_deviate(rewritten: Any, images: Any) -> None:
    same = onnx.ModelProto()
    same.CopyFrom(rewritten.model)
    products = tuple(n.name for n in same.graph.node if n.op_type in ("Conv", "MatMul"))
    QuantizeRecord(observer="mse", images=1, taps={}, products=products).write(same)
    found = deviations_of(rewritten.model, same, images[:2])
    assert {(x.sqnr_db, round(x.cosine, 9)) for x in found.layers} == {(BEST_DB, 1.0)}
    assert {x.inputs for x in found.layers} == {(Precision.FLOAT32,)}


def test_what_is_promoted_deviates_less(rewritten: Any, images: Any) -> None:
    made = make(rewritten, images)
    taps = [name for name, tap in made.record.taps.items() if tap.precision is Precision.INT8]
    int8 = {x.node: x.sqnr_db for x in deviations_of(rewritten.model, made.qdq, images).layers}
    int16 = {x.node: x.sqnr_db for x in deviations_of(rewritten.model, promote(made.qdq, taps), images).layers}
    assert all(int16[name] > int8[name] for name in int8)


@pytest.mark.parametrize("rules", [None, X5], ids=["cpu", "x5"])
def test_techniques_that_move_scales_and_means_between_layers_are_undone(
    rewritten: Any, images: Any, rules: Any
) -> None:
    """Centred values, and a softmax in two ranges where MatMul takes int8 only."""
    spec = QuantizeSpec(int16=())
    made = make(rewritten, images, spec, *([rules] if rules else []))
    found = deviations_of(rewritten.model, made.qdq, images)
    products = {n.removesuffix(".small").removesuffix(".large") for n in made.record.products}
    assert {x.node for x in found.layers} == products, "a product in two ranges is one"
    assert (len(products) < len(made.record.products)) == (rules is not None)
    assert found.layers[0].sqnr_db > 12 and found.layers[0].cosine > 0.97


def test_migrated_channels_are_divided_again() -> None:
    chain = Chain()
    made = make(chain, chain.images, INT8.model_copy(update={"migrate": True}))
    assert "first" in made.record.factors
    found = {x.node: x for x in deviations_of(chain.model, made.qdq, chain.images).layers}
    assert found["first"].sqnr_db > 25
    blind = made.record.model_copy(update={"factors": {}})
    blind.write(made.qdq)
    assert {x.node: x for x in deviations_of(chain.model, made.qdq, chain.images).layers}["first"].sqnr_db < 10


def test_images_are_looked_at_one_by_one(rewritten: Any, images: Any) -> None:
    made = make(rewritten, images)
    alive: list[int] = []

    def one_by_one() -> Iterator[Any]:
        for i, image in enumerate(images):
            alive.append(i)
            yield image

    seen: list[list[int]] = []
    found = layer_deviations(rewritten.model, made.qdq, one_by_one(), lambda done: seen.append(list(alive)))
    assert [len(s) for s in seen] == [1, 2, 3, 4, 5, 6], "none is asked for before the one before it is done"
    backwards = deviations_of(rewritten.model, made.qdq, images[::-1])
    for a in found.layers:
        (b,) = (x for x in backwards.layers if x.node == a.node)
        assert a.sqnr_db == pytest.approx(b.sqnr_db, abs=1e-9)
