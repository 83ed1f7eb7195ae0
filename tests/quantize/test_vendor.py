"""Precision files for the vendor compilers, without running the compilers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from bpudeploy.errors import StageError, UsageError
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.quantize.vendor import ScaleFile, node_info, node_precisions, quant_config, run_on_options, scale_file
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.target import March
from tests.quantize.networks import QdqBuilder

INT8, INT16, FLOAT32 = Precision.INT8, Precision.INT16, Precision.FLOAT32
BAYES = [March.BAYES, March.BAYES_E]
NASH = [March.NASH_E, March.NASH_M, March.NASH_P]
SHAPE = (1, 4, 8, 8)


class Net(QdqBuilder):
    """A QDQ graph whose tensors are all (1, 4, 8, 8); the output of node N is N:0."""

    output_shape = SHAPE

    def __init__(self) -> None:
        super().__init__(pixels=SHAPE)

    def model(self, *outputs: str) -> Any:
        model = super().model(*outputs)
        onnx.checker.check_model(model)
        return model

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        return self.op(op, list(inputs), f"{name}:0", name, **attributes)

    def round(self, tensor: str, precision: Precision, name: str = "", threshold: float = 1.0) -> str:
        """Round ``tensor`` as the tap ``name`` (by default itself); return what its readers read."""
        return self.tap(tensor, threshold / precision.levels, precision, name or tensor.removesuffix(".wide.rounded"))

    def conv1x1(self, name: str, read: str, in_float: bool = False) -> str:
        """A 1x1 convolution with int8 weights of scales 0.5, 1, 1.5, 2 and an int32 bias."""
        weight, scales = np.ones((4, 4, 1, 1), np.int8), np.arange(1, 5, dtype=np.float32) / 2
        if in_float:
            return self.node("Conv", name, read, self.constant(f"{name}.w", weight.astype(np.float32)))
        self.products.append(name)
        inputs = [
            self.weight(f"{name}.weight", weight, scales),
            self.weight(f"{name}.bias", np.ones(4, np.int32), scales),
        ]
        return self.node("Conv", name, read, *inputs)

    def product(self, name: str, *inputs: str) -> str:
        self.products.append(name)
        return self.node("MatMul", name, *inputs)


def mixed() -> Any:
    """An attention block and an MLP: int16 but for what most products read; the residual is held twice."""
    net = Net()
    stem = net.conv1x1("stem", net.round("pixels", INT8, threshold=127.0))
    wide = net.round(stem, INT16, f"{stem}.wide", threshold=32767.0)
    narrow = net.round(wide, INT8)
    q = net.round(net.conv1x1("q", narrow), INT16)
    k = net.node("Transpose", "turn", net.round(net.conv1x1("k", narrow), INT8), perm=[0, 1, 3, 2])
    v = net.round(net.conv1x1("v", narrow), INT8)
    logits = net.round(net.product("qk", q, k), INT16)
    shares = net.round(net.node("Softmax", "softmax", logits, axis=3), INT16)
    mix = net.round(net.product("av", shares, v), INT16)
    added = net.node("Add", "add", wide, mix)
    held = net.round(added, INT16, f"{added}.wide")
    half = net.round(net.node("Mul", "half", held, net.constant("half.c", np.float32(0.5))), INT8)
    up = net.round(net.node("Relu", "relu", net.conv1x1("up", half)), INT8)
    return net.model(net.conv1x1("head", up))


def plain() -> Any:
    """Int8 everywhere."""
    net = Net()
    stem = net.round(net.conv1x1("stem", net.round("pixels", INT8)), INT8)
    shares = net.round(net.node("Softmax", "softmax", stem, axis=3), INT8)
    return net.model(net.product("av", shares, stem))


def floating() -> Any:
    """Int8 products, all else in float, and one convolution that is in float too."""
    net = Net()
    stem = net.conv1x1("stem", net.round("pixels", INT8))
    root = net.node("Sqrt", "root", net.node("Reshape", "view", stem, net.constant("shape", np.array(SHAPE))))
    rest = net.conv1x1("rest", root, in_float=True)
    return net.model(net.conv1x1("head", net.round(net.node("Mul", "mul", rest, stem), INT8)))


def test_the_hand_made_graphs_run() -> None:
    import onnxruntime

    for make in (mixed, plain, floating):
        session = onnxruntime.InferenceSession(make().SerializeToString(), providers=["CPUExecutionProvider"])
        (made,) = session.run(None, {"pixels": np.ones(SHAPE, np.float32)})
        assert np.isfinite(made).all()


def test_the_scale_file_names_every_scale() -> None:
    found = scale_file(mixed())
    taps = {a.tap: a for a in found.activations}
    assert list(taps) == [
        *("pixels", "stem:0.wide", "stem:0", "q:0", "k:0", "v:0", "qk:0", "softmax:0", "av:0"),
        *("add:0.wide", "half:0", "relu:0"),
    ]
    assert (taps["pixels"].node, taps["pixels"].scale, taps["pixels"].threshold) == (None, 1.0, 127.0)
    wide, narrow = taps["stem:0.wide"], taps["stem:0"]
    assert wide.tensor == narrow.tensor == "stem:0" and wide.node == narrow.node == "stem"
    assert (wide.precision, wide.scale, narrow.precision) == (INT16, 1.0, INT8)
    assert narrow.scale == np.float32(1 / 127)
    weights = {w.tensor: w for w in found.weights}
    assert list(weights) == [f"{n}.weight" for n in ("stem", "q", "k", "v", "up", "head")], "biases follow from others"
    assert weights["k.weight"].nodes == ("k",) and weights["k.weight"].axis == 0
    assert weights["k.weight"].scales == (0.5, 1.0, 1.5, 2.0)
    assert (found.observer, found.images) == ("mse", 4)


def test_the_scale_file_goes_round() -> None:
    found = scale_file(mixed())
    text = found.model_dump_json()
    assert ScaleFile.model_validate_json(text) == found
    assert json.loads(text)["activations"][1]["precision"] == "int16"


def test_precisions_of_nodes_follow_views_and_what_is_not_stored() -> None:
    found = {n.name: n for n in node_precisions(mixed())}
    assert {name: (tuple(n.inputs.items()), n.output) for name, n in found.items()} == {
        "stem": (((0, INT8),), INT16),
        "q": (((0, INT8),), INT16),
        "k": (((0, INT8),), INT8),
        "turn": (((0, INT8),), INT8),
        "v": (((0, INT8),), INT8),
        "qk": (((0, INT16), (1, INT8)), INT16),
        "softmax": (((0, INT16),), INT16),
        "av": (((0, INT16), (1, INT8)), INT16),
        "add": (((0, INT16), (1, INT16)), INT16),
        "half": (((0, INT16),), INT8),
        "up": (((0, INT8),), INT8),
        "relu": (((0, INT8),), INT8),
        "head": (((0, INT8),), FLOAT32),
    }
    assert not any(n.in_float for n in found.values())
    assert [n.name for n in node_precisions(floating()) if n.in_float] == ["view", "root", "rest"]


@pytest.mark.parametrize("march", BAYES)
def test_node_info_names_what_is_not_int8_and_what_the_tool_would_widen(march: March) -> None:
    assert node_info(mixed(), march) == {
        "stem": {"ON": "BPU", "InputType0": "int8", "OutputType": "int16"},
        "q": {"ON": "BPU", "InputType0": "int8", "OutputType": "int16"},
        "qk": {"ON": "BPU", "InputType0": "int16", "InputType1": "int8", "OutputType": "int16"},
        "softmax": {"ON": "BPU", "InputType": "int16", "OutputType": "int16"},
        "av": {"ON": "BPU", "InputType0": "int16", "InputType1": "int8", "OutputType": "int16"},
        "add": {"ON": "BPU", "InputType": "int16", "OutputType": "int16"},
        "half": {"ON": "BPU", "InputType": "int16", "OutputType": "int8"},
        # What the tool would widen: moves, and products that read them.
        "turn": {"ON": "BPU", "InputType": "int8", "OutputType": "int8"},
        **{name: {"ON": "BPU", "InputType0": "int8", "OutputType": "int8"} for name in ("k", "v", "up")},
        "head": {"ON": "BPU", "InputType0": "int8"},
    }
    assert node_info(plain(), march) == {
        "stem": {"ON": "BPU", "InputType0": "int8", "OutputType": "int8"},
        "softmax": {"ON": "BPU", "InputType": "int8", "OutputType": "int8"},
        "av": {"ON": "BPU", "InputType": "int8"},
    }


@pytest.mark.parametrize("march", BAYES)
def test_node_info_sends_float_nodes_to_the_cpu(march: March) -> None:
    assert node_info(floating(), march) == {
        "root": {"ON": "CPU"},
        "rest": {"ON": "CPU"},
        "mul": {"ON": "BPU", "InputType": "int16", "OutputType": "int8"},
        "stem": {"ON": "BPU", "InputType0": "int8"},
        "head": {"ON": "BPU", "InputType0": "int8"},
    }
    assert "root" not in node_info(floating(), march, on_cpu={"root"}), "the tool leaves it there by itself"
    assert "softmax" not in node_info(mixed(), march, on_cpu={"softmax"})


def test_a_float_tensor_enters_the_bpu_as_int16() -> None:
    net = Net()
    stem = net.round(net.conv1x1("stem", net.round("pixels", INT8)), INT16)
    model = net.model(net.node("Add", "add", stem, net.node("Erf", "erf", stem)))
    assert node_info(model, March.BAYES, on_cpu={"erf"})["add"] == {"ON": "BPU", "InputType": "int16"}
    assert quant_config(model, March.NASH_E, on_cpu={"erf"})["op_config"] == {
        "Add": {"qtype": "int16"},
        "Erf": {"qtype": "float32"},
    }


@pytest.mark.parametrize("march", NASH)
def test_quant_config_names_inputs(march: March) -> None:
    assert quant_config(mixed(), march) == {
        "model_config": {"all_node_type": "int8", "model_output_type": "float32"},
        "op_config": {"Softmax": {"qtype": "int16"}, "Add": {"qtype": "int16"}, "Mul": {"qtype": "int16"}},
        "node_config": {"qk": {"input0": "int16"}, "av": {"input0": "int16"}},
    }
    assert quant_config(plain(), march)["op_config"] == quant_config(plain(), march)["node_config"] == {}
    assert json.loads(json.dumps(quant_config(mixed(), march))) == quant_config(mixed(), march)


@pytest.mark.parametrize("march", NASH)
def test_quant_config_in_int16_and_float(march: March) -> None:
    net = Net()
    read = net.round("pixels", INT16)
    conv = net.round(net.conv1x1("conv", read), INT16)
    net.conv1x1("other", net.round(net.conv1x1("narrow", read), INT8))
    both = net.round(net.product("both", conv, conv), INT16)
    made = quant_config(net.model(both), march)
    assert made["model_config"]["model_output_type"] == "int16"
    assert made["node_config"] == {
        "conv": {"qtype": "int16"},
        "narrow": {"qtype": "int16"},
        "both": {"input0": "int16", "input1": "int16"},
    }
    in_float = quant_config(floating(), march)
    assert in_float["op_config"] == {"Sqrt": {"qtype": "float32"}, "Mul": {"qtype": "int16"}}
    assert in_float["node_config"] == {"rest": {"qtype": "float32"}}


def test_bernoulli2_has_only_where() -> None:
    net = Net()
    stem = net.round(net.conv1x1("stem", net.round("pixels", INT8)), INT8)
    last = net.model(net.node("Softmax", "softmax", stem, axis=1))
    assert run_on_options(last, March.BERNOULLI2) == {"run_on_bpu": "softmax"}
    assert run_on_options(plain(), March.BERNOULLI2) == {}
    assert run_on_options(floating(), March.BERNOULLI2) == {"run_on_cpu": "root;rest"}
    assert run_on_options(floating(), March.BERNOULLI2, on_cpu={"rest"}) == {"run_on_cpu": "root"}
    with pytest.raises(StageError, match="stem is int16, but bernoulli2 supports only int8"):
        run_on_options(mixed(), March.BERNOULLI2)


EXPORTERS: list[tuple[Callable[..., Any], list[March]]] = [
    (node_info, BAYES),
    (quant_config, NASH),
    (run_on_options, [March.BERNOULLI2]),
]


@pytest.mark.parametrize(("export", "marches"), EXPORTERS, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("march", March)
def test_each_compiler_has_its_own_format(export: Callable[..., Any], marches: list[March], march: March) -> None:
    if march in marches:
        export(plain(), march)
        return
    with pytest.raises(UsageError, match=f"the compiler of {march} does not support") as caught:
        export(plain(), march)
    assert caught.value.hint


def test_a_model_that_is_not_what_its_record_says_is_refused() -> None:
    model = mixed()
    del model.metadata_props[:]
    with pytest.raises(StageError, match="no quantization record"):
        node_precisions(model)
    model = mixed()
    record = QuantizeRecord.read(model)
    record.model_copy(update={"taps": {**record.taps, "lost": record.taps["pixels"]}}).write(model)
    with pytest.raises(StageError, match="lost is recorded as rounded"):
        scale_file(model)
    model = mixed()
    zero = next(t for t in model.graph.initializer if t.name == "zero.int16")
    zero.data_type = onnx.TensorProto.UINT8
    with pytest.raises(StageError, match="neither int8 nor int16"):
        node_precisions(model)
