"""Which driver opens a network: a runtime's Python module that the board has, or else its command line tool."""

from __future__ import annotations

from . import hrt_model_exec
from .base import Refused, Session, Unsuitable


def open_session(runtime: str, model: str, threads: int) -> Session:
    """Open a network that was compiled for ``runtime``; only what is used is imported.

    A .bin (``hobot_dnn``) runs on hobot_dnn, as X3, Ultra and X5 have it; on hobot_dnn_rdkx5, the same for X5 from a
    registry; or on the hbm_runtime of X5's OS 3.5 and later. hobot_dnn comes first where a board has both: X5's
    hbm_runtime does not look at how a task on the BPU ended. A .hbm (``hbm_runtime``) runs on the S series' own.

    Raises:
        Refused: the board lacks the runtime, or the file is none of it.
    """
    if runtime == "onnxruntime":
        from . import ort

        return ort.open_session(model, threads)
    if runtime not in ("hobot_dnn", "hbm_runtime"):
        raise Refused(f"no driver for the runtime {runtime!r}", "onnxruntime, hobot_dnn or hbm_runtime")
    unsuitable = []
    for opened in (_hobot_dnn, _hobot_dnn_rdkx5, _hbm_runtime_bin) if runtime == "hobot_dnn" else (_hbm_runtime,):
        try:
            return opened(model, threads)
        except Unsuitable as error:
            unsuitable.append(error)
    if hrt_model_exec.find() is not None:
        return hrt_model_exec.open_session(model, threads)
    raise Unsuitable("; ".join(map(str, unsuitable)), f"{unsuitable[0].hint}; and there is no hrt_model_exec on PATH")


def _hobot_dnn(model: str, threads: int) -> Session:
    from . import hobot_dnn

    return hobot_dnn.open_session(model, threads)


def _hobot_dnn_rdkx5(model: str, threads: int) -> Session:
    from . import hobot_dnn

    return hobot_dnn.open_session(model, threads, "hobot_dnn_rdkx5")


def _hbm_runtime(model: str, threads: int) -> Session:
    from . import hbm_runtime

    return hbm_runtime.open_session(model, threads)


def _hbm_runtime_bin(model: str, threads: int) -> Session:
    from . import hbm_runtime

    return hbm_runtime.open_session(model, threads, ".bin")
