"""The Python runtime of X3 and X5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpudeploy.agent.drivers import choose
from bpudeploy.agent.drivers.base import Refused
from bpudeploy.agent.drivers.hobot_dnn import open_session
from tests.agent.drivers.small import (
    NV12_ERROR,
    artifact,
    assert_streams_are_independent,
    expected,
    pictures,
    same_answer,
)
from tests.fakes.board.fixtures import Board

On = Callable[..., Board]


@pytest.mark.parametrize(
    ("name", "input_type", "error"),
    [("x5", "nv12", NV12_ERROR), ("x3", "nv12", NV12_ERROR), ("x3", "rgb-nhwc", 1e-5), ("x3", "rgb-nchw", 1e-5)],
)
def test_logits_match_the_network(name: str, input_type: str, error: float, fake_board: On, tmp_path: Path) -> None:
    board = fake_board(name)
    session = open_session(artifact(tmp_path, board.march, input_type), 0)
    assert (session.driver, session.batch, session.times_frames) == ("hobot_dnn", 1, True)
    for seed in range(20):
        pixels = pictures(seed=seed)
        logits, right = session.infer(session.prepare(pixels)), expected(pixels)
        assert logits.dtype == np.float32 and logits.shape == (1, 10)
        assert np.abs(logits - right).max() < error
        assert same_answer(logits, right)
    session.close()


def test_outputs_are_copied_before_the_next_frame(fake_board: On, tmp_path: Path) -> None:
    session = open_session(artifact(tmp_path, fake_board("x3").march, "rgb-nhwc"), 0)
    first, second = pictures(seed=1), pictures(seed=2)
    kept = session.infer(session.prepare(first))
    session.infer(session.prepare(second))
    assert np.allclose(kept, expected(first), atol=1e-5)


def test_parallel_streams_get_their_own_outputs(fake_board: On, tmp_path: Path) -> None:
    session = open_session(artifact(tmp_path, fake_board("x3").march, "rgb-nhwc"), 0)
    assert_streams_are_independent(session)


@pytest.mark.parametrize(("output", "scale"), [("int32", 1e-3), ("int8", 0.05)])
def test_integers_are_scaled(output: str, scale: float, fake_board: On, tmp_path: Path) -> None:
    path = artifact(tmp_path, fake_board("x3").march, "rgb-nhwc", output=output, scales=(scale,))
    session, pixels = open_session(path, 0), pictures()
    assert np.abs(session.infer(session.prepare(pixels)) - expected(pixels)).max() <= scale / 2 + 1e-5


def test_each_class_may_have_a_scale(fake_board: On, tmp_path: Path) -> None:
    scales = tuple(0.001 * (i + 1) for i in range(10))
    path = artifact(tmp_path, fake_board("x3").march, "rgb-nhwc", output="int32", scales=scales)
    session, pixels = open_session(path, 0), pictures()
    assert np.abs(session.infer(session.prepare(pixels)) - expected(pixels)).max() <= 0.0051


def test_a_batch_of_rgb_is_one_frame(fake_board: On, tmp_path: Path) -> None:
    session = open_session(artifact(tmp_path, fake_board("x3").march, "rgb-nhwc", batch=2), 0)
    pixels = pictures(2)
    assert session.batch == 2
    assert np.allclose(session.infer(session.prepare(pixels)), expected(pixels, batch=2), atol=1e-5)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"input_type": "nv12", "batch": 2}, "NV12 with batch size 2"),
        ({"output": "int16"}, "the output is int16"),
        ({"input_type": "rgb-nhwc"}, "sets RGB values below 128 to 0"),
        ({"output": "int32", "scales": (0.1, 0.2)}, "2 scales for 10 classes"),
    ],
)
def test_unsupported_inputs_and_outputs_are_refused(
    made: dict[str, Any], why: str, fake_board: On, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=why):
        session = open_session(artifact(tmp_path, fake_board("x5").march, **made), 0)
        session.infer(session.prepare(pictures()))


def test_images_of_another_size_or_dtype_are_refused(fake_board: On, tmp_path: Path) -> None:
    session = open_session(artifact(tmp_path, fake_board("x5").march), 0)
    with pytest.raises(Refused, match=r"takes uint8 \(1, 16, 24, 3\), the samples are uint8 \(1, 24, 16, 3\)"):
        session.prepare(np.zeros((1, 24, 16, 3), np.uint8))
    with pytest.raises(Refused, match="float32"):
        session.prepare(np.zeros((1, 16, 24, 3), np.float32))


def test_an_artifact_of_another_chip_fails_at_the_first_frame(fake_board: On, tmp_path: Path, capfd: Any) -> None:
    path = artifact(tmp_path, "bernoulli2")
    fake_board("x5")
    session = open_session(path, 0)
    with pytest.raises(Refused, match="forward failed: hbDNNInfer failed") as refused:
        session.infer(session.prepare(pictures()))
    assert "march" in refused.value.hint
    assert "Incompatible Platform!!" in capfd.readouterr().out, "the library writes to the process's own output"


def test_a_missing_runtime_and_a_missing_file_are_refused(fake_board: On, tmp_path: Path) -> None:
    fake_board("x5", runtimes=())
    with pytest.raises(Refused, match="has no hobot_dnn") as refused:
        open_session("net.bin", 0)
    assert "system" in refused.value.hint


def test_an_invalid_file_is_refused(fake_board: On, tmp_path: Path) -> None:
    fake_board("x5")
    with pytest.raises(Refused, match="hbDNNInitializeFromFiles failed"):
        open_session(str(tmp_path / "none.bin"), 0)
    with pytest.raises(Refused, match="no setting for CPU threads"):
        open_session(str(tmp_path / "none.bin"), 2)


def test_the_tool_times_and_profiles(fake_board: On, tmp_path: Path) -> None:
    board = fake_board("x5")
    board.set(latency_ms=3.5)
    session = open_session(artifact(tmp_path, board.march), 0)
    said = session.timed(300, 2)
    assert (said.frames, said.streams, said.mean_ms) == (400, 2, 3.5) and said.min_ms < 3.5 < said.max_ms
    fed = session.prepare(pictures())
    assert [layer.where for layer in session.layers([fed])] == ["bpu", "cpu", "runtime", "runtime", "runtime"]


def test_without_the_tool_only_frames_are_timed(
    fake_board: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = fake_board("x5", tools=())
    monkeypatch.setenv("PATH", str(board.bin))
    session = open_session(artifact(tmp_path, board.march), 0)
    assert session.layers([]) == []
    with pytest.raises(Refused, match="no hrt_model_exec"):
        session.timed(200, 1)


def test_the_binding_from_pypi_is_found_by_its_name(fake_board: On, tmp_path: Path) -> None:
    board = fake_board("x5", runtimes=("hobot_dnn_rdkx5",))
    session = choose.open_session("hobot_dnn", artifact(tmp_path, board.march), 0)
    assert session.driver == "hobot_dnn" and session.runtime.startswith("hobot_dnn_rdkx5")
    pixels = pictures()
    assert same_answer(session.infer(session.prepare(pixels)), expected(pixels))


def test_rgb_on_x5_is_run_by_the_tool(fake_board: On, tmp_path: Path) -> None:
    board = fake_board("x5", runtimes=("hobot_dnn", "hbm_runtime"))
    session, pixels = choose.open_session("hobot_dnn", artifact(tmp_path, board.march, "rgb-nhwc"), 0), pictures()
    assert session.driver == "hrt_model_exec"
    assert np.allclose(session.infer(session.prepare(pixels)), expected(pixels), atol=1e-5)
