"""The real hb_mapper, if installed (make toolchain): it accepts our inputs, and we parse its output."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file

from bpudeploy.backends.base import FINDINGS, SIMULATOR, CompileInputs, SimulatingBackend, SimulationInputs
from bpudeploy.backends.check import example_inputs
from bpudeploy.backends.horizon.checker import check
from bpudeploy.backends.horizon.toolchain.installed import Toolchain
from bpudeploy.backends.registry import load_backend
from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.cli.main import main
from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Device
from bpudeploy.digest import digest_file
from bpudeploy.errors import StageError
from bpudeploy.events import Progress
from bpudeploy.host import open_session, open_with_outputs
from bpudeploy.quantize.findings import RepairReport
from bpudeploy.quantize.scheme import Quantized, quantize_graph
from bpudeploy.spec.compile_options import CalibrationType, HbMapperOptions, InputType, OptimizeLevel
from bpudeploy.spec.load import load_target
from bpudeploy.spec.precision import PrecisionRules
from bpudeploy.spec.quantize import QuantizeSpec
from bpudeploy.spec.target import March
from bpudeploy.stage import Artifact, Kind, StepContext
from bpudeploy.stages.compile import CompileStageOptions
from bpudeploy.stages.feed import run_all
from bpudeploy.stages.repair import RepairOptions
from bpudeploy.stages.repair_binary import BinaryRepairOptions, repair_in_binary
from bpudeploy.testing import check_backend
from tests.backends.horizon import networks
from tests.backends.horizon.conftest import Compiling, check_reports
from tests.backends.horizon.networks import Joins, Windows
from tests.backends.horizon.record import network

MARCHES = [March.BERNOULLI2, March.BAYES, March.BAYES_E]
pytestmark = pytest.mark.usefixtures("toolchain")


@pytest.mark.parametrize("march", MARCHES)
def test_it_keeps_the_protocol(march: March, tmp_path: Path) -> None:
    check_backend(load_backend("hb_mapper"), tmp_path, march.value, HbMapperOptions(optimize_level=OptimizeLevel.O0))


@pytest.mark.parametrize("rt", ["nv12", "rgb"])
def test_it_compiles_and_reports_its_log(rt: str, toolchain: Toolchain, compiling: Compiling) -> None:
    binary = compiling("hb_mapper", input_type_rt=rt, optimize_level="O0")
    assert binary.suffix == ".bin" and binary.stat().st_size > 1000
    found = check_reports(compiling, binary, rt)
    assert (found.backend, found.march, found.tool) == ("hb_mapper", "bayes-e", dict(toolchain.fingerprint))
    assert found.told.versions["hb_mapper"] == toolchain.versions["hb_mapper"]
    assert "of `bpudeploy toolchain`" in compiling.notes and "compiler's estimate at O0" in compiling.notes
    done = [e.done for e in compiling.events if isinstance(e, Progress) and e.unit == "%"]
    assert done[-1] == 100 and len(done) > 2, "the compiler's own progress bars"


def test_a_binary_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    inputs, backend = example_inputs(tmp_path, "bayes-e"), load_backend("hb_mapper")
    assert isinstance(backend, SimulatingBackend)
    made: dict[str, tuple[Artifact, Artifact]] = {}
    for kind in ("recipe", "kl"):
        work = tmp_path / kind
        work.mkdir()
        options = HbMapperOptions(optimize_level=OptimizeLevel.O0, calibration_type=CalibrationType(kind))
        binary = backend.compile(StepContext(work, lambda event: None), inputs, options)
        simulator = Artifact(Kind.SIMULATOR, digest_file(work / SIMULATOR), work / SIMULATOR)
        made[kind] = simulator, Artifact(Kind.BINARY, digest_file(binary), binary)
    pixels = Samples.read(inputs.calibration.path).pixels
    notes: list[str] = []
    for second in ("recipe", "kl"):
        context = StepContext(tmp_path / f"scores-{second}", lambda event: notes.append(getattr(event, "text", "")))
        context.dir.mkdir()
        given = SimulationInputs(made["recipe"][0], made[second][1], pixels)
        if second == "recipe":
            assert backend.simulate(context, given, options).shape == (4, 3)
            assert "the same integers" in notes[-1] and "on 4 images" in notes[-1]
        else:
            with pytest.raises(StageError, match="computes other integers"):
                backend.simulate(context, given, options)


def compiled(work: Path, inputs: CompileInputs, options: HbMapperOptions) -> list[Artifact]:
    """Return binary, simulator and findings."""
    work.mkdir()
    binary = load_backend("hb_mapper").compile(StepContext(work, lambda event: None), inputs, options)
    files = {Kind.BINARY: binary, Kind.SIMULATOR: work / SIMULATOR, Kind.FINDINGS: work / FINDINGS}
    return [Artifact(kind, digest_file(file), file) for kind, file in files.items()]


def test_the_integers_can_be_had_without_compiling_and_by_tensor(tmp_path: Path) -> None:
    inputs, backend = example_inputs(tmp_path, "bayes-e"), load_backend("hb_mapper")
    assert isinstance(backend, SimulatingBackend)
    options = HbMapperOptions(optimize_level=OptimizeLevel.O0)
    binary, simulator, findings = compiled(tmp_path / "compiled", inputs, options)
    pixels = Samples.read(inputs.calibration.path).pixels
    works = [StepContext(tmp_path / name, lambda event: None) for name in ("a", "b", "c")]
    for work in works:
        work.dir.mkdir()
    logits = backend.simulate(works[0], SimulationInputs(simulator, binary, pixels), options)
    np.testing.assert_array_equal(backend.integers(works[1], inputs, pixels, options), logits)
    profile = backend.profile(findings.path)
    convolutions = {node.name for node in onnx.load(inputs.graph.path).graph.node if node.op_type == "Conv"}
    assert profile.total_us > 0 and convolutions & profile.nodes().keys()
    tensors = list(backend.tensors(works[2], simulator, pixels, options))
    assert len(tensors) == len(pixels) and all(t.keys() == tensors[0].keys() != set() for t in tensors)


def assembled(nodes: list[Any], weights: dict[str, Any]) -> onnx.ModelProto:
    """Return a network from ``x``, the size of ``example_inputs``, to three logits."""
    graph = helper.make_graph(
        nodes,
        "assembled",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, (1, 3, 1, 1))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)


def pixels_of(inputs: CompileInputs) -> Any:
    return Samples.read(inputs.calibration.path).pixels


def images_of(inputs: CompileInputs) -> list[Any]:
    normalise, pixels = Normalisation.read(inputs.preprocess.path), pixels_of(inputs)
    return [normalise.apply(pixels[i : i + 1]) for i in range(len(pixels))]


def quantize_into(
    inputs: CompileInputs, model: onnx.ModelProto, rules: PrecisionRules, spec: QuantizeSpec
) -> Quantized:
    """Quantize ``model`` on the calibration images of ``inputs``, and put it in place of their network."""
    images = images_of(inputs)
    made = quantize_graph(model, (), (), rules, spec, lambda i: images[i], len(images), lambda done: None)
    made.record.write(made.qdq)
    onnx.save(made.prepared, inputs.graph.path)
    onnx.save(made.qdq, inputs.quantized.path)
    return made


@pytest.mark.parametrize("target", ["rdk-x5", "rdk-ultra"])
def test_it_computes_in_the_precisions_of_the_target(target: str, compiling: Compiling) -> None:
    """Squeeze-and-excitation after a strided depthwise convolution: neither pools nor such convolutions read int16."""
    rules = load_target(target, Path())[0].precision
    march = load_target(target, Path())[0].march
    inputs = example_inputs(compiling.folder, march.value)
    rng = np.random.default_rng(0)
    shapes = {"a": (8, 3, 3, 3), "d": (8, 1, 3, 3), "r": (8, 8, 1, 1), "w": (3, 8, 4, 4)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["stem"], "stem", pads=[1] * 4),
        helper.make_node("Conv", ["stem", "d"], ["strided"], "strided", group=8, strides=[2, 2], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["strided"], ["pool"], "pool"),
        helper.make_node("Conv", ["pool", "r"], ["reduce"], "reduce"),
        helper.make_node("Sigmoid", ["reduce"], ["gate"], "gate"),
        helper.make_node("Mul", ["strided", "gate"], ["scaled"], "scaled"),
        helper.make_node("Conv", ["scaled", "w"], ["logits"], "logits"),
    ]
    model = assembled(nodes, {k: rng.standard_normal(v) for k, v in shapes.items()})
    quantize_into(inputs, model, rules, QuantizeSpec(int16=("*",)))
    compiling.work.mkdir()
    options = HbMapperOptions(optimize_level=OptimizeLevel.O0)
    load_backend("hb_mapper").compile(StepContext(compiling.work, compiling.events.append), inputs, options)
    assert compiling.findings.told.warnings == ()


def test_int16_results_are_right_on_average(tmp_path: Path) -> None:
    """The tool floors accumulators; biases undo it for a convolution, an Add after it and a product before it."""
    inputs, backend = example_inputs(tmp_path, "bayes-e"), load_backend("hb_mapper")
    assert isinstance(backend, SimulatingBackend)
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 3, 1, 1), "m": (6, 6, 1, 1), "w": (3, 6, 8, 8)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["stem"], "stem"),
        helper.make_node("Mul", ["stem", "stem"], ["square"], "square"),
        helper.make_node("Conv", ["square", "m"], ["mixed"], "mixed"),
        helper.make_node("Add", ["stem", "mixed"], ["sum"], "sum"),
        helper.make_node("Conv", ["sum", "w"], ["logits"], "logits"),
    ]
    model = assembled(nodes, {k: rng.uniform(0.1, 1.0, v) for k, v in shapes.items()})
    made = quantize_into(inputs, model, load_target("rdk-x5", Path())[0].precision, QuantizeSpec(int16=("*",)))
    options = HbMapperOptions(optimize_level=OptimizeLevel.O0, input_type_rt=InputType.RGB)
    _, simulator, _ = compiled(tmp_path / "compiled", inputs, options)
    work = StepContext(tmp_path / "tensors", lambda event: None)
    work.dir.mkdir()
    step = made.record.taps["sum"].threshold / 32767
    truth = open_with_outputs(made.prepared, ["sum"], only=True)
    errors = []
    images = images_of(inputs)
    for image, found in zip(images, backend.tensors(work, simulator, pixels_of(inputs), options), strict=True):
        (exact,) = truth.run(["sum"], {"x": image})
        errors.append(found["sum"].mean(axis=(0, 2, 3)) - exact.mean(axis=(0, 2, 3)) / step)
    assert np.abs(np.mean(errors, axis=0)).max() < 0.5, "steps of int16; it is -1.6 otherwise"


def test_a_factor_for_each_row_is_left_where_it_is(tmp_path: Path) -> None:
    """The tool folds a factor for each channel into the next convolution, and with it the use of migrated scales."""
    inputs, backend = example_inputs(tmp_path, "bayes-e"), load_backend("hb_mapper")
    assert isinstance(backend, SimulatingBackend)
    rng, sizes = np.random.default_rng(0), np.logspace(-1.5, 1.5, 8)
    weights = {
        "a": rng.standard_normal((8, 3, 1, 1)) * sizes.reshape(-1, 1, 1, 1),
        "w": rng.standard_normal((512, 8, 1, 1)) / sizes.reshape(1, -1, 1, 1),
        "n": rng.standard_normal((3, 512, 1, 1)),
        "e": rng.standard_normal((3, 3, 8, 8)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["stem"], "stem"),
        helper.make_node("Add", ["stem", "stem"], ["sum"], "sum"),
        helper.make_node("Conv", ["sum", "w"], ["wide"], "wide"),
        helper.make_node("Conv", ["wide", "n"], ["narrow"], "narrow"),
        helper.make_node("Conv", ["narrow", "e"], ["logits"], "logits"),
    ]
    model = assembled(nodes, weights)
    rules, images = load_target("rdk-x5", Path())[0].precision, images_of(inputs)
    session = open_session(model.SerializeToString())
    truth = np.concatenate([session.run(None, {"x": image})[0].reshape(1, -1) for image in images])
    errors = []
    for migrate in (False, True):
        quantize_into(inputs, model, rules, QuantizeSpec(int16=(), migrate=migrate))
        work = StepContext(tmp_path / f"work{migrate}", lambda event: None)
        work.dir.mkdir()
        options = HbMapperOptions(optimize_level=OptimizeLevel.O0, input_type_rt=InputType.RGB)
        found = backend.integers(work, inputs, pixels_of(inputs), options).reshape(truth.shape)
        errors.append(float(((found - truth) ** 2).mean()))
    assert errors[1] < 0.5 * errors[0]


def test_repair_promotes_what_wins_in_the_integers(tmp_path: Path) -> None:
    """The scores that it is given are wrong on purpose, so that the limit seems to be exceeded."""
    inputs, backend = example_inputs(tmp_path, "bayes-e"), load_backend("hb_mapper")
    assert isinstance(backend, SimulatingBackend)
    chosen = CompileStageOptions(March.BAYES_E, HbMapperOptions(optimize_level=OptimizeLevel.O0))
    made = compiled(tmp_path / "compiled", inputs, HbMapperOptions(optimize_level=OptimizeLevel.O0))
    samples = Samples.read(inputs.calibration.path)
    session = open_session(str(inputs.graph.path))
    normalise = Normalisation.read(inputs.preprocess.path)
    logits = np.concatenate([out.reshape(len(out), -1) for _, (out,) in run_all(session, samples, normalise)])
    truth = Scores(logits, logits.argmax(axis=1))
    wrong = Scores(-logits, truth.labels)
    scores = [
        Artifact(Kind.SCORES, digest_file(file), file)
        for file in (truth.write(tmp_path / "truth.safetensors"), wrong.write(tmp_path / "wrong.safetensors"))
    ]
    options = BinaryRepairOptions(chosen, RepairOptions(0.0, None, PrecisionRules(), corrected=False))
    work = StepContext(tmp_path / "repair", lambda event: None)
    work.dir.mkdir()
    given = (inputs.graph, inputs.quantized, inputs.calibration, inputs.preprocess, inputs.calibration)
    *_, report = repair_in_binary(backend, chosen).run(work, options, (*given, scores[0], *made, scores[1]))
    found = RepairReport.read(report)
    assert found.trials[0].promoted == 0 and found.trials[0].drop == 100.0
    assert found.latency_us is not None and found.latency_us > 0
    assert all(c.error > 0 and c.cost is not None for c in found.ranked)
    assert not found.ranked or found.holds, "the float answers are nearly exact in int16"


def test_several_optimizations_are_passed_on(compiling: Compiling) -> None:
    compiling("hb_mapper", optimize_level="O0", optimization=["set_Conv_input_int8", "set_model_output_int8"])
    assert "set_Conv_input_int8;set_model_output_int8" in compiling.findings.config


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"core_num": 2}, "not support execute one model on 2 core", "compile.hb_mapper.core_num"),
        ({"optimization": ["set_Conv_input_int8"], "core_num": 3}, "core num", "compile.hb_mapper.core_num"),
        ({"compile_mode": "balance"}, "please set balance_factor", "balance_factor"),
    ],
)
def test_its_reason_is_shown_with_a_fix(options: dict[str, Any], message: str, hint: str, compiling: Compiling) -> None:
    with pytest.raises(StageError, match=message) as raised:
        compiling("hb_mapper", optimize_level="O0", **options)
    assert hint in (raised.value.hint or "")
    kept = re.search(r"(/\S+)$", raised.value.hint or "")
    assert kept and {"console.log", "config.yaml", "hb_mapper_makertbin.log"} <= {
        p.name for p in Path(kept[1]).iterdir()
    }


@pytest.mark.parametrize("march", MARCHES)
def test_inspect_agrees_with_the_checker_on_a_held_out_network(march: March) -> None:
    model = onnx.shape_inference.infer_shapes(network())
    checked = check(model, march, HbMapperOptions(), lambda event: None)
    ours = {n.name for n in placement(model, march).nodes if n.device is not Device.BPU}
    if march is not March.BERNOULLI2:
        assert ours == checked.cpu - {"attention.softmax"}, "on the BPU only with an option, which the checker lacks"
    else:
        assert len(ours ^ checked.cpu) <= 1, "on X3 a view between two others may be folded"


@pytest.mark.parametrize("target", ["rdk-x5", "rdk-ultra"])
def test_a_vision_transformer_s_binary_has_the_integers_that_are_scored(
    target: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its 17 keys are no multiple of 4: hbdk's product reads what lies beyond them, unless they are padded."""
    level = "compile.hb_mapper.optimize_level=O0"
    assert main(["run", str(tiny), "--set", f"target={target}", "--set", level, "--until", "compile"]) == 0
    out = capsys.readouterr()
    assert "the same integers as the tool's integer model on 6 images" in out.err + out.out
    assert "threshold" not in out.err, "every tensor has the recipe's threshold and precision"


