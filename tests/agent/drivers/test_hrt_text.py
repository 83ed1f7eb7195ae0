"""Parsing the tool's output in all known formats; damaged text never parses to other values."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpudeploy.agent.drivers import hrt_model_exec, hrt_profile, hrt_text
from bpudeploy.agent.drivers.base import Layer, ToolTiming
from bpudeploy.agent.somstatus import parse

HERE = Path(__file__).parent / "fixtures"


def text(name: str) -> str:
    return (HERE / name).read_text()


@pytest.mark.parametrize(
    ("name", "frames", "streams", "said"),
    [
        ("perf_x5.txt", 200, 1, (12.42857, 6.258, 13.361, 80.263811)),
        ("perf_x5_4threads.txt", 200, 4, (21.25876, 6.904, 22.173, 186.47271)),
        ("perf_x3_8threads.txt", 200, 8, (11.506143, 4.011, 12.004, 677.619253)),
        ("perf_s100.txt", 200, 1, (14.245, 13.9, 38.879002, 69.894)),
        ("perf_s600.txt", 400, 2, (0.719, 0.694, 1.122, 2731.494)),
        ("perf_h_8threads.txt", 200, 8, (5.26216, 1.636, 5.498, 1465.845793)),
    ],
)
def test_perf_is_parsed_in_every_format(name: str, frames: int, streams: int, said: tuple[float, ...]) -> None:
    assert hrt_model_exec.parse_timing(text(name), frames, streams) == ToolTiming(frames, streams, *said)


@pytest.mark.parametrize("name", ["perf_x3.txt", "perf_condensed.txt", "perf_condensed_3threads.txt"])
def test_a_summary_without_progress_has_no_min_and_max(name: str) -> None:
    said = hrt_text.perf(text(name))
    assert said.frames == 200 and said.min_ms is None and said.max_ms is None
    with pytest.raises(ValueError, match="the fastest and the slowest"):
        hrt_model_exec.parse_timing(text(name), 200, said.streams)


def test_a_result_of_another_run_is_refused() -> None:
    with pytest.raises(ValueError, match="200 frames ran in 8 threads, not 200 in 16"):
        hrt_model_exec.parse_timing(text("perf_h_8threads.txt"), 200, 16)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("80.263811 FPS", "160.527622 FPS", r"200 frames in 2491\.783000 ms, 160"),
        ("is: 12.428570 ms", "is: 6.214285 ms", r"2485\.713867 ms over 200 frames"),
        ("Thread number is: 1", "Thread number is: 2", r"1\.00 frames in flight, but 2 threads"),
        ("min latency: 6.258000", "min latency: 12.900000", "min 12.9, average 12.42857"),
        ("Frame count: 200,", "Frame count: 100,", "not of the last frame"),
        ("Perf result:", "Perf results:", "line 13: cannot parse 'Perf results:'"),
        ("  Frame count   is: 200\n", "", "no line"),
        ("Frame      rate", "Frame      rate       is: 1.0 FPS\n  Frame      rate", "inconsistent|duplicate"),
    ],
)
def test_inconsistent_perf_output_is_refused(old: str, new: str, why: str) -> None:
    assert text("perf_x5.txt").count(old) == 1
    with pytest.raises(ValueError, match=why):
        hrt_text.perf(text("perf_x5.txt").replace(old, new))


def test_a_malformed_summary_names_the_line() -> None:
    with pytest.raises(ValueError, match=r"line 7: cannot parse 'Average    latency    is: 40\.36\.3396 ms'"):
        hrt_text.perf(text("perf_broken.txt"))


def test_model_info_of_x5_has_one_packed_input() -> None:
    info = hrt_text.model_info(text("model_info_x5.txt"))
    assert (info.model, info.runtime) == ("yolov8n_detect_bayese_640x640_nv12", "1.23.10_(3.15.54 HBRT)")
    (given,), (out,) = info.inputs, info.outputs
    assert (given.name, given.kind, given.layout, given.shape) == ("images", "NV12", "NCHW", (1, 3, 640, 640))
    assert (out.kind, out.layout, out.aligned_bytes, out.stride) == ("F32", "NHWC", 1638400, (1638400, 20480, 256, 4))


def test_model_info_of_x3_has_a_scale_for_each_channel() -> None:
    (out,) = hrt_text.model_info(text("model_info_x3_scale.txt")).outputs
    assert out.kind == "S32" and out.axis == 1 and len(out.scales) == 21 and out.scales[-1] == 0.00110989


def test_model_info_of_the_s_series_has_two_planes() -> None:
    info = hrt_text.model_info(text("model_info_h.txt"))
    assert [(t.name, t.kind, t.shape, t.aligned_bytes) for t in info.inputs] == [
        ("input_y", "U8", (1, 224, 224, 1), -1),
        ("input_uv", "U8", (1, 112, 112, 2), -1),
    ]
    (out,) = info.outputs
    assert (out.shape, out.aligned_bytes, out.stride, out.layout) == ((1, 1000), 4096, (4000, 4), None)


def test_model_info_of_newer_images_has_no_trailing_comma() -> None:
    info = hrt_text.model_info(text("model_info_h_scale.txt"))
    assert info.inputs[0].scales == (0.00771821,) and info.outputs[0].shape == (1, 200, 200, 16)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("stride: (4000,4,)", "stride: (4000,4,)\ncolour: red", "line 30: cannot parse 'colour: red'"),
        ("has 1 model:", "has 2 models:", "does not describe exactly one model"),
        ("TYPE_F32", "TYPE_F8", "tensor type 'HB_DNN_TENSOR_TYPE_F8'"),
        ("TENSOR_TYPE_F32", "IMG_TYPE_F32", "tensor type 'HB_DNN_IMG_TYPE_F32'"),
        ("output[0]:", "output[1]:", "out of order"),
        ("size: 4096", "size: 3996", "3996 bytes do not hold"),
        ("quanti type: NONE\nstride: (4000", "quanti type: SCALE\nstride: (4000", "quantized by 'SCALE'"),
    ],
)
def test_malformed_model_info_is_refused(old: str, new: str, why: str) -> None:
    assert text("model_info_h.txt").count(old) == 1
    with pytest.raises(ValueError, match=why):
        hrt_text.model_info(text("model_info_h.txt").replace(old, new))


def test_the_profile_of_x3_has_a_device_for_each_part() -> None:
    assert hrt_profile.layers(text("profiler_x3.log"), 1, 200) == [
        Layer("BPU_MOBILENET_subgraph_0", None, "bpu", 3.42556),
        Layer("Dequantize_fc7_1_HzDequantize", "Dequantize", "cpu", 0.12307),
        Layer("MOBILENET_subgraph_0_output_layout_convert", None, "runtime", 0.025945),
        Layer("Preprocess", None, "runtime", 0.009245),
        Layer("Softmax_prob", "Softmax", "cpu", 0.13366999999999998),
        Layer("TaskPendingTime", None, "runtime", 0.04952),
    ]


def test_the_profile_of_the_s_series_has_stages() -> None:
    core, around = hrt_profile.layers(text("profiler_h.log"), 1, 200)
    assert (core.where, core.ms) == ("bpu", 1.81)
    assert around.where == "runtime" and around.ms == pytest.approx(0.213)


def test_a_profile_with_queued_frames_is_refused() -> None:
    """The vendor's document claims one thread; its BPU time is three times that of the fastest frame."""
    with pytest.raises(ValueError, match=r"7\.80 frames in flight, but 1 threads ran"):
        hrt_profile.layers(text("profiler_x3_env.log"), 1, 200)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("***", "**", "0 lines of"),
        ('"avg_time": 0.12307', '"avg_time": 0.18307', "has min|nodes take"),
        ('"thread_num": 1', '"thread_num": 4', "in 4 threads, not of 200 in 1"),
        ('"avg_time": 0.04952', '"avg_time": 0.54952', "TaskPendingTime has min"),
        ('"Preprocess"', '"Softmax_prob"', "duplicate"),
        ('"avg_time": 0.009245', '"avg_time": "0.009245"', "has avg_time '0.009245'"),
    ],
)
def test_an_inconsistent_profile_is_refused(old: str, new: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        hrt_profile.layers(text("profiler_x3.log").replace(old, new), 1, 200)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "[BPU_PLAT]Make sure inst Suport (X5) Platform!!\n[BPU_PLAT]Incompatible Platform!!\nx failed",
            "Incompatible",
        ),
        ("fine\nhbDNNWaitTaskDone failed\n", "hbDNNWaitTaskDone failed"),
        ("[E][DNN] something", "something"),
        ("ERROR: unknown command line flag 'x'", "unknown command line flag"),
    ],
)
def test_failures_are_recognized(said: str, line: str) -> None:
    assert line in (hrt_text.failure(said) or "")


