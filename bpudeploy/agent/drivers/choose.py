"""Choose the driver for a network: an installed Python runtime, or else the vendor's command line tool."""

from __future__ import annotations

import importlib

from ..processes import find_tool
from . import hrt_model_exec
from .base import Refused, Session, Unsuitable

_DRIVERS = {
    "hobot_dnn": (("hobot_dnn", "hobot_dnn"), ("hobot_dnn", "hobot_dnn_rdkx5"), ("hbm_runtime", ".bin")),
    "hbm_runtime": (("hbm_runtime", ".hbm"),),
}
"""By runtime: a driver, and the package or file suffix that it is opened with. Order of preference."""


def open_session(runtime: str, model: str, threads: int) -> Session:
    """Open a network that was compiled for ``runtime``, importing only the driver in use.

    The driver of a runtime that is not ours is the file that its backend sent along.

    A .bin (``hobot_dnn``) runs on hobot_dnn, the package of X3, Ultra and X5; on hobot_dnn_rdkx5, the same for X5 from
    PyPI; or on the hbm_runtime of X5's OS 3.5 and later. hobot_dnn is preferred: X5's hbm_runtime ignores the status
    of a BPU task. A .hbm (``hbm_runtime``) runs on the S series' hbm_runtime.

    Raises:
        Refused: the runtime is missing, or cannot load the file.
    """
    if runtime not in _DRIVERS:
        try:
            driver = importlib.import_module(".ort" if runtime == "onnxruntime" else f".{runtime}", __package__)
        except ImportError as error:
            hint = "use onnxruntime, hobot_dnn or hbm_runtime, or give the backend a driver"
            raise Refused(f"no driver for the runtime {runtime!r}: {error}", hint) from error
        added: Session = driver.open_session(model, threads)
        return added
    errors = []
    for name, variant in _DRIVERS[runtime]:
        try:
            session: Session = importlib.import_module(f".{name}", __package__).open_session(model, threads, variant)
            return session
        except Unsuitable as error:
            errors.append(error)
    if find_tool(hrt_model_exec.NAME) is not None:
        return hrt_model_exec.open_session(model, threads)
    raise Unsuitable("; ".join(map(str, errors)), f"{errors[0].hint}; and there is no hrt_model_exec on PATH")
