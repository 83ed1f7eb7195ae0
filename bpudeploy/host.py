"""This machine's onnxruntime: one way to open a session, for proofs, calibration and scores."""

from __future__ import annotations

import os
from typing import Any


def open_session(model: str | bytes) -> Any:
    """Return an InferenceSession of a file or of serialised bytes: CPU, every core, errors only in its log."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