@pytest.mark.parametrize("path", sorted(HERE.glob("perf_*.txt")), ids=lambda p: p.name)
def test_a_successful_run_has_no_failure(path: Path) -> None:
    assert hrt_text.failure(path.read_text()) is None


# Damage --------------------------------------------------------------------------------------------------------------


def _perf(said: str) -> Any:
    return hrt_text.perf(said)


def _timed(said: str) -> Any:
    loose = hrt_text.perf(said)
    return hrt_model_exec.parse_timing(said, loose.frames, loose.streams)


def _info(said: str) -> Any:
    """Everything but names and the library's version, which have no redundancy."""
    info = hrt_text.model_info(said)
    return [
        (t.shape, t.kind, t.layout, t.aligned_shape, t.aligned_bytes, t.scales, t.zeros, t.axis)
        for t in (*info.inputs, *info.outputs)
    ]


def _layers(said: str) -> Any:
    return [(layer.where, layer.ms) for layer in hrt_profile.layers(said, 1, 200) if layer.name != "TaskPendingTime"]


READERS: dict[str, Callable[[str], Any]] = {
    **{p.name: _timed for p in HERE.glob("perf_*.txt") if "Frame count: " in p.read_text()},
    **{p.name: _perf for p in HERE.glob("perf_[xc]*.txt") if "Frame count: " not in p.read_text()},
    **{p.name: _info for p in HERE.glob("model_info_*.txt")},
    **dict.fromkeys(("profiler_x3.log", "profiler_h.log"), _layers),
}


