"""Rounds, classify and layers: only the network is timed; answers match the images."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bpudeploy.digest import digest_file
from tests.agent.conftest import CLASSES, expected, write_model
from tests.agent.host import FakeBoard, Line, round_of
from tests.fakes.board.fixtures import Board


def of_kind(lines: list[Line], kind: str) -> list[Line]:
    return [line for line in lines if line["is"] == kind]


def test_frames_are_reported_every_second_between_conditions(board: FakeBoard, model: Path, samples: Path) -> None:
    with board.ready() as agent:
        loaded, _ = agent.load(model, samples, sha256=str(digest_file(model)).removeprefix("sha256:"))
        lines = agent.done("round", **round_of(min_seconds=2.3, first=49))
    assert loaded["images"] == 50 and loaded["batch"] == 1 and loaded["frames_timed"] is True
    assert loaded["driver"] == "onnxruntime" and loaded["runtime"].startswith("onnxruntime 1.")
    kinds = [line["is"] for line in lines]
    assert kinds == ["conditions", "frames", "conditions", "frames", "conditions", "frames", "conditions", "done"]
    done = lines[-1]
    assert sum(len(line["ms"]) for line in of_kind(lines, "frames")) == done["frames"] >= 5
    assert 2.3 <= done["seconds"] < 5 and done["ended"] - done["started"] == pytest.approx(done["seconds"])
    first, *_, last = [line["t"] for line in of_kind(lines, "conditions")]
    assert first <= done["started"] and last >= done["ended"]


def test_conditions_are_never_read_during_a_frame(board: FakeBoard, model: Path, samples: Path) -> None:
    """A sensor that takes 200 ms to read: a pipe. No frame or round of streams takes that long."""
    sensor = board.file("/sys/class/thermal/thermal_zone0/temp")
    sensor.unlink()
    os.mkfifo(sensor)

    def answer() -> None:
        while True:
            with sensor.open("w") as pipe:  # until somebody reads
                time.sleep(0.2)
                pipe.write("50000\n")
            time.sleep(0.01)  # or the same reader would get the next answer, too

    threading.Thread(target=answer, daemon=True).start()
    with board.ready() as agent:
        agent.load(model, samples)
        single = agent.done("round", **round_of(min_seconds=2.2))
        streams = agent.done("round", **round_of(min_seconds=0.1, streams=2))
    assert len(of_kind(single, "conditions")) == 4
    assert all(line["temperatures_c"]["pvt_cmn"] == 50.0 for line in of_kind(single + streams, "conditions"))
    assert max(ms for line in of_kind(single, "frames") for ms in line["ms"]) < 150
    before, after = of_kind(streams, "conditions")
    assert before["t"] + 0.15 < streams[-1]["started"] and streams[-1]["ended"] <= after["t"]
    assert streams[-1]["seconds"] < 0.25


@pytest.mark.parametrize("streams", [1, 2])
def test_it_ends_at_max_seconds_and_never_before_two_frames(
    board: FakeBoard, model: Path, samples: Path, streams: int
) -> None:
    with board.ready() as agent:
        agent.load(model, samples)
        many = agent.done("round", **round_of(min_frames=10**9, max_seconds=0.5, streams=streams))[-1]
        few = agent.done("round", **round_of(min_frames=10**9, max_seconds=0, streams=streams))[-1]
    assert 0.5 <= many["seconds"] < 2 and many["frames"] > 2
    assert few["frames"] >= 2


def test_streams_report_their_total(board: FakeBoard, model: Path, samples: Path) -> None:
    with board.ready() as agent:
        agent.load(model, samples)
        lines = agent.done("round", **round_of(min_frames=50, streams=4))
    assert [line["is"] for line in lines] == ["conditions", "conditions", "done"]
    assert lines[-1]["frames"] >= 50


def test_a_tool_that_generates_its_frames_is_called_several_times(
    board: FakeBoard, samples: Path, tool: tuple[Board, Path]
) -> None:
    x5, network = tool
    with board.ready(environment=x5.env()) as agent:
        loaded, _ = agent.load(network, samples, runtime="hobot_dnn", threads=0)
        assert loaded["driver"] == "hrt_model_exec" and loaded["frames_timed"] is False
        lines = agent.done("round", **round_of(warmup=0, min_frames=1000, max_seconds=20, streams=2))
        short = agent.done("round", **round_of(warmup=0, min_frames=1000, max_seconds=0))
    timed = of_kind(lines, "timed")
    assert [line["is"] for line in lines] == ["conditions", *["timed", "conditions"] * 5, "done"]
    assert sum(line["frames"] for line in timed) == lines[-1]["frames"] == 1000
    for line in timed:
        assert line["streams"] == 2 and 0 < line["min_ms"] <= line["mean_ms"] <= line["max_ms"] and line["fps"] > 0
    assert len(of_kind(short, "timed")) == 1


def test_a_failed_stream_fails_the_round_but_not_the_agent(board: FakeBoard, model: Path) -> None:
    """Images of the wrong size: the network loads, but no frame runs."""
    small = board.folder / "small.safetensors"
    save_file({"pixels": np.zeros((3, 4, 4, 3), np.uint8), "labels": np.zeros(3, np.int64)}, small)
    with board.ready() as agent:
        agent.load(model, small)
        for streams, warmup in (1, 0), (3, 0), (3, 2):
            assert "InvalidArgument" in agent.failure("round", **round_of(streams=streams, warmup=warmup))
        agent.done("conditions")


@pytest.mark.parametrize("batch", [1, 3])
def test_answers_and_logits_match_the_images(board: FakeBoard, samples: Path, pixels: np.ndarray, batch: int) -> None:
    model = write_model(board.folder / "m.onnx", batch)
    with board.ready() as agent:
        agent.load(model, samples)
        logits = agent.done("classify", first=4, last=50, top=1, logits=True)
        answers = agent.done("classify", first=4, last=50, top=3, logits=False)
    assert logits[-1] == answers[-1] == {"is": "done", "images": 46}
    values = np.array([row for line in logits[:-1] for row in line["values"]])
    np.testing.assert_allclose(values, expected(pixels, 4, 50), rtol=1e-4, atol=0.05)
    classes = np.array([row for line in answers[:-1] for row in line["classes"]])
    scores = np.array([row for line in answers[:-1] for row in line["scores"]])
    assert (classes == np.argsort(-values, axis=1, kind="stable")[:, :3]).all()
    assert (scores == np.take_along_axis(values, classes, 1)).all()
    at = 4
    for line in answers[:-1]:
        assert line["first"] == at and len(line["classes"]) < 32 + batch
        at += len(line["classes"])


def test_ties_are_sorted_by_class_and_top_is_limited_to_the_classes(board: FakeBoard, samples: Path) -> None:
    bias = [0.0, 2.0, 1.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    with board.ready() as agent:
        agent.load(write_model(board.folder / "m.onnx", bias=bias, weights=0.0), samples)
        answers, _ = agent.done("classify", first=0, last=1, top=1000, logits=False)
    assert answers["classes"] == [[1, 3, 2, 4, 0, 5, 6, 7, 8, 9]]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(board: FakeBoard, samples: Path, wrong: float) -> None:
    with board.ready() as agent:
        agent.load(write_model(board.folder / "m.onnx", bias=[wrong] * CLASSES), samples)
        assert agent.failure("classify", first=7, last=9, top=1, logits=True) == (
            "a logit of image 7 is not a finite number"
        )
        assert "images 40 to 51 of 50" in agent.failure("classify", first=40, last=51, top=1, logits=True)


def test_layers_are_named_and_the_profile_is_removed(board: FakeBoard, model: Path, samples: Path) -> None:
    with board.ready() as agent:
        agent.load(model, samples)
        line, _ = agent.done("layers", frames=20)
        assert not list(board.root.rglob("*profile*"))
        agent.bye()
    assert not list(board.root.iterdir())
    layers = line["layers"]
    ops = {layer["op"] for layer in layers}
    assert "Cast" in ops and {"Gemm", "MatMul"} & ops
    assert all(layer["where"] == "cpu" and 0 < layer["ms"] < 100 for layer in layers)


def test_unload_reports_peak_memory(board: FakeBoard, model: Path, samples: Path) -> None:
    with board.ready() as agent:
        assert agent.failure("round", **round_of()) == "no network is loaded"
        agent.load(model, samples)
        (done,) = agent.done("unload")
        assert 20 < done["peak_memory_mb"] < 2000
        assert agent.failure("layers", frames=1) == "no network is loaded"


def test_a_wrong_or_missing_model_is_refused(board: FakeBoard, model: Path, samples: Path) -> None:
    text = board.folder / "text.onnx"
    text.write_text("no network")
    with board.ready() as agent:
        (other,) = agent.load(model, samples, sha256="0" * 64)
        (none,) = agent.load(text, samples)
        (gone,) = agent.load(board.folder / "gone.onnx", samples)
        (unknown,) = agent.load(model, samples, runtime="tflite")
        assert "is not the file that was sent" in other["why"]
        assert "onnxruntime cannot load" in none["why"] and "onnxruntime cannot load" in gone["why"]
        assert "no driver for the runtime 'tflite'" in unknown["why"]
        assert agent.load(model, samples)[-1] == {"is": "done"}


def mutations(good: bytes) -> dict[str, bytes]:
    length = int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]

    def with_header(**changed: object) -> bytes:
        text = json.dumps({**header, **changed}).encode()
        return len(text).to_bytes(8, "little") + text + data

    pixels = header["pixels"]
    return {
        "empty": b"",
        "short": good[:-1],
        "long": good + b"\0",
        "header too long": (1 << 40).to_bytes(8, "little") + good[8:],
        "header no JSON": good[:8] + b"x" + good[9:],
        "header a list": (2).to_bytes(8, "little") + b"[]" + data,
        "no labels": with_header(labels=None),
        "floats": with_header(pixels={**pixels, "dtype": "F32"}),
        "another shape": with_header(pixels={**pixels, "shape": [50, 8, 3, 8]}),
        "a shape of no numbers": with_header(pixels={**pixels, "shape": [50.0, 8, 8, 3]}),
        "a negative shape": with_header(pixels={**pixels, "shape": [50, -8, -8, 3]}),
        "tensors that overlap": with_header(pixels={**pixels, "data_offsets": [0, 50 * 8 * 8 * 3]}),
        "fewer labels": with_header(labels={**header["labels"], "shape": [49]}),
    }


def test_invalid_samples_files_are_refused(board: FakeBoard, model: Path, samples: Path) -> None:
    with board.ready() as agent:
        for name, content in mutations(samples.read_bytes()).items():
            file = board.folder / "mutated.safetensors"
            file.write_bytes(content)
            (failed,) = agent.load(model, file)
            assert failed["is"] == "failed" and "is not a samples file" in failed["why"], (name, failed)
        (gone,) = agent.load(model, board.folder / "gone")
        assert "No such file" in gone["why"]
        agent.done("conditions")
