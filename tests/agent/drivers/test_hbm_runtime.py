"""The Python runtime of the S-series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpudeploy.agent.drivers import choose
from bpudeploy.agent.drivers.base import Refused
from bpudeploy.agent.drivers.hbm_runtime import open_session
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


@pytest.mark.parametrize(("input_type", "error"), [("nv12", NV12_ERROR), ("rgb-nhwc", 1e-5)])
@pytest.mark.parametrize("batch", [1, 2])
def test_logits_match_the_network(input_type: str, error: float, batch: int, fake_board: On, tmp_path: Path) -> None:
    board = fake_board("s100")
    session = open_session(artifact(tmp_path, board.march, input_type, batch=batch), 0)
    assert (session.driver, session.batch, session.times_frames) == ("hbm_runtime", batch, True)
    assert session.runtime == "hbm_runtime, libdnn 3.3.3_(4.1.17 HBRT)"
    for seed in range(10):
        pixels = pictures(batch, seed=seed)
        logits, right = session.infer(session.prepare(pixels)), expected(pixels, batch=batch)
        assert logits.dtype == np.float32 and logits.shape == (batch, 10)
        assert np.abs(logits - right).max() < error
        assert same_answer(logits, right)
    session.close()


def test_nv12_is_two_inputs_by_name(fake_board: On, tmp_path: Path) -> None:
    session = open_session(artifact(tmp_path, fake_board("s100").march), 0)
    fed = session.prepare(pictures())
    assert {n: (a.shape, a.dtype.name) for n, a in fed["model"].items()} == {
        "pixels_y": ((1, 16, 24, 1), "uint8"),
        "pixels_uv": ((1, 8, 12, 2), "uint8"),
    }


@pytest.mark.parametrize("reserved", [0, 4])
def test_streams_run_in_parallel_with_one_runtime_each(reserved: int, fake_board: On, tmp_path: Path) -> None:
    session = open_session(artifact(tmp_path, fake_board("s100").march, "rgb-nhwc"), 0)
    session.reserve(reserved)
    assert_streams_are_independent(session)


@pytest.mark.parametrize("scales", [(0.001,), tuple(0.001 * (i + 1) for i in range(10))])
@pytest.mark.parametrize("output", ["int32", "int16"])
def test_integers_are_scaled(output: str, scales: tuple[float, ...], fake_board: On, tmp_path: Path) -> None:
    path = artifact(tmp_path, fake_board("s100").march, "rgb-nhwc", output=output, scales=scales)
    session, pixels = open_session(path, 0), pictures()
    assert np.abs(session.infer(session.prepare(pixels)) - expected(pixels)).max() <= max(scales) / 2 + 1e-4


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"input_type": "rgb-nchw"}, r"pixels U8 \(1, 3, 16, 24\)"),
        ({"output": "int32", "scales": ()}, "S32 with no scale"),
        ({"output": "int32", "scales": (0.1, 0.2)}, "2 scales for 10 classes"),
    ],
)
def test_unsupported_inputs_and_outputs_are_refused(
    made: dict[str, Any], why: str, fake_board: On, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=why):
        session = open_session(artifact(tmp_path, fake_board("s100").march, **made), 0)
        session.infer(session.prepare(pictures()))


@pytest.mark.parametrize("height", [16, 32])
def test_the_hbm_runtime_of_x5_runs_a_bin(height: int, fake_board: On, tmp_path: Path) -> None:
    board = fake_board("x5", runtimes=("hbm_runtime",))
    path = artifact(tmp_path, board.march, height=height, width=32)
    session = choose.open_session("hobot_dnn", path, 0)
    assert (session.driver, session.batch, session.parallel) == ("hbm_runtime", 1, False)
    pixels = pictures(height=height, width=32)
    fed = session.prepare(pixels)
    assert fed["model"]["pixels"].shape == (1, height * 3 // 2, 32, 1)
    logits, right = session.infer(fed), expected(pixels, height=height, width=32)
    assert np.abs(logits - right).max() < NV12_ERROR and same_answer(logits, right)


def test_x5_with_both_runtimes_uses_hobot_dnn(fake_board: On, tmp_path: Path) -> None:
    board = fake_board("x5", runtimes=("hbm_runtime", "hobot_dnn"))
    assert choose.open_session("hobot_dnn", artifact(tmp_path, board.march), 0).driver == "hobot_dnn"


def test_unaligned_rows_on_x5_are_refused(fake_board: On, tmp_path: Path) -> None:
    board = fake_board("x5", runtimes=("hbm_runtime",), tools=())
    with pytest.raises(Refused, match="24 pixels wide"):
        choose.open_session("hobot_dnn", artifact(tmp_path, board.march), 0)


def test_the_s_series_build_loads_no_bin(fake_board: On, tmp_path: Path) -> None:
    fake_board("s100", tools=())
    with pytest.raises(Refused, match=r"no hobot_dnn: .*no hobot_dnn_rdkx5: .*hbm_runtime loads no \.bin"):
        choose.open_session("hobot_dnn", artifact(tmp_path, "bayes-e"), 0)


def test_an_artifact_of_another_chip_is_not_loaded(fake_board: On, tmp_path: Path) -> None:
    path = artifact(tmp_path, "nash-m")
    fake_board("s100")
    with pytest.raises(Refused, match="cannot load the file") as refused:
        open_session(path, 0)
    assert "march" in refused.value.hint
    with pytest.raises(Refused, match="does not exist"):
        open_session(str(tmp_path / "none.hbm"), 0)
    with pytest.raises(Refused, match="no setting for CPU threads"):
        open_session(path, 4)


def test_a_missing_runtime_is_refused(fake_board: On) -> None:
    fake_board("s100", runtimes=())
    with pytest.raises(Refused, match="has no hbm_runtime"):
        open_session("net.hbm", 0)


def test_the_tool_times_and_profiles(fake_board: On, tmp_path: Path) -> None:
    board = fake_board("s100")
    session = open_session(artifact(tmp_path, board.march), 0)
    said = session.timed(50, 1)
    assert (said.frames, said.streams, said.mean_ms) == (50, 1, 2.0)
    assert [layer.where for layer in session.layers([1, 2])] == ["bpu", "runtime"]


def test_the_fake_binding_checks_what_the_real_one_checks(fake_board: On, tmp_path: Path) -> None:
    import importlib

    path = artifact(tmp_path, fake_board("s100").march)
    runtime = importlib.import_module("hbm_runtime").HB_HBMRuntime(path)
    y, uv = np.zeros((1, 16, 24, 1), np.uint8), np.zeros((1, 8, 12, 2), np.uint8)
    for inputs, why in [
        ({"pixels_y": y.astype(np.float32), "pixels_uv": uv}, "Data type mismatch for input tensor 'pixels_y'"),
        ({"pixels_y": y[0], "pixels_uv": uv}, "Mismatch in tensor dimensions"),
        ({"pixels_y": y[:, :8], "pixels_uv": uv}, "Mismatch in tensor dimension at index 1"),
        ({"image_y": y, "pixels_uv": uv}, 'Input name "image_y" is invalid'),
    ]:
        with pytest.raises(RuntimeError, match=why):
            runtime.run({"model": inputs})
