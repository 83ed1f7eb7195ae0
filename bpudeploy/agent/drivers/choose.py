"""Which driver opens a network: the runtime's Python module, or its command line tool where the board lacks that."""

from __future__ import annotations

import importlib.util

from .base import Refused, Session


def open_session(runtime: str, model: str, threads: int) -> Session:
    """Open a network with ``runtime``: onnxruntime, hobot_dnn or hbm_runtime. Only what is used is imported.

    Raises:
        Refused: the board lacks the runtime, or the file is none of it.
    """
    if runtime == "onnxruntime":
        from . import ort

        return ort.open_session(model, threads)
    if runtime not in ("hobot_dnn", "hbm_runtime"):
        raise Refused(f"no driver for the runtime {runtime!r}", "onnxruntime, hobot_dnn or hbm_runtime")
    if importlib.util.find_spec(runtime) is None:
        from . import hrt_model_exec

        if hrt_model_exec.find() is not None:
            return hrt_model_exec.open_session(model, threads)
    if runtime == "hobot_dnn":
        from . import hobot_dnn

        return hobot_dnn.open_session(model, threads)
    from . import hbm_runtime

    return hbm_runtime.open_session(model, threads)