@pytest.mark.parametrize(
    ("network", "target"),
    [(Windows, "rdk-x5"), (Windows, "rdk-ultra"), (Joins, "rdk-x5")],
    ids=["windows, X5", "windows, Ultra", "joins, X5"],
)
def test_moves_and_joins_keep_the_precision_that_was_asked_for(
    network: type[Windows | Joins], target: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Concat before a Reshape, or of int16 tensors, became int16, with the convolution after it."""
    torch.manual_seed(0)
    save_file(network().state_dict(), tiny.with_name("network.safetensors"))
    shutil.copy(networks.__file__, tiny.parent)
    recipe = tiny.with_name("network.yaml")
    recipe.write_text(
        "extends: tiny.yaml\nname: network\n"
        f"model: {{module: networks.py:{network.__name__}, source: network.safetensors, trust: true, head: null,"
        " architecture: null}\n"
        "preprocess: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], interpolation: bilinear, crop_pct: 1.0}\n"
    )
    level = "compile.hb_mapper.optimize_level=O0"
    assert main(["run", str(recipe), "--set", f"target={target}", "--set", level, "--until", "compile"]) == 0
    out = capsys.readouterr()
    assert "the same integers as the tool's integer model on 6 images" in out.err + out.out
    assert "threshold or precision" not in out.err


def test_profile_shows_where_the_time_goes(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["profile", str(tiny), "--set", "target=rdk-x5", "--set", "compile.hb_mapper.optimize_level=O0"]
    assert main([*argv, "--json", "--page", "profile.html"]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    ops = {layer["op"] for layer in found["layers"]}
    assert {"Conv", "Matmul", "Mul"} <= ops and found["on_cpu"] == [], ops
    assert 0.5 * found["total_us"] < max(layer["end_us"] for layer in found["layers"]) < 2 * found["total_us"]
    compared = found["against_prediction"]
    assert {"Conv", "MatMul"} <= {node["op"] for node in compared}
    assert all(node["predicted_us"] > 0 and node["compiler_us"] is not None for node in compared)
    off = [abs(node["compiler_us"] - node["predicted_us"]) for node in compared]
    assert off == sorted(off, reverse=True)
    assert found["subgraphs"][0]["loaded_bytes"] > 0 and "patch_embed" in Path("profile.html").read_text()
    assert main([*argv[:2], str(tiny), *argv[2:], "--layers", "3"]) == 0
    text = capsys.readouterr().out
    assert "computing units busy" in text and "+0  Conv" in text and "differ most" in text


def test_inspect_with_compiler_shows_the_checkers_placement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(onnx.shape_inference.infer_shapes(network()), tmp_path / "m.onnx")
    argv = ["inspect", str(tmp_path / "m.onnx"), "--target", "rdk-x5", "--original", "--with-compiler"]
    assert main(argv) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "placed by hb_mapper 1.24.3 checker" in out and re.search(r"agrees on (\d+) of \1 nodes", out)


def test_an_unsupported_operator_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network()
    model.graph.node[1].op_type = "Shrink"
    onnx.save(model, tmp_path / "m.onnx")
    argv = ["inspect", str(tmp_path / "m.onnx"), "--target", "rdk-x5", "--original", "--with-compiler"]
    assert main(argv) == 3
    err = capsys.readouterr().err
    assert "not support these cpu operators: Shrink" in err and "hb_mapper checker:" in err


def crashing() -> onnx.ModelProto:
    """Return a part of an attention block that crashes the optimizer of hb_mapper 1.24.3 with SIGSEGV."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def c(name: str, *shape: int, value: Any = None) -> str:
        array = rng.normal(size=shape).astype(np.float32) if value is None else np.asarray(value)
        constants.append(numpy_helper.from_array(array, name))
        return name

    def n(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        outputs = [output] if op != "Split" else [output, "k", "v"]
        nodes.append(helper.make_node(op, inputs, outputs, name=f"/{output}", **attributes))
        return output

    n("Conv", ["pixels", c("w", 4, 3, 4, 4), c("b", 4)], "conv", kernel_shape=[4, 4], strides=[4, 4])
    n("Transpose", [n("Reshape", ["conv", c("s0", value=[1, 4, 4])], "flat")], "tokens", perm=[0, 2, 1])
    n("Add", [n("Concat", [c("cls", 1, 1, 4), "tokens"], "all", axis=1), c("pos", 1, 5, 4)], "residual")
    n("Mul", [n("Div", ["residual", c("std", 1, 5, 1)], "div"), c("gamma", 4)], "mul")
    n("MatMul", [n("Add", ["mul", c("beta", 4)], "norm"), c("wqkv", 4, 12)], "product")
    n("Reshape", [n("Add", [c("bqkv", 12), "product"], "qkv"), c("s1", value=[1, 5, 3, 2, 2])], "parts")
    n("Transpose", [n("Split", ["parts"], "q0", axis=2, split=[1, 1, 1])], "q5", perm=[2, 0, 3, 1, 4])
    n("Mul", [n("Squeeze", ["q5"], "q", axes=[0]), c("scale", value=np.float32(0.7))], "scaled")
    n("MatMul", [n("MatMul", ["scaled", c("k_t", 1, 2, 2, 5)], "qk"), c("values", 1, 2, 5, 2)], "av")
    n("Reshape", [n("Transpose", ["av"], "turned", perm=[0, 2, 1, 3]), c("s2", value=[1, 5, 4])], "joined")
    n("Add", [c("bp", 4), n("MatMul", ["joined", c("wp", 4, 4)], "pm")], "projected")
    n("Add", ["residual", "projected"], "y")
    given = [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1, 3, 8, 8])]
    made = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5, 4])]
    graph = helper.make_graph(nodes, "g", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def test_a_crash_of_the_real_tool_is_reported(tmp_path: Path) -> None:
    inputs = example_inputs(tmp_path, "bayes-e")
    onnx.save(crashing(), inputs.graph.path)
    work = tmp_path / "work"
    work.mkdir()
    options = HbMapperOptions(optimize_level=OptimizeLevel.O0)
    with pytest.raises(StageError, match=r"crashed \(SIGSEGV\) in phase 'optimize the onnx model'") as raised:
        load_backend("hb_mapper").compile(StepContext(work, lambda event: None), inputs, options)
    kept = re.search(r"(/\S+)$", raised.value.hint or "")
    assert "the tool itself crashed" in (raised.value.hint or "") and kept and (Path(kept[1]) / "console.log").exists()