def damaged(original: str, dice: random.Random) -> str:
    """Return a text with up to three defects: a line dropped, doubled or cut, a character overwritten, the end lost."""
    made = original
    for _ in range(dice.randint(1, 3)):
        lines = made.splitlines(keepends=True)
        if not lines:
            break
        i = dice.randrange(len(lines))
        kind = dice.choice(["drop", "double", "cut", "overwrite", "end"])
        if kind == "drop":
            del lines[i]
        elif kind == "double":
            lines.insert(i, lines[i])
        elif kind == "cut":
            lines[i] = lines[i][: dice.randrange(len(lines[i]))] + "\n"
        elif kind == "overwrite":
            j = dice.randrange(len(lines[i]))
            lines[i] = lines[i][:j] + dice.choice("#~?\0\n é") + lines[i][j + 1 :]
        made = "".join(lines)
        if kind == "end":
            made = made[: dice.randrange(len(made) + 1)]
    return made


@pytest.mark.parametrize("name", sorted(READERS))
def test_damaged_text_parses_to_the_same_values_or_not_at_all(name: str) -> None:
    original, read, dice = text(name), READERS[name], random.Random(name)
    right = read(original)
    refused = 0
    for _ in range(1500):
        made = damaged(original, dice)
        try:
            found = read(made)
        except ValueError:
            refused += 1
            continue
        assert found == right, made
    assert refused > 300, "the damage is real"


@pytest.mark.parametrize("name", ["perf_x5.txt", "perf_s100.txt", "perf_s600.txt", "perf_condensed.txt"])
def test_a_wrong_digit_changes_no_number_much(name: str) -> None:
    """None of mean, rate, frames and streams can change alone: they are redundant."""
    original, dice = text(name), random.Random(name)
    right = hrt_text.perf(original)
    digits = [i for i, c in enumerate(original) if c.isdigit() and i > original.index("Running condition")]
    for i in digits:
        made = original[:i] + dice.choice("0123456789") + original[i + 1 :]
        try:
            found = hrt_text.perf(made)
        except ValueError:
            continue
        assert (found.frames, found.streams) == (right.frames, right.streams)
        assert found.mean_ms == pytest.approx(right.mean_ms, rel=0.002)
        assert found.fps == pytest.approx(right.fps, rel=0.03)


@pytest.mark.parametrize("path", sorted(HERE.glob("somstatus_*.txt")), ids=lambda p: p.name)
def test_a_damaged_status_may_lose_sensors_but_changes_none(path: Path) -> None:
    original, dice = path.read_text(), random.Random(path.name)
    right = parse(original)
    for _ in range(1500):
        made = damaged(original, dice)
        try:
            found = parse(made)
        except ValueError:
            continue
        for kind, sensors in found.items():
            for sensor, value in sensors.items():
                if kind == "temperatures_c":
                    assert value in right[kind].values(), made  # nothing else says its name
                elif kind != "bpu_busy":  # nothing else says how busy
                    assert right[kind][sensor] == value, made
